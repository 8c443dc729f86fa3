"""Faults of every kind met with are refused in one line, before anything runs.

Of each kind a few; what a plug-in returns is a module written for its case.
"""

import importlib
import math
import subprocess
import sys

import numpy as np
import pytest

from genrep_jax import data, train
from genrep_jax.lib import (
  configs,
  contracts,
  errors,
  execution,
  experiment,
  options,
  plugins,
)
from tests import support

NUMBER = "a finite number"


@pytest.mark.parametrize(
  "override, allowed",
  [
    ("seed=-1", "an integer in 0..4294967295"),
    ("seed=4294967296", "an integer in 0..4294967295"),
    ("seed=1.0", "an integer"),
    ("global_batch=1", "an integer in 2.."),
    ("stop_at_step=-1", "an integer >= 0"),
    ("views.num_views=100000", "an integer in 1..64"),
    ("views.pixel_on=(0,0)", "each once"),
    ("views.rendering_of=(0.0,1.0)", "each an integer"),
    ("views.rendering_of=(1,2)", "counted from 0 without gaps"),
    ("views.latent.sigma=nan", NUMBER),
    ("views.latent.sigma=inf", NUMBER),
    ("views.latent.sigma=1e39", NUMBER),
    ("views.pixel.mean=(nan,)", f"each {NUMBER}"),
    ("views.pixel.mean=('a',)", f"each {NUMBER}"),
    ("views.pixel.scale=(0.9,0.1)", "the first not above the second"),
    ("views.pixel.crop_px=1", "not 1, 2 or 3"),
    ("encoder.width=nan", NUMBER),
    ("encoder.width=1e9", NUMBER),
    ("generator.latent_dim=1000000000000", "an integer in 1..65536"),
    ("generator.widths=(0,0)", "each an integer in 1..16384"),
    ("generator.widths=8", "a tuple"),
    ("generator.extra_convs=(-1,0)", "each an integer in 0..16"),
    ("generator.truncation=inf", NUMBER),
    ("generator.render_chunk=-1", "an integer >= 0"),
    ("generator.sha256=abc", "64 hexadecimal digits"),
    ("objective.temperature=1e30", NUMBER),
    ("objective.temperature=1e-30", NUMBER),
    ("optimizer.eps=inf", NUMBER),
    ("optimizer.learning_rate=1e30", NUMBER),
    ("optimizer.decay_exclude='bias'", "a tuple, each a regular expression"),
    ("optimizer.decay_exclude=('(',)", "a tuple, each a regular expression"),
    ("ema_decay=nan", NUMBER),
    ("ema_final_decay=nan", NUMBER),
    ("evaluations.knn.temperature=nan", NUMBER),
    ("evaluations.knn.batch=1000000000000", "an integer in 1..65536"),
    ("evaluations.knn.every_steps=-2", "an integer >= -1"),
    ("evaluations.linear.l2=0.1", "a tuple of at least 1"),
    ("evaluations.linear.seed=-1", "an integer >= 0"),
    ("encoder.name=../x", "a dotted module name"),
    ("encoder.name=..", "a dotted module name"),
    ("data.name=.x", "a dotted module name"),
    ("title=\udcff", "a text"),
    ("distributed.coordinator=nonsense", "empty, or host:port"),
    ("distributed.coordinator=a:b:c", "empty, or host:port"),
    ("distributed.coordinator=a:0", "empty, or host:port"),
    ("distributed.coordinator=a:65536", "empty, or host:port"),
    ("distributed.coordinator=:80", "empty, or host:port"),
    ("distributed.coordinator=::1:80", "empty, or host:port"),
    ("distributed.start_seconds=0", "an integer in 1..86400"),
    ("distributed.lost_seconds=9", "an integer in 10..86400"),
  ],
)
def test_an_option(override, allowed):
  key = override.partition("=")[0]
  with pytest.raises(errors.UsageError) as error:
    support.tiny(override)
  line = str(error.value)
  assert line.startswith(f"{key}: given ") and "; allowed: " in line, line
  assert allowed in line and line.isprintable(), line


@pytest.mark.parametrize(
  "overrides, words",
  [
    (["schedule.warmup_steps=100"], ["schedule.warmup_steps", "20 steps"]),
    (
      ["schedule.name=step", "schedule.milestone_steps=(100,)"],
      ["schedule.milestone_steps", "(100,)", "20"],
    ),
    (["generator.sha256=" + "0" * 64], ["generator.sha256", "without weights"]),
    (["encoder.sha256=" + "0" * 64], ["encoder.sha256", "without weights"]),
    (
      ["steps_per_call=5", "evaluations.knn.every_steps=3"],
      ["evaluations.knn.every_steps", "3", "steps_per_call, 5"],
    ),
    (
      ["stop_at_step=7", "steps_per_call=5"],
      ["stop_at_step: given 7", "a multiple of steps_per_call, 5"],
    ),
    (["generator.name="], ["generator.name", "small"]),
  ],
  ids=lambda value: value[0],
)
def test_options_together(overrides, words):
  with pytest.raises(errors.UsageError) as error:
    open_program(*overrides)
  for word in words:
    assert word in str(error.value), error.value


NEVER = (  # what no option may be
  math.nan,
  math.inf,
  -math.inf,
  1j,
  None,
  b"abc",
  {1, 2},
  object(),
  np.float32(0.5),
  np.ones(2),
  10**400,
  "two\nlines",
  "\udcff",
  "a\0",
  (math.nan,),
  (math.inf, 0.5),
  ("two\nlines",),
  (None,),
  ({},),
  {"a": {"b": 1}},
  [[[[]]]],
)
KINDS = {  # what only an option of such a kind may be
  True: ("flag", "literal"),
  -1: ("integer", "number", "literal"),
  10**30: ("number", "literal"),
  -1e30: ("number", "literal"),
  1e-42: (),
  "": ("text", "literal"),
  "x" * 10000: ("text", "literal"),
  (): ("literal",),
  ((), ((),)): (),
  (1, "a"): (),
}
WORDS = (
  "nan",
  "1e999",
  "-",
  "9" * 5000,
  "(" * 5000,
  "[" * 90 + "]" * 90,
  "{1: 2}",
  "__import__('os')",
  "1_000j",
  "\udcff",
  "a\n",
  "None",
)


def declarations():
  """{key: Option} of everything that a config may say."""
  found = {}

  def walk(known, path):
    for name, option in known.items():
      here = f"{path}.{name}" if path else name
      if isinstance(option, options.Option):
        found[here] = option
      elif isinstance(option, options.Entry):
        walk(option.shared, here)
      else:
        walk(option, here)

  walk(experiment.OPTIONS, "")
  for room, about in contracts.ROOMS.items():
    for name in plugins.names(room):
      module = plugins.resolve(room, name)
      walk(plugins.declared(room, module), f"{about.path}.{name}")
  return found


def test_every_option_of_every_plugin():
  """Accepts its default and refuses the rest in a line that begins with it."""
  declared = declarations()
  assert len(declared) > 400
  wrong = []
  for key, option in declared.items():
    options.check(key, option, option.default)
    cases = [(value, (), options.check) for value in NEVER]
    cases += [(value, kinds, options.check) for value, kinds in KINDS.items()]
    cases += [(word, ("text",), options.parse) for word in WORDS]
    for value, kinds, read in cases:
      try:
        read(key, option, value)
      except errors.UsageError as error:
        line = str(error)
        told = line.startswith(f"{key}: given ") and "; allowed: " in line
        if not (told and line.isprintable()):
          wrong.append((key, line))
      except Exception as error:
        wrong.append((key, value, error))
      else:
        if option.kind not in kinds:
          wrong.append((key, repr(value), "accepted"))
  assert not wrong, wrong[:5]


BASE = """
from configs import quickstart
def get_config():
  c = quickstart.get_config()
  c.unlock()
"""


@pytest.mark.parametrize(
  "text, words",
  [
    ("get_config = 3", "no function get_config"),
    ("def get_config():\n  raise SystemExit(0)", "SystemExit"),
    ("def get_config():\n  return {}", "dict"),
    (BASE + "  c.evaluations.x = 3\n  return c", "evaluations.x: given 3"),
    (BASE + "  c.evaluations.knn = None\n  return c", "evaluations.knn"),
    (BASE + "  c[3] = 4\n  return c", "'int' and 'str'"),
    (BASE + "  c.study.rows = (1, 2)\n  return c", "study.rows: given (1, 2)"),
    (
      BASE + "  c.study.rows = (('a', 'seed=1'),)\n  return c",
      "study.rows: given",
    ),
  ],
  ids=range(8),
)
def test_a_config_file(text, words, tmp_path):
  file = tmp_path / "experiment.py"
  file.write_text(text)
  with pytest.raises(errors.UsageError) as error:
    configs.load(str(file))
  assert words in str(error.value) and str(error.value).isprintable()


def test_no_device_is_touched(tmp_path):
  """Neither by a config that loads, nor by one that is refused."""
  code = f"""
import sys
from jax._src import xla_bridge
from genrep_jax import main
from genrep_jax.lib import configs
from genrep_jax.tools import _cli
configs.load("configs/quickstart.py", ["total_steps=3"])
sys.argv = ["main", "--config", "configs/quickstart.py", "--workdir",
            "{tmp_path / "run"}", "--config.views.latent.sigma=nan"]
try:
  _cli.run(main.main)
except SystemExit as stopped:
  assert stopped.code == 2, stopped.code
assert not xla_bridge.backends_are_initialized()
"""
  options = support.command("x") | {"args": [sys.executable, "-c", code]}
  done = subprocess.run(**options, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  assert "views.latent.sigma: given nan; allowed: " in done.stderr
  assert not (tmp_path / "run").exists()


# What a plug-in of each room looks like; a case changes some of its lines.
HEAD = """
import random
import jax, jax.numpy as jnp, numpy as np
from genrep_jax.lib import contracts
"""
GENERATOR = """
def make(cfg, *, dtype):
  def init(key):
    return {"w": jax.random.normal(key, (8, 784))}
  def sample(key):
    return jax.random.normal(key, (8,)), jnp.int32(0)
  def apply(v, z, y):
    return jnp.tanh(z @ v["w"]).reshape(-1, 28, 28, 1)
  return contracts.Generator((28, 28), 1, 8, 0, init, sample, apply)
"""
ENCODER = """
def make(cfg, *, dtype):
  def init(key, shape):
    w = jax.random.normal(key, (784, 16))
    return {"params": {"w": w}, "batch_stats": {"n": jnp.zeros(3)}}
  def apply(v, images, *, train, local=False):
    x = images.reshape(len(images), -1) @ v["params"]["w"]
    stats = v["batch_stats"]
    return contracts.Features(x), stats
  return contracts.Encoder(init, apply)
"""
OBJECTIVE = """
def make(cfg, heads):
  def init(key, features):
    return {"w": jnp.ones((features.pooled.shape[-1], 4))}, {}
  def apply(p, features, views, target, state, key):
    loss, metrics = (features.pooled @ p["w"]).var(), {}
    return loss, metrics, state
  return contracts.Objective(frozenset(), 2, init, apply, lambda b, v: None)
"""
LATENT = """
def make(cfg, generator):
  def view(key, z, y):
    return z
  return view
"""
PIXEL = """
def make(cfg, image_shape, num_views):
  def view(key, image):
    return image
  return contracts.PixelViews((view,) * num_views)
"""
DATA = """
def make(cfg):
  rng, y = np.random.default_rng(0), np.arange(100, dtype=np.int32) % 10
  x = rng.integers(0, 256, (100, 28, 28, 1), dtype=np.uint8)
  tx, ty, k = x, y, 10
  train, test = contracts.Split(x, y), contracts.Split(tx, ty)
  return contracts.Dataset("lab", k, (), train, test)
"""
EVALUATION = """
def make(cfg, model, mesh):
  def run(variables):
    yield "a", 0.5
  return contracts.Evaluation(run, "a")
"""
W = 'jnp.tanh(z @ v["w"]).reshape(-1, 28, 28, 1)'
X = "  tx, ty, k = x, y, 10"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
  """Writes a plug-in and returns its dotted name."""
  monkeypatch.syspath_prepend(tmp_path)

  def write(text, old="", new="", name="broken"):
    assert old in text
    folder = tmp_path / "lab_faults"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(HEAD + text.replace(old, new))
    importlib.invalidate_caches()
    return f"lab_faults.{name}"

  yield write
  for name in [name for name in sys.modules if name.startswith("lab_faults")]:
    del sys.modules[name]


RETURN = "  return contracts"
CASES = [  # entry of the config, plug-in, old, new, words of the line
  ("generator", "raise OSError('no\\nlicense')", "", "", "OSError: no license"),
  ("generator", "raise SystemExit(0)", "", "", "failed in import"),
  ("generator", "x = 1", "", "", "has no function make"),
  ("generator", GENERATOR, "make(cfg, *, dtype)", "make()", "TypeError"),
  ("generator", GENERATOR, RETURN, "  1 / 0; x", "failed in make: ZeroDiv"),
  (
    "generator",
    GENERATOR,
    RETURN,
    "  return None; x",
    "make returned NoneType",
  ),
  ("generator", GENERATOR, "return {", "return 1 / 0, {", "failed in init"),
  ("generator", GENERATOR, "return jnp", "1 / 0; jnp", "failed in apply"),
  ("generator", GENERATOR, W, "None", "images of apply is NoneType"),
  ("generator", GENERATOR, W, f"{W}.transpose(0, 3, 1, 2)", "[3, 1, 28, 28]"),
  ("generator", GENERATOR, W, f"{W}.reshape(-1, 784)", "float32[3, 784]"),
  ("generator", GENERATOR, W, f"{W}.repeat(3, -1)", "float32[3, 28, 28, 3]"),
  ("generator", GENERATOR, W, f"{W}[0]", "float32[28, 28, 1]"),
  ("generator", GENERATOR, W, f"{W}[:, 4:, 4:]", "float32[3, 24, 24, 1]"),
  ("generator", GENERATOR, W, f"{W}.astype(int)", "images of apply is int32"),
  ("generator", GENERATOR, W, f"np.asarray({W})", "failed in apply: Tracer"),
  ("generator", GENERATOR, W, f"{W} + random.random()", "random numbers"),
  ("generator", GENERATOR, "(key, (8,))", "(key, (9,))", "(8,), latent_dim"),
  ("generator", GENERATOR, "jnp.int32(0)", "0.5", "y of sample is float32[]"),
  ("generator", GENERATOR, "8, 0,", "8, -1,", "num_classes is -1"),
  ("generator", GENERATOR, "8, 0,", "8, '3',", "num_classes is '3'"),
  ("generator", GENERATOR, "sample, apply)", "None, apply)", "sample is None"),
  ("views.latent", LATENT, "return z", "return z[:4]", "float32[4]"),
  ("views.pixel", PIXEL, "image\n", "image.repeat(3, -1)\n", "[28, 28, 3]"),
  ("objective", OBJECTIVE, ", metrics, state", ", metrics", "to unpack"),
  ("views.latent", LATENT, "return z", "return z + random.random()", "random"),
  ("views.pixel", PIXEL, "return image", "return image[0]", "float32[28, 1]"),
  ("views.pixel", PIXEL, "* num_views", "", "1 values; allowed: 2 functions"),
  (
    "encoder",
    ENCODER,
    "jax.random.normal(key, (784, 16))",
    "jnp.ones((784, 16), jnp.bfloat16)",
    "['w'] is bfloat16; allowed: float32",
  ),
  ("encoder", ENCODER, '"w": w', '"w": w, "n": jnp.int32(1)', "['n'] is int32"),
  ("encoder", ENCODER, 'v["batch_stats"]', "{}", "batch_stats after apply"),
  ("encoder", ENCODER, 'v["batch_stats"]', '{"n": jnp.ones(4)}', "float32[4]"),
  ("encoder", ENCODER, "Features(x)", "Features(x[:1])", "float32[1, 16]"),
  ("encoder", ENCODER, "contracts.Features(x)", "x", "allowed: Features"),
  ("objective", OBJECTIVE, ".var()", ".var((1, 2))", "the loss is float32[16]"),
  (
    "objective",
    OBJECTIVE,
    "loss, metrics, s",
    "loss, {'a': None}, s",
    "'a' is",
  ),
  (
    "objective",
    OBJECTIVE,
    "loss, metrics, s",
    "loss, {'loss': 1}, s",
    "'loss'",
  ),
  (
    "objective",
    OBJECTIVE,
    "metrics, state",
    "metrics, {'n': loss}",
    "state is",
  ),
  (
    "objective",
    OBJECTIVE,
    "-1], 4)",
    "-1], 4), jnp.bfloat16",
    "['w'] is bfloat",
  ),
]
PROBED = [
  (
    "generator",
    GENERATOR,
    W,
    f"({W} + 1) * 127.5",
    "range of images is [0, 255]; allowed: in [-1, 1]",
  ),
  ("generator", GENERATOR, W, f"({W} + 1) / 2", "not a dark pixel"),
  ("generator", GENERATOR, W, f"{W} * 0 - 1", "the same for"),
  ("generator", GENERATOR, "z @", "z[:1].repeat(len(z), 0) @", "every row"),
  (
    "generator",
    GENERATOR,
    "jnp.int32(0)",
    "jax.random.randint(key, (), 1, 4)",
    "y of sample is in 1..3; allowed: 0..0",
  ),
  ("views.latent", LATENT, "return z", "return z * jnp.nan", "not finite"),
  ("views.pixel", PIXEL, "return image", "return image / 0", "not finite"),
  ("encoder", ENCODER, "Features(x)", "Features(x - x.mean(0))", "themselves"),
  (
    "encoder",
    ENCODER,
    "Features(x)",
    "Features(x if train else x / 0)",
    "pooled is not finite",
  ),
]
DATA_CASES = [
  ("k = x, y, 10", "k = x, y, 1", "num_classes 1; allowed: an integer >= 2"),
  (X, f"{X}; y[y == 3] = 4", "no train image of class 3"),
  (X, f"{X}; y -= 1", "labels in -1..8; allowed: 0..9"),
  (X, f"{X}; y += 1", "labels in 1..10; allowed: 0..9"),
  (X, f"{X}; y = y / 1.0", "float64[100]; allowed: numpy integers"),
  (X, f"{X}; y = y[:-1]", "int32[99]; allowed: [100]"),
  (X, f"{X}; tx = x[:, 4:]", "allowed: the shape of the train images"),
  (X, f"{X}; x = x / 255.0", "float64[100, 28, 28, 1]; allowed: numpy uint8"),
  (X, f"{X}; x = x // 128", "images of 0..1; allowed: pixels in 0..255"),
  (X, f"{X}; x = x[..., 0]", "uint8[100, 28, 28]; allowed: [N h w c]"),
  (X, f"{X}; tx, ty = x[:0], y[:0]", "test images uint8[0, 28, 28, 1]"),
  (X, f"{X}; x = x.tolist()", "train images list"),
]
EVALUATION_CASES = [
  ('"a", 0.5', '"a", "high"', "metric 'a' is 'high'; allowed: one finite"),
  ('"a", 0.5', '"a", None', "metric 'a' is None"),
  ('"a", 0.5', '"a", np.ones(3)', "metric 'a' is array"),
  ('"a", 0.5', '"a", float("nan")', "metric 'a' is nan"),
  ('"a", 0.5', "0.5", "failed in run: TypeError"),
  ('"a", 0.5', '"a", 0.5; yield "a", 0.6', "metric 'a' is 0.6"),
  ('"a", 0.5', '"b", 0.5', "its headline 'a' among them"),
  ('"a", 0.5', '"a", 0.5; raise OSError("two\\nlines")', "OSError: two lines"),
  ('"a", 0.5', '"a", 0.5; raise SystemExit', "failed in run: SystemExit"),
  ('(run, "a")', "(run, None)", "headline is None; allowed: str"),
  ('(run, "a")', '(run, "a", frozenset({"x"}))', "evaluations without x"),
]


def open_program(*overrides):
  """Makes and checks everything abstractly; a plug-in's other options go."""
  named = [text.partition("name=")[0] for text in overrides if "name=" in text]
  kept = [
    text for text in support.TINY if not text.startswith((*named, "none"))
  ]
  file = str(support.ROOT / "configs" / "quickstart.py")
  run = support.open_run(configs.load(file, [*kept, *overrides]))
  return run, run.program, run.evaluations


@pytest.mark.parametrize(
  "entry, text, old, new, words",
  [*CASES, *PROBED],
  ids=lambda x: None if "\n" in x else x[:40],
)
def test_a_plugin(entry, text, old, new, words, plugin):
  name = plugin(text, old, new)
  with pytest.raises(errors.UsageError) as error:
    _, program, _ = open_program(f"{entry}.name={name}")
    assert (entry, text, old, new, words) in PROBED
    program.check(execution.initial(program), execution.put_frozen(program))
  said(error, words, name)


@pytest.mark.parametrize("old, new, words", DATA_CASES)
def test_a_data_set(old, new, words, plugin):
  name = plugin(DATA, old, new)
  with pytest.raises(errors.PluginError) as error:
    data.load({"name": name})
  said(error, words, name)


@pytest.mark.parametrize("old, new, words", EVALUATION_CASES)
def test_an_evaluation(old, new, words, plugin):
  name = plugin(EVALUATION, old, new)
  config = support.tiny(f"evaluations.knn.name={name}")
  run = support.open_run(config)
  model = contracts.Model(encode=lambda variables, images: images)
  with pytest.raises(errors.UsageError) as error:
    train.evaluate(run, run.make_evaluations(model, ["knn"]), {})
  said(error, words, name)


@pytest.mark.parametrize(
  "override, line",
  [
    ("evaluations.mine.k=6000", "evaluations.mine.k: given 6000"),
    ("evaluations.mine.train_limit=3", "evaluations.mine.train_limit: given 3"),
    (
      "evaluations.probe.train_limit=3",
      "evaluations.probe.train_limit: given 3",
    ),
  ],
)
def test_what_make_refuses_is_named_by_its_entry(override, line, tmp_path):
  """By the entry's own label, not by that of the plug-in or its room."""
  file = tmp_path / "experiment.py"
  file.write_text(
    BASE + "  c.evaluations.mine = {'name': 'knn', 'data': {'name': ''}}\n"
    "  c.evaluations.probe = {'name': 'linear'}\n  return c"
  )
  run = support.open_run(configs.load(str(file), [*support.TINY, override]))
  model = contracts.Model(encode=lambda variables, images: images, channels=1)
  with pytest.raises(errors.UsageError) as error:
    run.make_evaluations(model)
  assert str(error.value).startswith(line), error.value


def test_the_plugins_are_right_before_they_are_broken(plugin):
  """So that a case is refused for what it changes."""
  rooms = {
    "generator": GENERATOR,
    "views.latent": LATENT,
    "views.pixel": PIXEL,
    "encoder": ENCODER,
    "objective": OBJECTIVE,
  }
  _, program, _ = open_program(
    *(
      f"{entry}.name={plugin(text, name=entry.replace('.', '_'))}"
      for entry, text in rooms.items()
    )
  )
  program.check(execution.initial(program), execution.put_frozen(program))
  data.load({"name": plugin(DATA, name="data")})


def said(error, words, name):
  """The line names the plug-in or its entry, and is one."""
  line = str(error.value)
  assert words in line and line.isprintable(), line
  assert name in line or line.startswith("evaluations.knn: given"), line

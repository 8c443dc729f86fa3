"""Every plug-in of every room keeps its contract (lib/contracts.py).

A new file of a room is tested here before its author writes a test: it jits,
has the right shapes, gives the same bits for the same key, puts the batch axis
first and keeps no state.
"""

import ast
import functools
import inspect
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import (
  contracts,
  errors,
  execution,
  heads,
  mesh as mesh_lib,
  options,
  plugins,
)
from genrep_jax.views import edits, walks
from tests import support

# What a plug-in needs beyond its defaults to be made at all.
SMALL_VIEW = {"crop_px": 0, "mean": (0.5,), "std": (0.5,)}
SMALL = {
  ("generators", "biggan"): {"latent_dim": 8, "widths": (8, 6, 4)},
  ("generators", "biggan_deep"): {"ch": 4, "num_classes": 3},
  ("generators", "bigbigan"): {"ch": 4},
  ("generators", "dcgan"): {"resolution": 16, "widths": (16, 8)},
  ("generators", "procedural"): {"resolution": 16, "num_shapes": 40},
  ("generators", "small"): {"widths": (8, 4), "extra_convs": (0, 0)},
  ("generators", "stylegan2"): {
    "resolution": 16,
    "z_dim": 8,
    "w_dim": 8,
    "mapping_layers": 2,
    "channel_max": 8,
  },
  ("encoders", "bigbigan"): {"width": 0.0625, "blocks": (1, 1, 1, 1)},
  ("encoders", "resnet"): {"depth": 18, "width": 0.125, "stem": "small"},
  ("encoders", "small"): {"width": 0.25},
  ("views/pixel", "byol"): SMALL_VIEW,
  ("views/pixel", "genrep"): SMALL_VIEW,
  ("views/pixel", "multi_crop"): {**SMALL_VIEW, "local_crop_px": 12},
  ("views/pixel", "simclr"): SMALL_VIEW,
  ("views/pixel", "none"): {"mean": (0.5,), "std": (0.5,)},
  ("views/latent", "mixture"): {"views": {"gaussian": {}}},
  ("objectives", "autoencoder"): {"latent_dim": 5},
  ("objectives", "classifier"): {"num_classes": 3},
  ("objectives", "inverter"): {"latent_dim": 5, "num_classes": 3},
  ("objectives", "weighted"): {"terms": {"simclr": {"weight": 2.0}}},
  # Need files that are not in the package: their own tests make some.
  **dict.fromkeys(
    [
      ("data", name)
      for name in (
        *("caltech101", "cifar10", "cifar100", "fashion_mnist", "folder"),
        *("imagenet100", "npz", "stl10", "tfds", "voc07"),
      )
    ]
  ),
  ("data", "lfw_subset"): None,  # needs scikit-image
  ("evaluations", "few_shot"): {"shots": (1, 5)},
  ("evaluations", "finetune"): {"labels_per_class": 2, "epochs": 1},
  ("evaluations", "svm"): None,  # wants several labels an image
  ("sources", "groups"): None,  # wants a folder
}
# Options of a generator whose default has edges: no finite difference there.
SMOOTH = {
  "procedural": {"kind": "stylegan_random", "channel_max": 8, "w_dim": 8}
}
KEY = jax.random.key(0)


def every(room):
  """Parametrizes a test over the plug-ins of a room."""
  return pytest.mark.parametrize("name", plugins.names(room))


def make(room, name, *arguments, changes=(), **options):
  """Makes a plug-in from its defaults, shrunk, with changes on top."""
  changes = SMALL.get((room, name), {}) | dict(changes)
  return plugins.make(room, {"name": name, **changes}, *arguments, **options)


def same_bits(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@every("generators")
@pytest.mark.usefixtures("optimized")
def test_generator_samples(name):
  generator = make("generators", name, dtype=jnp.float32)
  keys = jax.random.split(KEY, 8)
  z, y = jax.jit(jax.vmap(generator.sample))(keys)
  assert z.shape == (8, generator.sample_dim) and z.dtype == jnp.float32
  assert y.shape == (8,) and y.dtype == jnp.int32
  assert (y >= 0).all() and (y < max(1, generator.num_classes)).all()
  same_bits(generator.sample(keys[1]), (z[1], y[1]))


@every("generators")
def test_generator(name):
  generator = make("generators", name, dtype=jnp.float32)
  assert isinstance(generator, contracts.Generator)
  init = jax.jit(generator.init)
  variables = init(KEY)
  same_bits(variables, init(KEY))
  z, y = jax.jit(jax.vmap(generator.sample))(jax.random.split(KEY, 8))

  # Batch axis first, rows do not see each other, however they are rendered.
  def one(row):
    return generator.apply(variables, *jax.tree.map(lambda x: x[None], row))[0]

  @jax.jit
  def ways(variables, z, y):
    images = generator.apply(variables, z, y)
    flipped = jax.tree.map(
      lambda x: x[::-1].reshape(4, 2, *x.shape[1:]), (z, y)
    )
    return {
      "whole": images,
      "vmap": jax.vmap(one)((z, y)),
      "lax.map, flipped": jax.lax.map(
        lambda row: generator.apply(variables, *row), flipped
      ).reshape(images.shape)[::-1],
    }

  images = ways(variables, z, y)
  same_bits(images, ways(variables, z, y))
  whole = images["whole"]
  assert whole.shape == (8, *generator.resolution, generator.channels)
  assert float(jnp.abs(whole).max()) <= 1.0 and np.std(whole) > 0.01
  mesh = mesh_lib.make_mesh()
  split = mesh_lib.batch(mesh)
  images["8 devices"] = jax.jit(
    generator.apply,
    in_shardings=(mesh_lib.replicated(mesh), split, split),
    out_shardings=split,
  )(variables, z, y)
  # XLA orders sums by the rows that it has; random weights amplify the last
  # bit more than trained ones do, here and there.
  for way, others in images.items():
    others = np.asarray(others) - whole
    assert np.sqrt(np.mean(others**2)) < 1e-6, way
    assert np.abs(others).max() < 3e-5, way
  # bfloat16: the pictures are the same to within 30 dB of PSNR.
  short = make("generators", name, dtype=jnp.bfloat16)
  rounded = jax.jit(short.apply)(variables, z, y)
  error = float(jnp.mean((rounded.astype(jnp.float32) - whole) ** 2))
  assert 10 * np.log10(4 / max(error, 1e-20)) > 30


@every("generators")
def test_images_have_gradients_by_the_latents(name):
  """d(images)/dz is finite and what finite differences say (learned views)."""
  smooth = SMOOTH.get(name, {})
  generator = make("generators", name, dtype=jnp.float32, changes=smooth)
  variables = jax.jit(generator.init)(KEY)
  z, y = jax.vmap(generator.sample)(jax.random.split(KEY, 2))
  weight = jax.random.normal(
    KEY, (2, *generator.resolution, generator.channels)
  )
  move = jax.random.normal(jax.random.key(1), z.shape)

  def f(z):
    return jnp.sum(weight * generator.apply(variables, z, y))

  @jax.jit
  def both(z, step):
    gradient = jax.grad(f)(z)
    difference = (f(z + step * move) - f(z - step * move)) / (2 * step)
    return gradient, difference

  gradient, difference = both(z, 3e-3)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
  along = float(jnp.sum(gradient * move))
  size = float(jnp.linalg.norm(gradient) * jnp.linalg.norm(move))
  assert abs(along - float(difference)) < 0.02 * size


@every("views/latent")
def test_latent_view(name, tmp_path):
  generator = make("generators", "small", dtype=jnp.float32)
  changes = {}
  if name == "walks":  # walks of this generator
    drawn = edits.EditDistribution(generator.channels)
    w = {
      o: np.ones((drawn.rows(o), generator.latent_dim))
      for o in drawn.operations
    }
    walks.save(tmp_path / "walks.safetensors", drawn, w, "", {})
    changes = {"file": str(tmp_path / "walks.safetensors")}
  view = make("views/latent", name, generator, changes=changes)
  if isinstance(view, contracts.LearnedView):
    params = view.init(KEY)
    assert bool(params) == (view.optimizer is not None)
    assert params or view.search is not None  # or it learns nothing
    view = functools.partial(view.apply, params)
  z, y = generator.sample(KEY)
  moved = jax.jit(view)(KEY, z, y)
  assert moved.shape == z.shape and moved.dtype == z.dtype
  same_bits(moved, jax.jit(view)(KEY, z, y))
  batch = jax.vmap(view)(
    jax.random.split(KEY, 4), jnp.stack([z] * 4), jnp.stack([y] * 4)
  )
  assert batch.shape == (4, *z.shape)


@every("views/pixel")
@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_view(name, channels):
  made = make("views/pixel", name, (28, 28, channels), 3)
  assert len(made.views) == 3
  assert len(made.mean) == len(made.std) == 1
  image = jax.random.uniform(KEY, (28, 28, channels), minval=-1)
  for view in dict.fromkeys(made.views):
    abstract = jax.eval_shape(view, KEY, image)
    assert len(abstract.shape) == 3 and abstract.shape[-1] == channels
    shown = jax.jit(view)(KEY, image)
    same_bits(shown, jax.jit(view)(KEY, image))
    batch = jax.jit(jax.vmap(view))(
      jnp.stack([KEY, jax.random.key(1)]), jnp.stack([image, image])
    )
    assert batch.shape == (2, *abstract.shape)
    np.testing.assert_allclose(batch[0], shown, atol=1e-5)


@every("encoders")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_encoder(name, dtype):
  encoder = make("encoders", name, dtype=dtype)
  variables = jax.jit(encoder.init, static_argnums=1)(KEY, (28, 28, 1))
  assert set(variables) == {"params", "batch_stats"}
  images = jax.random.normal(KEY, (4, 28, 28, 1))

  @functools.partial(jax.jit, static_argnums=0)
  def apply(train, variables, images):
    return encoder.apply(variables, images, train=train, local=train)

  features, stats = apply(False, variables, images)
  assert features.pooled.shape[0] == 4 and features.pooled.ndim == 2
  assert features.pooled.dtype == jnp.float32 and features.local is None
  same_bits(stats, variables["batch_stats"])
  trained, new_stats = apply(True, variables, images)
  assert jax.tree.structure(new_stats) == jax.tree.structure(stats)
  if name == "mlp":
    assert trained.local is None
  else:
    n, m, width, _ = trained.local.shape
    assert n == 4 and m == width
  same_bits((trained, new_stats), apply(True, variables, images))


@every("objectives")
@pytest.mark.parametrize("views", [2, 3])
def test_objective(name, views):
  objective = make("objectives", name, heads)
  assert objective.requires <= {
    *("local", "target", "labels", "latents", "generator")
  }
  views = max(views, objective.min_views)
  features = contracts.Features(
    jax.random.normal(KEY, (6, views, 16)),
    jax.random.normal(KEY, (6, views, 2, 2, 8)),
  )
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), features
  )
  params, state = jax.jit(lambda k: objective.init(k, abstract))(KEY)
  shown = contracts.Views(
    images=jnp.zeros((6, views, 4, 4, 1)),
    latents=jax.random.normal(KEY, (6, views, 5)),
    anchors=jax.random.normal(KEY, (6, 5)),
    labels=jnp.arange(6, dtype=jnp.int32) % 3,
    rendered=jnp.zeros((6, views, 4, 4, 1)),
    render=lambda z: jnp.tanh(z[..., None, None, :1]) * jnp.ones((4, 4, 1)),
  )

  target = None
  if "target" in objective.requires:
    target = contracts.Target(features, params)

  @jax.jit
  def apply(params, state):
    def f(params):
      loss, *rest = objective.apply(params, features, shown, target, state, KEY)
      return loss, rest

    return jax.value_and_grad(f, has_aux=True)(params)

  (loss, (extra, new_state)), grads = apply(params, state)
  assert loss.shape == () and loss.dtype == jnp.float32
  assert all(jnp.shape(value) == () for value in extra.values())
  assert jax.tree.structure(new_state) == jax.tree.structure(state)
  same_bits(loss, apply(params, state)[0][0])
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  chance = objective.chance(6, views)
  assert chance is None or chance > 0


@every("data")
def test_data(name):
  if SMALL.get(("data", name), {}) is None:
    pytest.skip("needs files from outside; see tests/data")
  dataset = make("data", name)
  for split in (dataset.train, dataset.test):
    assert split.images.dtype == np.uint8 and split.images.ndim == 4
    assert np.issubdtype(split.labels.dtype, np.integer)
    assert len(split.images) == len(split.labels)
    assert set(np.unique(split.labels)) == set(range(dataset.num_classes))


def _flat(variables, images):
  del variables
  return images[:, ::4, ::4].reshape(len(images), -1)


def _views(variables, index, count, **_):
  raise AssertionError("nothing is rendered before it runs")


@every("evaluations")
def test_evaluation(name):
  if SMALL.get(("evaluations", name), {}) is None:
    pytest.skip("see tests/evaluations")
  model = contracts.Model(
    encode=_flat,
    generate=lambda variables, index: None,
    views=_views,
    reconstruct=lambda variables, images: images,
    channels=1,
  )
  room, declared = "evaluations", plugins.resolve("evaluations", name).OPTIONS
  small = {"data": {"name": "fashion_mnist_mini"}} if "data" in declared else {}
  if "train_limit" in declared:
    small |= {"train_limit": 100, "test_limit": 100}
  one = make(room, name, model, support.mesh_of(1), changes=small)
  offered = {"encode", "generate", "views", "reconstruct"}
  assert one.requires <= offered and one.about
  if one.requires & {"generate", "views"}:
    pytest.skip("judged in tests/evaluations: it renders")
  metrics = dict(one.run({}))
  assert one.headline in metrics
  assert all(np.isfinite(float(value)) for value in metrics.values())


@every("optimizers")
def test_optimizer(name):
  params = {"a": jnp.ones((3, 2)), "b": jnp.zeros(2)}
  made = make(
    "optimizers", name, lambda step: 0.1, lambda p: {"a": True, "b": False}
  )
  state = made.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, after = jax.jit(made.update)(grads, state, params)
  assert jax.tree.structure(state) == jax.tree.structure(after)
  assert all((x < 0).all() for x in jax.tree.leaves(updates))  # down the slope


@every("schedules")
def test_schedule(name):
  changes = {"milestone_fractions": (0.5,)} if name == "step" else {}
  sizes = {"warmup_steps": 0, "total_steps": 10, "steps_per_epoch": 5.0}
  shape = jax.jit(make("schedules", name, changes=changes, **sizes))
  values = [float(shape(jnp.float32(t))) for t in range(11)]
  assert values[0] == 1.0 and all(0 <= x <= 1 for x in values)
  assert values == sorted(values, reverse=True)


@every("sources")
def test_source(name):
  if SMALL.get(("sources", name), {}) is None:
    pytest.skip("see tests/sources")
  run = support.open_run(support.tiny(f"source.name={name}"))
  source, frozen = run.source, run.source.frozen
  if source.feed is not None:
    positions = np.array([15, 0, 3])
    whole = source.feed.read(1, np.arange(16))
    for key, part in source.feed.read(1, positions).items():
      np.testing.assert_array_equal(part, whole[key][positions])
      like = source.feed.shapes[key]
      assert (whole[key].shape, whole[key].dtype) == (like.shape, like.dtype)
    frozen = frozen | {"fed": whole}
  draw = jax.jit(source.draw)
  one, again = (draw(jnp.int32(1), frozen) for _ in range(2))
  same_bits(dict(one), dict(again))
  other = draw(jnp.int32(0), frozen)
  assert set(np.asarray(one["index"])) == set(range(16, 32))
  assert set(np.asarray(other["index"])) == set(range(16))
  latents = one["anchors"][:, None] if source.generator else None
  images = jax.jit(source.show)(one, latents, frozen)
  assert images.shape == (16, 1, *source.image_shape)
  assert images.dtype == jnp.float32
  assert np.abs(images).max() <= 1.0
  assert source.epoch_size >= 0 and source.num_classes >= 0


PROGRAMS = {
  "bigan": (
    *("source.name=array", "program.prior=gaussian"),
    *("program.d_widths=(8,8)", "program.alarm_images=4"),
  ),
  "bigbigan": (
    *("source.name=array", "generator.truncation=0.0"),
    *("program.d_widths=(8,8)", "program.joint_width=8"),
    *("program.joint_blocks=1", "program.head_width=8"),
    "program.alarm_images=4",
  ),
  "genrep": (),
  "gan": (
    "source.name=array",
    "program.d_widths=(8,)",
    "program.d_extra_convs=(0,)",
    "evaluations.knn.name=fid",
    "evaluations.linear.name=fid",
  ),
  "walks": ("job=compile_only", "program.operations=('zoom',)"),
}


@every("programs")
def test_program(name):
  overrides = [text for text in PROGRAMS[name] if "evaluations" not in text]
  run = support.open_run(support.tiny(f"program.name={name}", *overrides))
  program = run.program
  state, frozen = execution.abstract(program)
  assert state.step.shape == () and state.step.dtype == jnp.int32
  assert {"params", "step"} <= set(vars(state))
  after, measured = jax.eval_shape(program.step, state, frozen)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert "loss" in measured.averages
  assert program.examples_per_step > 0 and program.images_per_step > 0
  scopes = str(
    jax.make_jaxpr(program.step)(state, frozen).pretty_print(name_stack=True)
  )
  assert program.stages and all(stage in scopes for stage in program.stages)
  pictures = jax.eval_shape(program.preview, state, frozen)
  assert all(len(x.shape) == 5 for x in pictures.values())
  assert set(program.captions) >= set(pictures)
  model = program.model
  images = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)
  if model.encode is not None:
    variables = jax.eval_shape(program.variables, state, frozen)
    assert jax.eval_shape(model.encode, variables, images).shape[0] == 3
  if model.generate is not None:
    index = jax.ShapeDtypeStruct((3,), jnp.uint32)
    variables = jax.eval_shape(program.variables, state, frozen)
    shown, labels = jax.eval_shape(model.generate, variables, index)
    assert shown.shape == images.shape and labels.shape == (3,)
  if model.reconstruct is not None:
    again = jax.eval_shape(model.reconstruct, variables, images)
    assert again.shape == images.shape
  if model.views is not None:
    shown = jax.eval_shape(
      lambda v, i: model.views(v, i, 2),
      variables,
      jnp.arange(3, dtype="uint32"),
    )
    assert shown.images.shape == (3, 2, 28, 28, 1)
    assert shown.latents.shape[:2] == (3, 2) and shown.labels.shape == (3,)


@pytest.mark.parametrize("name", ["genrep", "walks"])
def test_a_program_exports_arrays_and_plain_metadata(name):
  overrides = PROGRAMS[name]
  if name == "walks":
    overrides = (*overrides, "global_batch=16")
  run = support.open_run(support.tiny(f"program.name={name}", *overrides))
  state = execution.initial(run.program)
  files = run.program.export(state, run.program.frozen)
  assert files
  for file, (tree, metadata) in files.items():
    assert file.endswith(".safetensors") and jax.tree.leaves(tree)
    assert json.loads(json.dumps(metadata))


# What modules of a room are, walked over every file of every room.

MODULES = [
  (room, name) for room in contracts.ROOMS for name in plugins.names(room)
]


@pytest.mark.parametrize(("room", "name"), MODULES)
def test_a_module_has_the_make_and_the_hooks_of_its_room(room, name):
  about, module = contracts.ROOMS[room], plugins.resolve(room, name)
  parameters = inspect.signature(module.make).parameters.values()
  words, star = [], False
  for one in parameters:
    if one.kind is one.KEYWORD_ONLY and not star:
      words, star = [*words, "*"], True
    words.append(one.name)
  assert f"make({', '.join(words)})" == about.make
  for hook in about.hooks:
    plugins.hook(room, module, hook)  # raises where it has another type
  for other in contracts.ROOMS.values():
    for hook in set(other.hooks) - set(about.hooks):
      assert not hasattr(module, hook), f"{hook} is not looked up in {room}"
  gone = ("default_config", "complete", "check", "check_weights")
  assert not [old for old in gone if hasattr(module, old)]
  assert module.__doc__ and module.__doc__.strip()


def every_option():
  """Yields (path, option) of every declared option, converters' included."""
  for room, name in MODULES:
    module = plugins.resolve(room, name)
    found = dict(plugins.declared(room, module))
    if "CONVERTER" in contracts.ROOMS[room].hooks:
      converter = plugins.hook(room, module, "CONVERTER")
      found |= {
        f"convert {key}": option
        for key, option in (converter.options if converter else {}).items()
      }
    for key, option in found.items():
      yield f"{room}.{name}.{key}", option


def test_every_option_is_declared_whole():
  count = 0
  for path, option in every_option():
    count += 1
    assert option.help and "\n" not in option.help, path
    if isinstance(option, options.Entry):
      assert option.room in contracts.ROOMS, path
      continue
    assert option.allowed, path
    if option.default is not None:
      options.check(path, option, option.default)
    for wrong in (object(), float("nan"), b"x"):
      with pytest.raises(errors.UsageError, match="given .*; allowed: "):
        options.check(path, option, wrong)
  assert count > 200


PACKAGE = pathlib.Path(plugins.__file__).resolve().parent.parent


def test_modules_are_asked_for_attributes_in_one_place():
  """What a plug-in may have is in contracts.ROOMS, not where it is used."""
  asked = []
  for file in PACKAGE.rglob("*.py"):
    if file.name == "plugins.py":
      continue
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("getattr", "hasattr") and node.args:
          named = ast.unparse(node.args[0])
          if re.search(r"\b(module|room|plugin)\b", named):
            asked.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
  assert asked == []


@pytest.mark.parametrize("room", contracts.ROOMS)
def test_a_misspelt_name_lists_what_exists(room):
  known = plugins.names(room)
  with pytest.raises(errors.UsageError) as raised:
    plugins.resolve(room, known[0] + "x")
  (line,) = str(raised.value).splitlines()
  assert line.startswith(f"{contracts.ROOMS[room].path}.name: given ")
  assert f"nearest: {known[0]!r}" in line
  assert all(name in line for name in known)


def test_a_dotted_name_is_imported_from_outside(tmp_path, monkeypatch):
  (tmp_path / "my_lab").mkdir()
  (tmp_path / "my_lab" / "my_view.py").write_text(
    "def make(cfg, generator):\n  return lambda key, z, y: z + 1\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  entry = {"name": "my_lab.my_view"}
  view = plugins.make("views/latent", entry, None)
  assert view(None, 1, None) == 2
  with pytest.raises(errors.PluginError, match="my_lab.other"):
    plugins.resolve("views/latent", "my_lab.other")

"""BigBiGAN's encoder: RevNet and head against twins, and the converter."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.encoders import bigbigan
from genrep_jax.encoders.contrib import bigbigan_variables
from genrep_jax.lib import errors, options, plugins, trees

_KEY = jax.random.key(0)
_BLOCKS = (1, 1, 1, 1)


def _config(**options):
  defaults = plugins.defaults("encoders", "bigbigan")
  return ml_collections.ConfigDict({**defaults, **options})


def _make(**options):
  return plugins.make("encoders", {"name": "bigbigan", **options})


# A RevNet of 16 channels, few units, a head of width 64.
_THIN = {
  "trunk": "revnet50x4",
  "width": 16 / 1024,
  "blocks": _BLOCKS,
  "latent_dim": 5,
}


def _images(rows=6, size=20):  # maps of 10, 5, 3, 2 and 1: some are odd
  return jax.random.normal(jax.random.key(1), (rows, size, size, 3))


@functools.cache
def _variables():
  """Thin variables in which no norm is the identity and no bias is zero."""
  encoder = _make(**_THIN)
  shapes = jax.eval_shape(lambda key: encoder.init(key, (20, 20, 3)), _KEY)
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == "kernel":
      inputs = np.prod(leaf.shape[:-1])
      x = rng.normal(size=leaf.shape) * (2 / inputs) ** 0.5
    else:
      x = rng.uniform(0.2, 1.6, leaf.shape)
    return x.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _run(train):
  """Returns (avepool's output, bn_crelu's, latents), from one compilation."""
  encoders = [
    _make(**_THIN, features=features) for features in ("avepool", "bn_crelu")
  ]
  encode = bigbigan.make_encode(_config(**_THIN))

  def run(variables, images):
    with jax.default_matmul_precision("float32"):
      outputs = [
        encoder.apply(variables, images, train=train, local=True)
        for encoder in encoders
      ]
      return *outputs, encode(variables, images)

  return jax.jit(run)(_variables(), _images())


# --- twins in numpy -----------------------------------------------------------


def _conv_twin(x, kernel, stride):
  """A sum over the kernel's positions, padded by half of it with zeros."""
  size = kernel.shape[0]
  pad = size // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows = (x.shape[1] - size) // stride + 1
  total = 0.0
  for i in range(size):
    for j in range(size):
      part = x[
        :, i : i + stride * rows : stride, j : j + stride * rows : stride
      ]
      total = total + part[:, :rows, :rows] @ kernel[i, j]
  return total


def _pool_twin(x, size, pad, reduce):
  """Windows of stride two, whole ones only."""
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows = -(-(x.shape[1] - size + 1) // 2)
  out = np.empty((len(x), rows, rows, x.shape[-1]))
  for i in range(rows):
    for j in range(rows):
      window = x[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
      out[:, i, j] = reduce(window, axis=(1, 2))
  return out


def _halve_twin(x):
  """2x2 means over what there is: at an odd edge, of two or one."""
  rows = -(-x.shape[1] // 2)
  out = np.empty((len(x), rows, rows, x.shape[-1]))
  for i in range(rows):
    for j in range(rows):
      window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
      out[:, i, j] = window.mean(axis=(1, 2))
  zeros = np.zeros((*out.shape[:3], out.shape[3] // 2))
  return np.concatenate([zeros, out, zeros], axis=-1)


class _Twin:
  """The thin RevNet by hand; notes the statistics it would store."""

  def __init__(self, variables, train):
    self.params = variables["params"]["trunk"]
    self.stats = variables["batch_stats"]["trunk"]
    self.train = train
    self.updated = {}

  def norm(self, x, *names):
    params, stats = self.params, self.stats
    for name in names:
      params, stats = params[name], stats[name]
    mean, var = np.float64(stats["mean"]), np.float64(stats["var"])
    if self.train:
      seen = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
      self.updated[names] = 0.9 * mean + 0.1 * seen[0]
      mean, var = seen
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

  def residual(self, x, name):
    for i in (1, 2, 3):
      x = np.maximum(self.norm(x, name, f"norm{i}"), 0)
      x = _conv_twin(x, np.float64(self.params[name][f"conv{i}"]["kernel"]), 1)
    return x

  def run(self, images):
    x = np.float64(images)
    x = _conv_twin(x, np.float64(self.params["stem"]["kernel"]), 2)
    x = _pool_twin(x, 3, 1, np.max)
    for stage, units in enumerate(_BLOCKS):
      x = _halve_twin(x) if stage else x
      for unit in range(units):
        half = x.shape[-1] // 2
        name = f"layer{stage + 1}_block{unit}"
        y = x[..., :half] + self.residual(x[..., half:], name)
        x = np.concatenate([x[..., half:], y], axis=-1)
    return self.norm(x, "norm")


@pytest.mark.parametrize("train", [False, True])
def test_the_revnet_is_its_twin(train):
  variables = _variables()
  (features, batch_stats), *_ = _run(train)
  twin = _Twin(variables, train)
  last = twin.run(_images())
  assert last.shape == (6, 1, 1, 128)
  np.testing.assert_allclose(features.local, last, atol=2e-4)
  np.testing.assert_allclose(features.pooled, last.mean((1, 2)), atol=2e-4)
  for names, mean in twin.updated.items():
    got = batch_stats["trunk"]
    for name in names:
      got = got[name]
    np.testing.assert_allclose(got["mean"], mean, atol=1e-4, err_msg=names)
  assert train == bool(twin.updated)
  if not train:
    jax.tree.map(
      np.testing.assert_array_equal, batch_stats, variables["batch_stats"]
    )


def test_bn_crelu_is_both_signs_of_the_normalized_features():
  (features, _), (both, _), _ = _run(False)
  h = np.float64(features.pooled)
  stats = _variables()["batch_stats"]["feature_norm"]
  normal = (h - stats["mean"]) / np.sqrt(np.float64(stats["var"]) + 1e-5)
  want = np.concatenate([np.maximum(normal, 0), np.maximum(-normal, 0)], -1)
  np.testing.assert_allclose(both.pooled, want, atol=1e-4)
  # Its statistics are kept up to date whichever features are asked for.
  (features, batch_stats), (both, _), _ = _run(True)
  h = np.float64(features.pooled)
  mean = 0.9 * stats["mean"] + 0.1 * h.mean(axis=0)
  np.testing.assert_allclose(
    batch_stats["feature_norm"]["mean"], mean, atol=1e-5
  )
  normal = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5)
  want = np.concatenate([np.maximum(normal, 0), np.maximum(-normal, 0)], -1)
  np.testing.assert_allclose(both.pooled, want, atol=1e-3)


def test_the_head_is_its_twin():
  (features, _), _, (mean, stdev) = _run(False)
  h = np.float64(features.pooled)
  head = jax.tree.map(np.float64, _variables()["params"]["head"])
  assert h.shape == (6, 128) and "shortcut" not in head["block1"]
  shortcut = h @ head["block0"]["shortcut"]["kernel"]
  for block in (head["block0"], head["block1"]):
    one, two = block["linear0"], block["linear1"]
    inner = np.maximum(h @ one["kernel"] + one["bias"], 0)
    h = np.maximum(shortcut + inner @ two["kernel"] + two["bias"], 0)
    shortcut = h
  out = h @ head["linear_out"]["kernel"] + head["linear_out"]["bias"]
  np.testing.assert_allclose(mean, out[:, :5], rtol=1e-3, atol=1e-3)
  want = np.log1p(np.exp(out[:, 5:]))
  np.testing.assert_allclose(stdev, want, rtol=1e-3, atol=1e-3)
  assert (stdev > 0).all() and mean.dtype == stdev.dtype == jnp.float32


def test_gradients_are_finite_and_features_do_not_see_the_head():
  encoder = _make(**_THIN)
  variables, images = _variables(), _images()
  params = variables["params"]

  def loss(trunk, head):
    without_head = {**variables, "params": {"trunk": trunk}}
    features, _ = encoder.apply(without_head, images, train=True)
    mean, stdev = bigbigan.latents(head, features.pooled)
    return jnp.square(mean).sum() + stdev.sum()

  grads = jax.jit(jax.grad(loss, argnums=(0, 1)))
  for path, leaf in trees.named(grads(params["trunk"], params["head"])).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
  ("trunk", "f", "convs", "norms"),
  [
    # Convolutions: 1.0625 h^2 a unit of half-width h, and 7 * 7 * 3 * 1024.
    ("revnet50x4", 8192, 85_658_624, 107_008),
    ("resnet50", 2048, 23_454_912, 53_120),  # torchvision's, without fc
  ],
)
def test_full_size(trunk, f, convs, norms):
  cfg = _config(trunk=trunk, features="bn_crelu")
  encoder = _make(**cfg)
  variables = _template(trunk, 1.0, 120)
  named = trees.named(variables["params"]["trunk"])
  count = {True: 0, False: 0}
  for name, leaf in named.items():
    count[name.endswith("kernel")] += int(np.prod(leaf.shape))
  assert count == {True: convs, False: norms}
  images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  (features, _), (mean, stdev) = jax.eval_shape(
    lambda v, x: (
      encoder.apply(v, x, train=False, local=True),
      bigbigan.make_encode(cfg)(v, x),
    ),
    variables,
    images,
  )
  assert features.pooled.shape == (1, 2 * f)
  assert features.local.shape == (1, 8, 8, f)
  assert mean.shape == stdev.shape == (1, 120)
  head = variables["params"]["head"]
  assert head["block1"]["linear0"]["kernel"].shape == (4096, 4096)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"trunk": "resnet"}, "trunk: given 'resnet'; allowed: one of resnet50"),
    ({"features": "pool"}, "features: given 'pool'; allowed: one of avepool"),
    ({"width": 0.001}, "encoder.width: given 0.001; allowed: a finite number"),
    ({"width": 1 / 128 - 1e-9}, "encoder.width: given"),
    ({"trunk": "revnet50x4", "width": 12 / 1024}, "given .*; allowed: k/128"),
    ({"latent_dim": 0}, "latent_dim: given 0; allowed: an integer in 1..65536"),
    ({"latent_dim": 10**12}, "latent_dim: given 1000000000000"),
    ({"blocks": (3, 4, 6)}, "blocks: given"),
  ],
)
def test_bad_options_are_refused(options, words):
  with pytest.raises(errors.UsageError, match=words):
    _make(**options)


# --- conversion ---------------------------------------------------------------

_ROOT = "GenEncWrapper/Encoder/"
_KERNEL = f"{_ROOT}ResNet/group_1/block_2/conv0/w/ema_0.9999"


@functools.cache
def _template(trunk, width=None, latent_dim=3):
  width = width or (1 / 64 if trunk == "resnet50" else 8 / 1024)
  encoder = _make(trunk=trunk, width=width, latent_dim=latent_dim)
  return jax.eval_shape(lambda: encoder.init(_KEY, (256, 256, 3)))


def _convert(arrays, **changes):
  """Converts as the tool does: options completed and checked."""
  known = bigbigan.CONVERTER.options
  for name, value in changes.items():
    options.check(name, known[name], value)
  given = options.defaults(known) | changes
  return bigbigan.CONVERTER.convert(arrays, **given)


def _file(trunk):
  """A file under the guessed names, put together by hand."""
  file, rng = {}, np.random.default_rng(0)
  ends = {"kernel": "w", "scale": "scale", "bias": "offset"}
  ends |= {"mean": "moving_mean", "var": "moving_variance"}
  for path, leaf in trees.named(_template(trunk)).items():
    words = path.split("/")
    x = rng.uniform(1, 2, leaf.shape).astype(np.float32)
    end = ends[words[-1]]
    if words[1] == "head":
      name = {"block0": "block/", "block1": "block_1/"}.get(words[2], "")
      layer = words[-2].replace("linear0", "linear").replace("r1", "r_1")
      name = f"MLP/{name}{layer.replace('shortcut', 'linear_sc')}/"
      end = {"kernel": "w", "bias": "b"}[words[-1]]
    elif words[1] == "feature_norm":
      name = "BatchNorm/"
    elif words[2].startswith("layer"):
      block = words[2].partition("_block")[2]
      block = "block" + (f"_{block}" if block != "0" else "")
      part, number = words[3][:4], words[3][-1]
      if words[3].startswith("shortcut"):
        part, number = words[3].split("_")[1], "sc"
      if part == "conv":
        number = number if number == "sc" else str(int(number) - 1)
        part = f"conv_{number}" if number == "sc" else f"conv{number}"
      else:
        number = {"1": "", "2": "_1", "3": "_2", "sc": "_sc"}[number]
        part = f"BatchNorm{number}"
      name = f"ResNet/group_{int(words[2][5]) - 1}/{block}/{part}/"
    else:
      name = "ResNet/conv_2d/" if end == "w" else "ResNet/BatchNorm/"
    average = "" if words[0] == "batch_stats" else "/ema_0.9999"
    file[f"{_ROOT}{name}{end}{average}"] = x
    if average:
      file[f"{_ROOT}{name}{end}"] = 0 * x  # the raw weights
  assert len(file) == sum(
    2 if path.startswith("params") else 1
    for path in trees.named(_template(trunk))
  )
  return file | {
    f"{_ROOT}ResNet/BatchNorm/accumulation_counter": np.ones(()),
    "GenEncWrapper/Generator/linear/w": np.full(3, np.nan),
  }


@pytest.mark.parametrize("trunk", ("resnet50", "revnet50x4"))
def test_a_file_of_the_guessed_names(trunk):
  file = _file(trunk)
  variables, made = _convert(file, trunk=trunk, features="bn_crelu")
  assert made.keys() == bigbigan.OPTIONS.keys() and made["latent_dim"] == 3
  assert made["width"] == (1 / 64 if trunk == "resnet50" else 8 / 1024)
  assert not trees.first_mismatches(_template(trunk), variables)
  stored = [x for n, x in file.items() if n.startswith(_ROOT) and x.any()]
  total = sum(float(x.sum()) for x in stored) - 1  # of the counter
  got = sum(float(x.sum()) for x in jax.tree.leaves(variables))
  np.testing.assert_allclose(got, total, rtol=1e-6)
  kernel = variables["params"]["trunk"]["layer2_block2"]["conv1"]["kernel"]
  np.testing.assert_array_equal(kernel, file[_KERNEL])
  mean = variables["batch_stats"]["trunk"]["layer1_block0"]["norm2"]["mean"]
  name = f"{_ROOT}ResNet/group_0/block/BatchNorm_1/moving_mean"
  np.testing.assert_array_equal(mean, file[name])


@functools.cache
def _converted():
  return _convert(_file("resnet50"))[0]


def test_another_epsilon_is_made_up_for():
  right = _converted()
  other, _ = _convert(_file("resnet50"), epsilon=1e-3)
  for name, x in trees.named(right).items():
    difference = 1e-3 - 1e-5 if name.endswith("var") else 0
    np.testing.assert_allclose(
      trees.named(other)[name], x + difference, rtol=1e-6, err_msg=name
    )


def _refusal(*arguments, **changes):
  with pytest.raises(errors.UsageError) as refused:
    _convert(*arguments, **changes)
  assert "\n" not in str(refused.value)
  return str(refused.value)


def test_a_renamed_variable_needs_an_edited_table(tmp_path):
  file = _file("resnet50")
  other = _KERNEL.replace("/conv0/", "/conv_a/")
  for average in ("", "/ema_0.9999"):
    raw = _KERNEL.removesuffix("/ema_0.9999")
    file[raw.replace("/conv0/", "/conv_a/") + average] = file.pop(raw + average)
  del file[f"{_ROOT}BatchNorm/moving_mean"]
  short = _KERNEL.removeprefix(_ROOT)
  line = _refusal(file)
  assert "missing BatchNorm/moving_mean" in line
  assert f"{short} (is it {other.removeprefix(_ROOT)}?)" in line
  assert line.endswith(f"unexpected {other.removeprefix(_ROOT)}")
  printed = subprocess.run(
    [sys.executable, "-m", bigbigan_variables.__name__],
    capture_output=True,
    text=True,
    check=True,
  )
  assert printed.stdout == bigbigan_variables.TABLE
  table = tmp_path / "table.txt"
  table.write_text(
    "params/trunk/layer2_block2/conv1/kernel = "
    f"{other.removeprefix(_ROOT)}  # an exception\n"
    "batch_stats/feature_norm/mean = zeros\n" + printed.stdout
  )
  got, _ = _convert(file, table=str(table))
  want = jax.tree.map(np.copy, _converted())
  want["batch_stats"]["feature_norm"]["mean"][:] = 0
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_file_of_other_shapes_or_with_a_nan_is_refused():
  file = _file("resnet50")
  file[_KERNEL] = file[_KERNEL][..., :0]
  assert f"mis-shaped {_KERNEL.removeprefix(_ROOT)}" in _refusal(file)
  file = _file("resnet50")
  file[_KERNEL] = file[_KERNEL] * np.nan
  assert "not finite ResNet/group_1/block_2/conv0" in _refusal(file)
  line = _refusal({"Generator/linear/w": np.ones(1)})
  assert "none of 1 variables begins with 'GenEncWrapper/Encoder/'" in line
  assert "trunk: given 'vgg'; allowed" in _refusal(file, trunk="vgg")


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("params/trunk\n", "line 1: 'params/trunk' is not OURS = THEIRS"),
    ("\na{x} = b{y}\n", "line 2: {y} is not on the left"),
    ("a{x}/{x} = b\n", "is not OURS = THEIRS"),
    ("params/{x} = a\n", "has no line for params/trunk/stem/conv/kernel"),
  ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, text, words):
  table = tmp_path / "table.txt"
  table.write_text(text)
  assert words in _refusal({}, table=str(table))


def test_a_table_gives_a_variable_to_one_leaf_only(tmp_path):
  table = tmp_path / "table.txt"
  line = "params/trunk/layer{s}_block{b}/conv{c}/kernel = a{s}{b}\n"
  table.write_text(line + bigbigan_variables.TABLE)
  line = _refusal(_file("resnet50"), table=str(table))
  assert "gives a10 to both params/trunk/layer1_block0/conv1/kernel" in line
  assert "No such file" in _refusal({}, table=str(tmp_path / "none.txt"))

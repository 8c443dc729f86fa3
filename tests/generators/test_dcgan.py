"""DCGAN against outputs recorded with PyTorch, thin, and a slow twin."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import _dcgan_source, dcgan
from genrep_jax.lib import errors, options as options_lib, plugins
from tests import fixture_files

ATOL = 1e-5
convert = dcgan.CONVERTER.convert
DEFAULTS = options_lib.defaults(dcgan.OPTIONS)
NAMES = ("dcgan_32", "dcgan_32_classes")


@pytest.fixture(scope="module")
def recorded():
  found = {}
  for name in NAMES:
    found[name] = fixture_files.arrays(f"{name}.npz")
    assert json.loads(str(found[name]["meta"]))["atol"] == ATOL
  return found


def make(options):
  return plugins.make("generators", {"name": "dcgan", **options})


def error(record, arrays=None):
  """Returns the largest error of the images of a converted checkpoint."""
  variables, options = convert(
    fixture_files.state(record) if arrays is None else arrays
  )
  images = jax.jit(make(options).apply)(
    variables, record["in/z"], record["in/y"]
  )
  return np.abs(images - record["out/images"]).max()


@pytest.mark.parametrize("name", NAMES)
def test_images_and_options(recorded, name):
  record = recorded[name]
  meta = json.loads(str(record["meta"]))
  variables, options = convert(fixture_files.state(record))
  assert options == DEFAULTS | {
    "resolution": 32,
    "latent_dim": meta["latent_dim"],
    "num_classes": meta["num_classes"],
    "widths": tuple(meta["widths"]),
  }
  generator = make(options)
  drawn = jax.eval_shape(generator.init, jax.random.key(0))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, drawn)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))
  assert error(record) < ATOL


def renamed(arrays, layout):
  """Gives a checkpoint in PyTorch's examples' layout another one's keys."""
  convs = ("main.0", "main.3", "main.6", "main.9")
  out = {}
  for i, conv in enumerate(convs):
    norm = f"main.{3 * i + 1}"
    to = {
      "bare": (f"{3 * i}", f"{3 * i + 1}"),
      "blocks": (f"g/net.{i}.0" if i < 3 else "g/net.3", f"g/net.{i}.1"),
      "deconv": (f"deconv{i + 1}", f"deconv{i + 1}_bn"),
    }[layout]
    for key, x in arrays.items():
      key = key.removeprefix("netG_state_dict/")
      for source, name in zip((conv, norm), to):
        if key.startswith(f"{source}."):
          out[key.replace(source, name)] = x
  return out


@pytest.mark.parametrize("layout", ["bare", "blocks", "deconv"])
def test_other_layouts(recorded, layout):
  record = recorded["dcgan_32"]
  arrays = renamed(fixture_files.state(record), layout)
  assert len(arrays) == len(fixture_files.state(record))
  if layout == "deconv":  # these convolutions have biases
    shift = np.linspace(-1, 1, 8, dtype=np.float32)
    arrays["deconv2.bias"] = shift
    arrays["deconv2_bn.running_mean"] = (
      arrays["deconv2_bn.running_mean"] + shift
    )
    arrays["deconv4.bias"] = np.zeros(3, np.float32)
  assert error(record, arrays) < ATOL
  arrays = {k: x for k, x in arrays.items() if "num_batches" not in k}
  assert error(record, arrays) < ATOL
  if layout == "deconv":
    arrays["deconv4.bias"] = np.float32([0, 0.01, 0])
    assert error(record, arrays) > 100 * ATOL


def test_a_kernel_not_flipped_breaks_parity(recorded, monkeypatch):
  right = _dcgan_source.phases
  monkeypatch.setattr(
    _dcgan_source, "phases", lambda w: right(w[:, :, ::-1, ::-1])
  )
  assert error(recorded["dcgan_32"]) > 100 * ATOL


def test_another_epsilon_breaks_parity(recorded, monkeypatch):
  monkeypatch.setattr(_dcgan_source, "BATCH_NORM_EPSILON", 1e-4)
  assert error(recorded["dcgan_32"]) > 10 * ATOL


def test_another_order_of_latent_and_class_breaks_parity(recorded):
  record = recorded["dcgan_32_classes"]
  arrays = fixture_files.state(record)
  arrays["main.0.weight"] = np.roll(arrays["main.0.weight"], 5, axis=0)
  assert error(record, arrays) > 100 * ATOL
  # A wrong stem layout, (4, 4) for (4, 4) transposed.
  arrays["main.0.weight"] = fixture_files.state(record)[
    "main.0.weight"
  ].swapaxes(2, 3)
  assert error(record, arrays) > 100 * ATOL


def slow_transposed(x, weight, stride, padding):
  """The ConvTranspose2d of x [c h w] by weight [c o k k], by definition."""
  (_, h, w), (_, o, k, _) = x.shape, weight.shape
  full = np.zeros((o, (h - 1) * stride + k, (w - 1) * stride + k))
  for i in range(h):
    for j in range(w):
      rows, columns = slice(i * stride, i * stride + k), j * stride
      full[:, rows, columns : columns + k] += np.tensordot(
        x[:, i, j], weight, 1
      )
  end = -padding or None
  return full[:, padding:end, padding:end]


def test_up_is_a_transposed_convolution():
  rng = np.random.default_rng(0)
  x, weight = rng.normal(size=(1, 3, 5, 2)), rng.normal(size=(2, 4, 4, 4))
  bias = rng.normal(size=4)
  slow = slow_transposed(x[0].transpose(2, 0, 1), weight, 2, 1)
  layer = {"kernel": jnp.asarray(_dcgan_source.phases(weight)), "bias": bias}
  fast = dcgan.up(jnp.asarray(x, jnp.float32), jax.tree.map(jnp.float32, layer))
  assert fast.shape == (1, 6, 10, 4)
  np.testing.assert_allclose(fast[0], slow.transpose(1, 2, 0) + bias, atol=1e-5)


def test_a_whole_network_of_28_pixels_and_one_channel():
  """A 7x7 first kernel, as DCGANs for MNIST have, against the definition."""
  rng = np.random.default_rng(1)
  options = {"resolution": 28, "channels": 1, "latent_dim": 8, "widths": (5, 3)}
  options["num_classes"] = 3
  arrays = {
    key: np.float32(
      rng.uniform(0.5, 1.5, shape) if "var" in key else rng.normal(size=shape)
    )
    for key, shape in _dcgan_source.expected_keys(options).items()
  }
  with pytest.raises(
    errors.UsageError, match="num_classes 11 must be in 0..10"
  ):
    convert(arrays, num_classes=11)
  assert convert(arrays)[1]["num_classes"] == 0  # 11 < 100
  variables, found = convert(arrays, num_classes=3)
  assert {key: found[key] for key in options} == options
  z = rng.normal(size=(2, 8)) * 0.1
  images = make(found).apply(variables, np.float32(z), np.int32([2, 0]))
  for image, latent, y in zip(images, z, [2, 0]):
    x = np.concatenate([latent, np.eye(3)[y]])[:, None, None]
    for i in (0, 3, 6):
      weight = np.float64(arrays[f"main.{i}.weight"])
      x = slow_transposed(x, weight, 2 if i else 1, 1 if i else 0)
      if i < 6:
        gain, bias, mean, var = (
          np.float64(arrays[f"main.{i + 1}.{leaf}"])[:, None, None]
          for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * gain + bias, 0)
    np.testing.assert_allclose(image, np.tanh(x[0])[..., None], atol=1e-5)


def test_gradient_against_finite_differences(recorded):
  record = recorded["dcgan_32_classes"]
  variables, options = convert(fixture_files.state(record))
  apply, y = make(options).apply, record["in/y"][:1]
  weights = np.float32(np.random.default_rng(0).normal(size=(32, 32, 3)))
  with jax.enable_x64(True):
    z = jnp.asarray(np.float64(record["in/z"][:1]))
    values = jax.tree.map(np.float64, variables)

    def total(z):
      return jnp.sum(weights * apply_in_float64(values, z, y, options))

    total = jax.jit(total)
    gradient = jax.jit(jax.grad(total))(z)
    assert np.isfinite(gradient).all()
    for axis in (0, 7, 99):
      step = jnp.zeros_like(z).at[0, axis].set(1e-6)
      slope = (total(z + step) - total(z - step)) / 2e-6
      np.testing.assert_allclose(gradient[0, axis], slope, rtol=1e-4)
  single = jax.jit(
    jax.grad(lambda z: jnp.sum(weights * apply(variables, z, y)))
  )
  np.testing.assert_allclose(
    single(record["in/z"][:1]),
    np.asarray(gradient),
    atol=1e-3 * np.abs(gradient).max(),
  )


def apply_in_float64(variables, z, y, options):
  """The forward pass without its casts to float32."""
  x = jnp.concatenate([z, jax.nn.one_hot(y, options["num_classes"])], -1)
  stem = variables["stem"]
  x = (x @ stem["kernel"]).reshape(1, 4, 4, -1) + stem["bias"]
  for i in range(len(options["widths"])):
    x = dcgan.up(jax.nn.relu(x), variables[f"up_{i}"])
  return jnp.tanh(x)


def test_vmap_map_and_devices_give_the_same_images(recorded):
  record = recorded["dcgan_32"]
  variables, options = convert(fixture_files.state(record))
  apply = make(options).apply
  z, y = np.tile(record["in/z"], (2, 1)), np.tile(record["in/y"], 2)
  images = jax.jit(apply)(variables, z, y)

  def one(zy):
    return apply(variables, zy[0][None], zy[1][None])[0]

  vmapped = jax.jit(jax.vmap(lambda z, y: one((z, y))))(z, y)
  mapped = jax.jit(lambda z, y: jax.lax.map(one, (z, y), batch_size=3))(z, y)
  mesh = jax.sharding.Mesh(jax.devices(), "data")
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  sharded = jax.jit(apply)(variables, *jax.device_put((z, y), rows))
  for other in (vmapped, mapped, sharded):
    np.testing.assert_allclose(other, images, atol=1e-6)


def test_samples(recorded):
  generator = make({"num_classes": 8, "truncation": 0.5, "latent_dim": 7})
  z, y = jax.jit(jax.vmap(generator.sample))(
    jax.random.split(jax.random.key(0), 200)
  )
  assert z.shape == (200, 7) and 0.48 < np.abs(z).max() <= 0.5
  assert set(np.unique(y)) == set(range(8)) and y.dtype == jnp.int32
  uncut, y = jax.jit(jax.vmap(make({}).sample))(
    jax.random.split(jax.random.key(0), 200)
  )
  assert abs(np.std(uncut) - 1) < 0.02 and not y.any()


def test_an_untrained_network_uses_the_range():
  generator = make({"widths": (32, 16, 8), "resolution": 32})

  @jax.jit
  def draw(key):
    z, y = jax.jit(jax.vmap(generator.sample))(jax.random.split(key, 16))
    return generator.apply(generator.init(key), z, y)

  images = draw(jax.random.key(0))
  assert 0.3 < np.std(images) < 0.95


def test_the_real_models_keys():
  """The key lists of gan-face-generate and omniart-eye-generator."""
  keys = _dcgan_source.expected_keys(DEFAULTS)
  assert len(keys) == 25 and keys["main.12.weight"] == (64, 3, 4, 4)
  assert keys["main.0.weight"] == (100, 512, 4, 4)
  assert keys["main.10.num_batches_tracked"] == ()
  naming = _dcgan_source.Naming(
    ("main.0", "main.4", "main.7", "main.10", "main.13", "main.16"),
    ("main.1", "main.5", "main.8", "main.11", "main.14"),
    (False,) * 6,
    True,
  )
  options = {"resolution": 128, "num_classes": 8, "widths": (1024, 512, 256)}
  options["widths"] += (128, 64)
  options = DEFAULTS | options
  keys = _dcgan_source.expected_keys(options, naming)
  assert len(keys) == 31 and keys["main.0.weight"] == (108, 1024, 4, 4)
  empty = {k: np.broadcast_to(np.float32(1), s) for k, s in keys.items()}
  assert _dcgan_source._naming(empty) == naming
  found = _dcgan_source._options(empty, naming, -1)
  assert found == options


NAME = "main.4.weight"


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda a: a.pop(NAME), f"missing {NAME}"),
    (lambda a: a.pop("main.0.weight"), "missing main.0.weight"),
    (lambda a: a.pop("main.10.weight"), "missing main.10.weight"),
    (lambda a: a.pop("main.5.running_var"), "missing main.5.running_var"),
    (
      lambda a: a.pop("main.5.num_batches_tracked"),
      "missing main.5.num_batches_tracked",
    ),
    (lambda a: a.update(other=a[NAME]), "unexpected other"),
    (lambda a: a.update({"main.1.beta": a["main.1.bias"]}), "main.1.beta"),
    (lambda a: a.update({NAME + "s": a.pop(NAME)}), f"{NAME} (is it {NAME}s?)"),
    (lambda a: a.update({NAME: a[NAME][1:]}), f"mis-shaped {NAME}"),
    (lambda a: a.update({NAME: a[NAME][..., 1:]}), f"mis-shaped {NAME}"),
    (lambda a: a.update({NAME: a[NAME][0]}), f"mis-shaped {NAME}"),
    (lambda a: [a.pop(key) for key in list(a)], "not a DCGAN generator"),
  ],
)
def test_other_keys_are_refused_by_name(recorded, change, words):
  arrays = fixture_files.state(recorded["dcgan_32_classes"])
  change(arrays)
  with pytest.raises(errors.UsageError) as refused:
    convert(arrays)
  assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
  "options",
  [
    {"resolution": 40},
    {"widths": ()},
    {"channels": 2},
    {"latent_dim": 0},
    {"num_classes": -1},
    {"truncation": -0.5},
  ],
)
def test_bad_options_are_refused(options):
  with pytest.raises(errors.UsageError, match=next(iter(options))):
    make(options)

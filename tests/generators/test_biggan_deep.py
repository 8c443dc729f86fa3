"""BigGAN-deep against recorded outputs of the PyTorch package, thin."""

import ast
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import _biggan, biggan_deep
from genrep_jax.lib import errors, options as options_lib, plugins
from tests import fixture_files

ATOL = 1e-5
NAME = "generator.layers.3.conv_1.weight_orig"


def make(options):
  return plugins.make("generators", {"name": "biggan_deep", **options})


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("biggan_deep_128_ch4.npz")


@pytest.fixture(scope="module")
def arrays(recorded):
  return fixture_files.state(recorded)


@pytest.fixture(scope="module")
def run(arrays):
  _, options = biggan_deep.convert(arrays)
  return jax.jit(
    lambda v, z, y: dict(biggan_deep.activations(options, jnp.float32, v, z, y))
  )


@pytest.fixture(scope="module")
def error(recorded, run):
  """Returns a function: variables, t -> largest error of the images."""

  def measure(variables, t="1.0"):
    out = run(variables, recorded[f"in/z_t{t}"], recorded["in/class_id"])
    return np.abs(out["images"] - recorded[f"out/images_t{t}"]).max()

  return measure


@pytest.mark.parametrize("t", ["1.0", "0.4"])
def test_images(arrays, recorded, error, t):
  assert json.loads(str(recorded["meta"]))["atol"] == ATOL
  variables, _ = biggan_deep.convert(arrays, truncation=float(t))
  assert error(variables, t) < ATOL


def test_activations_bytes_and_a_zero_latent(arrays, recorded, run):
  variables, _ = biggan_deep.convert(arrays)
  y = recorded["in/class_id"]
  out = run(variables, recorded["in/z_t1.0"], y)
  for mid, name in (
    ("gen_z", "gen_z"),
    ("layer0", "block_0"),
    ("layer1", "block_1"),
    ("attention", "attention"),
  ):
    np.testing.assert_allclose(
      out[name][:1], recorded[f"mid/{mid}"], atol=ATOL, err_msg=mid
    )
  pixels = np.clip((np.asarray(out["images"]) + 1) / 2 * 256, 0, 255)
  levels = np.int32(pixels.astype(np.uint8)) - recorded["out/uint8_t1.0"]
  assert np.abs(levels).max() <= 1
  zero = run(variables, np.zeros((2, 128), np.float32), y)["images"][:1]
  np.testing.assert_allclose(zero, recorded["out/images_zero_z"], atol=ATOL)


def test_the_generator_made_from_the_options(arrays, recorded):
  variables, options = biggan_deep.convert(arrays, truncation=0.4)
  assert (options["ch"], options["num_classes"]) == (4, 10)
  generator = make(options)
  drawn = jax.eval_shape(generator.init, jax.random.key(0))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, drawn)
  images = jax.jit(generator.apply)(
    variables, recorded["in/z_t0.4"], recorded["in/class_id"]
  )
  np.testing.assert_allclose(images, recorded["out/images_t0.4"], atol=ATOL)
  z, y = jax.vmap(generator.sample)(jax.random.split(jax.random.key(0), 200))
  assert 0.79 < np.abs(z).max() <= 0.8 + 1e-6  # 0.4 times a cut at 2
  assert set(np.unique(y)) == set(range(10))


def swap(kernel):
  return np.roll(kernel, len(kernel) // 2, axis=0)


def altered(variables, change):
  """Applies change(path, leaf) to every leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: change(tuple(key.key for key in path), x), variables
  )


CONTROLS = {
  "concat order": lambda path, x: (
    swap(x) if x.ndim == 2 and path[0] not in ("embed", "attn") else x
  ),
  "attention gamma": lambda path, x: 0 * x if path[-1] == "gamma" else x,
  "eps": lambda path, x: x - np.float32(9.9e-5) if path[-1] == "var" else x,
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_convention_breaks_parity(arrays, error, control):
  variables, _ = biggan_deep.convert(arrays)
  assert error(altered(variables, CONTROLS[control])) > 10 * ATOL


def test_a_wrong_row_or_sigma_breaks_parity(arrays, error, monkeypatch):
  variables, _ = biggan_deep.convert(arrays, truncation=0.98)
  assert error(variables) > 10 * ATOL
  sigma = _biggan.stored_sigma
  monkeypatch.setattr(
    _biggan,
    "stored_sigma",
    lambda weight, u, v: sigma(weight, u, v) if weight.ndim == 2 else 1.0,
  )
  assert error(biggan_deep.convert(arrays)[0]) > 10 * ATOL


def test_dropping_the_plus_one_breaks_parity(arrays, recorded, monkeypatch):
  right = _biggan.modulation

  def wrong(*arguments):
    gain, bias = right(*arguments)
    return gain - 1, bias

  monkeypatch.setattr(_biggan, "modulation", wrong)
  variables, options = biggan_deep.convert(arrays)
  apply = jax.jit(make(options).apply)
  images = apply(variables, recorded["in/z_t1.0"], recorded["in/class_id"])
  assert np.abs(images - recorded["out/images_t1.0"]).max() > 10 * ATOL


def test_rows_between_the_grid():
  rows = np.arange(51, dtype=np.float32)[:, None]
  at = biggan_deep.truncation_row
  # 0.425 is 21.25 rows: the package's swapped weights give 21.75.
  np.testing.assert_allclose(at(rows, 0.425), [21.25], rtol=1e-12)
  np.testing.assert_allclose(at(rows, 0.425, hf_compat=True), [21.75], 1e-6)
  quirks = {14: 8, 28: 15, 56: 29, 58: 28, 94: 46}
  for percent in range(2, 101, 2):
    t = percent / 100
    assert at(rows, t) == percent // 2
    expected = quirks.get(percent, percent // 2)
    np.testing.assert_allclose(at(rows, t, hf_compat=True), expected, 1e-5)


def test_hf_compat_reaches_the_variables(arrays):
  right, _ = biggan_deep.convert(arrays, truncation=0.425)
  quirk, _ = biggan_deep.convert(arrays, truncation=0.425, hf_compat=True)
  rows = arrays["generator.layers.9.bn_2.running_vars"]
  one, two = right["block_8"]["bn_2"]["var"], quirk["block_8"]["bn_2"]["var"]
  np.testing.assert_allclose(one, rows[21] * 0.75 + rows[22] * 0.25, rtol=1e-6)
  np.testing.assert_allclose(two, rows[21] * 0.25 + rows[22] * 0.75, rtol=1e-6)
  assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("px", [128, 256, 512])
def test_keys_of_the_real_models(px):
  lines = (
    fixture_files.path(f"biggan_deep_{px}_keys.txt").read_text().splitlines()
  )
  listed = {k: ast.literal_eval(s) for k, s in (x.split("\t") for x in lines)}
  options = options_lib.defaults(biggan_deep.OPTIONS) | {"resolution": px}
  assert biggan_deep.expected_keys(options) == listed
  # The resolution follows from which layers there are.
  empty = {k: np.broadcast_to(np.float32(0), s) for k, s in listed.items()}
  assert biggan_deep._infer(empty, 1.0)["resolution"] == px


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda a: a.pop(NAME), f"missing {NAME}"),
    (lambda a: a.update(other=a[NAME]), "unexpected other"),
    (
      lambda a: a.update({NAME + "inal": a.pop(NAME)}),
      f"{NAME} (is it {NAME}inal?)",
    ),
    (lambda a: a.update({NAME: a[NAME][1:]}), f"mis-shaped {NAME}"),
    (lambda a: a.pop("embeddings.weight"), "missing embeddings.weight"),
  ],
)
def test_other_keys_are_refused_by_name(arrays, change, words):
  arrays = dict(arrays)
  change(arrays)
  with pytest.raises(errors.UsageError) as refused:
    biggan_deep.convert(arrays)
  assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
  "options",
  [
    {"resolution": 64},
    {"ch": 6},
    {"truncation": 0.0},
    {"truncation": 1.1},
    {"truncation": float("inf")},
  ],
)
def test_bad_options_are_refused(options):
  with pytest.raises(errors.UsageError, match=next(iter(options))):
    make(options)

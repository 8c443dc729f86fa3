"""What a run leaves, and what others load: files, refusals, features."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genrep_jax
from genrep_jax.evaluations import _features
from genrep_jax.lib import (
  errors,
  export,
  images as images_lib,
  mesh as mesh_lib,
  plugins,
  trees,
  weights,
)

_SMALL = {"name": "small", "width": 0.25}
_IMAGE = {
  "height": 28,
  "width": 28,
  "channels": 1,
  "mean": (0.3,),
  "std": (0.2,),
}
_GENERATOR = {
  "name": "small",
  "weights": "asset:fashion_mnist_unconditional.safetensors",
  "sha256": "ab" * 32,
}
_CONFIG = {
  "title": "A title",
  "precision": "float32",
  "objective": {"name": "simclr"},
}
_RESULTS = {"knn/knn20_accuracy": 0.8125, "linear/linear_accuracy": 0.9}


def _metadata(**changes):
  given = {
    "encoder": {**_SMALL, "weights": "", "sha256": ""},
    "image": _IMAGE,
    "generator": _GENERATOR,
    "config": _CONFIG,
    "seed": 3,
    "steps": 40,
  }
  return export.encoder_metadata(**given | changes)


@functools.cache
def _tree(**options):
  """Weights in which no norm is the identity."""
  encoder = plugins.make("encoders", {**_SMALL, **options})
  shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), (28, 28, 1)))
  rng = np.random.default_rng(0)
  return trees.map_named(
    lambda name, x: np.float32(
      rng.normal(size=x.shape) * 0.3
      if name.endswith("kernel")
      else rng.uniform(0.5, 1.5, x.shape)
    ),
    shapes,
  )


def _saved(folder, tree=None, results=_RESULTS, **changes):
  """Writes a run's encoder; returns the folder."""
  tree = _tree() if tree is None else tree
  metadata = _metadata(**changes)
  export.save(folder / "encoder.safetensors", tree, metadata, results)
  return folder


def _images(rows, height=28, width=28, channels=1):
  rng = np.random.default_rng(1)
  shape = (rows, height, width, channels)
  return rng.integers(0, 256, shape, dtype=np.uint8)


# --- the file -----------------------------------------------------------------


def test_a_file_says_all_about_itself(tmp_path):
  _saved(tmp_path)
  got = weights.read_metadata(tmp_path / "encoder.safetensors")
  assert got["encoder"] == _SMALL  # without a file's own path and sha256
  assert got["image"] == {**_IMAGE, "mean": [0.3], "std": [0.2]}
  assert got["generator"] == _GENERATOR and got["config"] == _CONFIG
  assert got["results"] == _RESULTS
  assert (got["format"], got["seed"], got["steps"]) == (1, 3, 40)
  assert got["versions"]["jax"] == jax.__version__ and got["commit"]


def test_a_card_says_what_how_and_from_what(tmp_path):
  export.write_model_card(tmp_path, _metadata(), _RESULTS)
  card = (tmp_path / "model_card.md").read_text()
  for words in (
    "# A title",
    'genrep_jax.load_encoder("encoder.safetensors")',
    "| encoder | `small`: width 0.25 |",
    "| images | 28 x 28 x 1, normalized by mean [0.3], std [0.2] |",
    "| knn/knn20_accuracy | 0.8125 |",
    "ab" * 32,
    "names no license",
    "| steps, seed | 40, 3 |",
    "commit ",
    '"name": "simclr"',
  ):
    assert words in card, words
  assert sorted(one.name for one in tmp_path.iterdir()) == ["model_card.md"]
  licensed = {**_GENERATOR, "license": "MIT"}
  export.write_model_card(tmp_path, _metadata(generator=licensed), {})
  card = (tmp_path / "model_card.md").read_text()
  assert "| their license | MIT |" in card and "names no" not in card
  assert "not evaluated" in card
  export.write_model_card(tmp_path, _metadata(generator={}), {})
  card = (tmp_path / "model_card.md").read_text()
  assert "| trained on | real images |" in card and "generator's" not in card


# --- encoding -----------------------------------------------------------------


def test_features_are_the_evaluations_bit_for_bit(tmp_path, optimized):
  encoder = genrep_jax.load_encoder(_saved(tmp_path))
  assert isinstance(encoder, genrep_jax.Encoder)
  assert encoder.image_shape == (28, 28, 1) and encoder.feature_dim == 128
  images = _images(37)
  made = plugins.make("encoders", _SMALL)

  def encode(variables, x):
    x = ((x + 1) / 2 - jnp.float32(0.3)) / jnp.float32(0.2)
    return made.apply(variables, x, train=False)[0].pooled

  for devices in (jax.devices()[:1], jax.devices()):
    mesh = mesh_lib.make_mesh(devices)
    want = _features.extract(encode, _tree(), images, mesh, 16)
    got = encoder.encode(images, batch=16, device=devices)
    assert got.dtype == np.float32 and got.shape == (37, 128)
    np.testing.assert_array_equal(got, want)


def test_batches_and_devices_change_nothing(tmp_path):
  encoder = genrep_jax.load_encoder(_saved(tmp_path))
  images = _images(11)
  want = encoder.encode(images)
  mesh = mesh_lib.make_mesh(jax.devices()[2:6])
  for options in (
    {"batch": 3},
    {"device": jax.devices()[5]},
    {"device": jax.devices()},
    {"device": mesh_lib.batch(mesh), "batch": 4},
    {"device": jax.sharding.SingleDeviceSharding(jax.devices()[1])},
  ):
    got = encoder.encode(images, **options)
    np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(encoder.encode(images[:1]), want[:1], atol=1e-5)
  one = jax.jit(encoder.apply)(encoder.variables, images / 127.5 - 1.0)
  np.testing.assert_allclose(one, want, atol=1e-5)


def test_floats_are_bytes_and_other_sizes_are_resized(tmp_path):
  encoder = genrep_jax.load_encoder(_saved(tmp_path))
  images = _images(5, 41, 67)
  want = encoder.encode(images)
  floats = images_lib.from_uint8(images)
  for x in (floats, np.float64(floats), jnp.asarray(floats)):
    np.testing.assert_allclose(encoder.encode(x), want, atol=1e-4)
  cut = images_lib.resize_and_crop(jnp.asarray(floats), (28, 28))
  assert cut.shape == (5, 28, 28, 1)
  cut = np.clip(cut, -1, 1)
  np.testing.assert_allclose(encoder.encode(cut), want, atol=1e-4)


@pytest.mark.parametrize("shape", [(56, 84), (28, 28), (20, 50), (90, 31)])
def test_resizing_covers_and_centers(shape):
  rows, columns = np.meshgrid(*map(np.arange, shape), indexing="ij")
  images = np.float32(np.stack([rows, columns], -1))[None]
  got = np.asarray(images_lib.resize_and_crop(images, (28, 28)))[0]
  scale = min(shape) / 28  # of a pixel; the center stays the center
  middle = (np.array(shape) - 1) / 2
  steps = (np.arange(28) - 13.5) * scale
  inner = slice(3, -3)  # at the edges, weights are normalized anew
  for axis in (0, 1):
    along = got[:, 14, 0] if axis == 0 else got[14, :, 1]
    np.testing.assert_allclose(
      along[inner], (middle[axis] + steps)[inner], atol=scale
    )
    np.testing.assert_allclose(np.diff(along)[inner], scale, atol=0.15 * scale)


def test_bfloat16_is_as_trained(tmp_path):
  changes = {"config": {**_CONFIG, "precision": "bfloat16"}}
  _saved(tmp_path, **changes)
  images = _images(6)
  half = genrep_jax.load_encoder(tmp_path)
  exact = genrep_jax.load_encoder(tmp_path, precision="float32")
  one, other = half.encode(images), exact.encode(images)
  assert one.dtype == np.float32 and 0 < np.abs(one - other).max() < 0.1
  with pytest.raises(errors.UsageError, match="precision: given 'int8'"):
    genrep_jax.load_encoder(tmp_path, precision="int8")


@pytest.mark.parametrize(
  ("images", "words"),
  [
    (_images(2)[0], r"images: given uint8\[28, 28, 1\]; allowed"),
    (_images(2, channels=3), r"given uint8\[2, 28, 28, 3\]; .* \[n h w 1\]"),
    (_images(2).astype(np.int32), r"given int32\[2, 28"),
    (_images(2).astype(bool), r"given bool\["),
    (_images(2)[:0], r"given uint8\[0, 28, 28, 1\]; .* n >= 1"),
    (_images(2)[:, :0], r"given uint8\[2, 0"),
    (np.float32(_images(2)), r"float32\[2, 28, 28, 1\] in 0..255; allowed"),
    (np.full((1, 9, 9, 1), np.nan), r"float64\[1, 9, 9, 1\] in nan..nan"),
    (np.full((1, 9, 9, 1), "a"), r"given <U1\[1, 9"),
    ([[1, 2]], r"given int64\[1, 2\]"),
    (None, r"given object\[\]"),
  ],
)
def test_strange_images_are_refused(tmp_path, images, words):
  encoder = genrep_jax.load_encoder(_saved(tmp_path))
  with pytest.raises(errors.UsageError, match=words) as refused:
    encoder.encode(images)
  assert "\n" not in str(refused.value)
  with pytest.raises(errors.UsageError, match="batch: given 0; allowed"):
    encoder.encode(_images(2), batch=0)


# --- files that are refused ---------------------------------------------------


def _without(tree, leaf):
  tree = jax.tree.map(np.copy, tree)
  del tree["params"][leaf]
  return tree


def _nan():
  tree = jax.tree.map(np.copy, _tree())
  tree["params"]["conv2"]["kernel"][0, 0, 0, 0] = np.nan
  return tree


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"tree": _without(_tree(), "conv2")}, "params/conv2/kernel: missing"),
    (
      {"tree": {**_tree(), "params": {**_tree()["params"], "x": np.ones(2)}}},
      "params/x: unexpected",
    ),
    ({"tree": _nan()}, "1 arrays are not finite: params/conv2/kernel"),
    ({"encoder": {"name": "resnet", "depth": 18}}, "does not fit"),
    ({"encoder": {**_SMALL, "width": 0.5}}, "does not fit"),
    ({"encoder": {**_SMALL, "feature_norm": "layer"}}, "does not fit"),
    ({"encoder": {"name": "vgg"}}, "encoder.name: given 'vgg'; allowed: big"),
    ({"encoder": {**_SMALL, "depth": 3}}, "encoder.depth: unknown option"),
    ({"encoder": {**_SMALL, "width": 1e9}}, "encoder.width: given 1000"),
    ({"encoder": {"name": "../small"}}, "encoder.name: given '../small'"),
    ({"encoder": {"name": "this.that"}}, "import that module first"),
    ({"encoder": {}}, "encoder.name: given ''"),
    ({"image": {**_IMAGE, "height": 10**9}}, "image.height: given 1000000000"),
    ({"image": {**_IMAGE, "std": (0.0,)}}, "image.std: given"),
    ({"image": {**_IMAGE, "channels": 3}}, "does not fit"),
    ({"image": {**_IMAGE, "mean": (0.1, 0.2, 0.3)}}, "one of each channel"),
    ({"image": {}}, "image.height: given None"),
    ({"config": {"precision": "int4"}}, "metadata.precision: given 'int4'"),
  ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, changes, words):
  _saved(tmp_path, **changes)
  with pytest.raises(errors.UsageError) as refused:
    genrep_jax.load_encoder(tmp_path)
  assert words in str(refused.value) and "\n" not in str(refused.value)
  assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
  "metadata",
  [
    {},
    [],
    {"encoder": _SMALL},
    {"generator": {"name": "small"}, "steps": 3},
    {"format": 2, "encoder": _SMALL, "image": _IMAGE},
    {"format": 1, "encoder": [1], "image": _IMAGE},
    {"format": 1, "encoder": {**_SMALL, "a.b": 1}, "image": _IMAGE},
    {"format": 1, "encoder": _SMALL, "image": None},
  ],
)
def test_a_file_of_something_else_is_refused(tmp_path, metadata):
  path = tmp_path / "x.safetensors"
  weights.save(path, _tree(), dict(metadata))
  with pytest.raises(errors.UsageError, match="x.safetensors: ") as refused:
    genrep_jax.load_encoder(path)
  assert "\n" not in str(refused.value)


def test_a_path_without_a_file_is_refused(tmp_path):
  with pytest.raises(errors.UsageError, match="no encoder.safetensors in it"):
    genrep_jax.load_encoder(tmp_path)
  with pytest.raises(errors.UsageError, match="no file"):
    genrep_jax.load_encoder(tmp_path / "none.safetensors")
  with pytest.raises(errors.UsageError, match="give the sha256"):
    genrep_jax.load_encoder("hf://owner/repository/encoder.safetensors")
  (tmp_path / "encoder.safetensors").write_bytes(b"\x80\x04 a pickle")
  with pytest.raises(errors.UsageError, match="is a pickle"):
    genrep_jax.load_encoder(tmp_path)
  _saved(tmp_path)
  with pytest.raises(errors.UsageError, match="has sha256"):
    genrep_jax.load_encoder(tmp_path, sha256="0" * 64)


def test_a_plug_in_from_outside_is_used_once_it_is_imported(
  tmp_path, monkeypatch
):
  name = "tests_export_lab.encoder"
  _saved(tmp_path, encoder={**_SMALL, "name": name})
  with pytest.raises(errors.UsageError, match=name):
    genrep_jax.load_encoder(tmp_path)
  module = plugins.resolve("encoders", "small")
  monkeypatch.setitem(sys.modules, "tests_export_lab", module)
  monkeypatch.setitem(sys.modules, name, module)
  assert genrep_jax.load_encoder(tmp_path).feature_dim == 128


def test_the_package_imports_without_jax():
  code = (
    "import sys, genrep_jax; assert 'jax' not in sys.modules;"
    "assert not hasattr(genrep_jax, 'x'); assert 'jax' not in sys.modules;"
    "genrep_jax.load_encoder; assert 'jax' in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_real_images_of_any_size(tmp_path):
  data = pytest.importorskip("skimage.data")
  color = {**_IMAGE, "height": 32, "width": 32, "channels": 3}
  entry = {"name": "resnet", "depth": 18, "width": 0.125, "stem": "small"}
  made = plugins.make("encoders", entry)
  tree = jax.jit(lambda: made.init(jax.random.key(0), (32, 32, 3)))()
  _saved(tmp_path, tree, encoder=entry, image=color)
  encoder = genrep_jax.load_encoder(tmp_path)
  features = []
  for image in (data.astronaut(), data.coffee(), data.chelsea()):
    assert image.dtype == np.uint8
    features.append(encoder.encode(image[None]))
    flipped = encoder.encode(image[None, ::-1])
    assert np.abs(flipped - features[-1]).max() > 1e-3
    quarter = image[: image.shape[0] // 4 * 4, : image.shape[1] // 4 * 4]
    quarter = quarter.reshape(
      quarter.shape[0] // 4, 4, quarter.shape[1] // 4, 4, 3
    ).mean((1, 3))
    smaller = encoder.encode(np.uint8(np.round(quarter))[None])
    near = np.abs(smaller - features[-1]).max()
    assert near < 0.1 * np.abs(features[-1]).max()
  features = np.concatenate(features)
  assert features.shape == (3, 64) and np.isfinite(features).all()
  assert np.abs(features[0] - features[1]).max() > 1e-2

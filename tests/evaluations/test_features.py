"""Features: the same for every batch, number of images and of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.evaluations import features
from genrep_jax.lib import contracts, errors, mesh as mesh_lib


def make_images(count, shape=(4, 3, 2)):
  random = np.random.default_rng(0)
  return random.integers(0, 256, (count, *shape)).astype(np.uint8)


def encode(variables, images):
  rows = images.reshape(len(images), -1)
  return jnp.tanh(rows @ variables["w"])


VARIABLES = {
  "w": np.random.default_rng(1).normal(size=(24, 5)).astype(np.float32)
}


def mesh_of(count):
  return mesh_lib.make_mesh(jax.devices()[:count])


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("count, batch", [(3, 8), (16, 8), (21, 8), (5, 3)])
def test_equals_the_unbatched_result(devices, count, batch):
  images = make_images(count)
  got = features.extract(encode, VARIABLES, images, mesh_of(devices), batch)
  rows = images.reshape(count, -1).astype(np.float64) / 127.5 - 1
  np.testing.assert_allclose(got, np.tanh(rows @ VARIABLES["w"]), atol=1e-5)
  assert got.shape == (count, 5) and got.dtype == np.float32


def test_pixels_reach_the_encoder_in_minus_one_to_one():
  images = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
  got = features.extract(features.raw_pixels, {}, images, mesh_of(1), 4)
  np.testing.assert_allclose(got[:, 0], [-1, -0.6, 1], atol=1e-6)


def test_raw_pixels_keep_every_pixel_in_order():
  images = make_images(5)
  got = features.extract(features.raw_pixels, {}, images, mesh_of(8), 8)
  np.testing.assert_allclose(
    (got + 1) * 127.5, images.reshape(5, -1), atol=1e-3
  )


def test_compiles_once_and_moves_nothing_implicitly():
  traces = []

  def counting(variables, images):
    traces.append(images.shape)
    return encode(variables, images)

  variables = jax.device_put(VARIABLES, mesh_lib.replicated(mesh_of(8)))
  with jax.transfer_guard("disallow"):
    for count in (3, 20):
      features.extract(counting, variables, make_images(count), mesh_of(8), 8)
  assert traces == [(8, 4, 3, 2)]


def test_padding_is_masked_out():
  # Zero images, which padding is, become NaN here, and are asked for nowhere.
  def fussy(variables, images):
    mean = images.mean((1, 2, 3))[:, None]
    return jnp.where(mean > -1, 1.0, jnp.nan)

  images = make_images(5) | 1
  got = features.extract(fussy, {}, images, mesh_of(8), 8)
  np.testing.assert_array_equal(got, np.ones((5, 1)))


def test_features_that_are_not_finite_are_refused():
  images = make_images(11)
  images[7] = 255

  def broken(variables, images):
    mean = images.mean((1, 2, 3))[:, None]
    return jnp.log(1.0 - mean)

  with pytest.raises(errors.Diverged, match="1 of 11 .* the first is image 7"):
    features.extract(broken, {}, images, mesh_of(1), 4)


def test_a_wrong_count_is_noticed(monkeypatch):
  collect = features._collect
  monkeypatch.setattr(features, "_collect", lambda *a: collect(*a)[1:])
  with pytest.raises(AssertionError, match="8 images of 10 encoded"):
    features.extract(encode, VARIABLES, make_images(10), mesh_of(1), 8)


def test_image_px_resizes_and_crops_the_centre():
  images = np.zeros((2, 8, 24, 1), np.uint8)
  images[:, :, 8:16] = 255  # the central square of a wide image
  got = features.extract(
    features.raw_pixels, {}, images, mesh_of(1), 2, image_px=4
  ).reshape(2, 4, 4)
  np.testing.assert_allclose(got[:, :, 1:3], 1.0, atol=1e-5)
  same = make_images(2, (6, 6, 1))
  np.testing.assert_allclose(
    features.extract(features.raw_pixels, {}, same, mesh_of(1), 2, image_px=6),
    features.extract(features.raw_pixels, {}, same, mesh_of(1), 2),
    atol=1e-6,
  )


@pytest.mark.parametrize(
  "images, batch, expected",
  [
    (np.zeros((2, 4, 3, 2), np.float32), 8, "float32"),
    (np.zeros((2, 4, 3), np.uint8), 8, "not uint8"),
    (np.zeros((0, 4, 3, 2), np.uint8), 8, "N > 0"),
    (np.zeros((2, 4, 3, 2), np.uint8), 0, "batch=0"),
  ],
)
def test_bad_input(images, batch, expected):
  with pytest.raises(errors.UsageError, match=expected):
    features.extract(encode, VARIABLES, images, mesh_of(1), batch)


@pytest.fixture
def tiny(monkeypatch):
  """Makes `data.load` return a tiny set, whatever is asked for."""
  labels = np.arange(12, dtype=np.int32) % 3
  dataset = contracts.Dataset(
    "tiny",
    3,
    (),
    contracts.Split(make_images(12), labels),
    contracts.Split(make_images(5)[::-1], labels[:5]),
  )
  monkeypatch.setattr(data, "load", lambda cfg: dataset)
  monkeypatch.setattr(features, "_last", None)
  return dataset


def config(**changes):
  return ml_collections.ConfigDict(
    {"name": "any", **features.OPTIONS, "batch": 8, **changes}
  )


def test_of_dataset_encodes_once_per_weights(tiny, monkeypatch):
  calls = []
  extract = features.extract

  def counting(*args, **kwargs):
    calls.append(1)
    return extract(*args, **kwargs)

  monkeypatch.setattr(features, "extract", counting)
  weights = jax.device_put(VARIABLES)
  mesh = mesh_of(1)
  first = features.of_dataset(config(), encode, weights, mesh)
  again = features.of_dataset(config(), encode, dict(weights), mesh)
  assert again is first and len(calls) == 2  # one for each split
  assert first[2] == 3
  np.testing.assert_array_equal(first[0][1], tiny.train.labels)

  other = jax.device_put({"w": VARIABLES["w"] + 1})
  changed = features.of_dataset(config(), encode, other, mesh)
  assert len(calls) == 4
  assert np.abs(changed[0][0] - first[0][0]).max() > 0.1
  features.of_dataset(config(), encode, VARIABLES, mesh)  # numpy: may change
  features.of_dataset(config(), encode, VARIABLES, mesh)
  assert len(calls) == 8
  part = features.of_dataset(config(train_limit=6), encode, weights, mesh)
  np.testing.assert_array_equal(part[0][1], [0, 1, 2, 0, 1, 2])
  features.of_dataset(config(image_px=4), encode_any, weights, mesh)
  assert len(calls) == 12


def encode_any(variables, images):
  return images.mean((1, 2))


def test_kept_features_do_not_keep_the_weights_alive(tiny):
  weights = jax.device_put(VARIABLES)
  features.of_dataset(config(), encode, weights, mesh_of(1))
  assert features._last.leaves[0]() is weights["w"]
  del weights
  assert features._last.leaves[0]() is None


@pytest.mark.parametrize(
  "changes", [{"batch": 0}, {"image_px": -1}, {"train_limit": 2}]
)
def test_check_refuses(tiny, changes):
  (key,) = changes
  with pytest.raises(errors.UsageError, match=f"{key}={changes[key]}"):
    features.check(config(**changes))


def test_check_returns_the_data_set(tiny):
  assert dataclasses.asdict(features.check(config())) is not None
  assert features.check(config(train_limit=3)) is tiny

"""Features: the same for every batch, number of images and of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.evaluations import _features as features
from genrep_jax.lib import contracts, errors, mesh as mesh_lib, plugins


def make_images(count, shape=(4, 3, 2)):
  random = np.random.default_rng(0)
  return random.integers(0, 256, (count, *shape)).astype(np.uint8)


def encode(variables, images):
  rows = images.reshape(len(images), -1)
  return jnp.tanh(rows @ variables["w"])


def raw_pixels(variables, images):
  return images.reshape(len(images), -1)


def five_pixels(variables, images):
  return raw_pixels(variables, images)[:, :5]


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
  got = features.extract(raw_pixels, {}, images, mesh_of(1), 4)
  np.testing.assert_allclose(got[:, 0], [-1, -0.6, 1], atol=1e-6)


def test_raw_pixels_keep_every_pixel_in_order():
  images = make_images(5)
  got = features.extract(raw_pixels, {}, images, mesh_of(8), 8)
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


def test_image_px_resizes_and_crops_the_center():
  images = np.zeros((2, 8, 24, 1), np.uint8)
  images[:, :, 8:16] = 255  # the central square of a wide image
  got = features.extract(
    raw_pixels, {}, images, mesh_of(1), 2, image_px=4
  ).reshape(2, 4, 4)
  np.testing.assert_allclose(got[:, :, 1:3], 1.0, atol=1e-5)
  same = make_images(2, (6, 6, 1))
  np.testing.assert_allclose(
    features.extract(raw_pixels, {}, same, mesh_of(1), 2, image_px=6),
    features.extract(raw_pixels, {}, same, mesh_of(1), 2),
    atol=1e-6,
  )


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
  monkeypatch.setattr(data, "load", lambda entry, path: dataset)
  monkeypatch.setattr(features, "_last", None)
  return dataset


def features_of(dataset, encode, variables, **changes):
  options = plugins.defaults("evaluations", "knn") | {"batch": 8, **changes}
  cfg = ml_collections.ConfigDict(options)
  return features.of_dataset(cfg, dataset, encode, variables, mesh_of(1))


def test_of_dataset_encodes_once_per_weights(tiny, monkeypatch):
  calls = []
  extract = features.extract

  def counting(*args, **kwargs):
    calls.append(1)
    return extract(*args, **kwargs)

  monkeypatch.setattr(features, "extract", counting)
  weights = jax.device_put(VARIABLES)
  first = features_of(tiny, encode, weights)
  again = features_of(tiny, encode, dict(weights))
  assert again[0][0] is first[0][0] and again[1][0] is first[1][0]
  assert len(calls) == 2  # one for each split
  assert first[2] == 3
  np.testing.assert_array_equal(first[0][1], tiny.train.labels)

  other = jax.device_put({"w": VARIABLES["w"] + 1})
  changed = features_of(tiny, encode, other)
  assert len(calls) == 4
  assert np.abs(changed[0][0] - first[0][0]).max() > 0.1
  features_of(tiny, encode, VARIABLES)  # numpy: may change
  features_of(tiny, encode, VARIABLES)
  assert len(calls) == 8
  features_of(tiny, encode, weights)
  part = features_of(tiny, encode, weights, train_limit=6)
  np.testing.assert_array_equal(part[0][1], [0, 1, 2, 0, 1, 2])
  assert len(calls) == 11  # the test images are the same
  features_of(tiny, encode_any, weights, image_px=4)
  assert len(calls) == 13


def test_the_selection_split_is_cut_out_of_the_training_images(tiny):
  weights = jax.device_put(VARIABLES)
  whole, _, _ = features_of(tiny, encode, weights)
  options = {"split": "selection", "selection_share": 0.5}
  train, judged, _ = features_of(tiny, encode, weights, **options)
  for features_, labels in (train, judged):
    np.testing.assert_array_equal(np.bincount(labels), [2, 2, 2])
    assert len(features_) == 6
  together = np.concatenate([train[0], judged[0]])
  assert {*map(tuple, together)} == {*map(tuple, whole[0])}
  # The limit takes from what is left, and moves no image across.
  part, same, _ = features_of(tiny, encode, weights, train_limit=3, **options)
  assert {*map(tuple, part[0])} < {*map(tuple, train[0])} and len(part[0]) == 3
  np.testing.assert_array_equal(same[0], judged[0])


def test_an_official_selection_split_is_taken(tiny, monkeypatch):
  official = dataclasses.replace(tiny, selection=tiny.train)
  weights = jax.device_put(VARIABLES)
  train, judged, _ = features_of(official, encode, weights, split="selection")
  np.testing.assert_array_equal(train[0], judged[0])
  monkeypatch.setattr(data, "load", lambda entry, path: official)
  made = make("knn", k=1, split="selection")
  assert made.about.endswith(", on the selection split of tiny")


class Lazy:
  """Images that remember which rows were decoded, and how many at once."""

  def __init__(self, images):
    self.images, self.asked = images, []
    self.shape, self.dtype = images.shape, images.dtype

  def __len__(self):
    return len(self.images)

  def __getitem__(self, rows):
    some = self.images[rows]
    self.asked.append(np.arange(len(self.images))[rows].tolist())
    return some


def test_only_what_is_used_is_decoded_batch_by_batch(tiny):
  lazy = Lazy(tiny.train.images)
  dataset = dataclasses.replace(
    tiny, train=contracts.Split(lazy, tiny.train.labels)
  )
  weights = jax.device_put(VARIABLES)
  options = {"train_limit": 6, "batch": 4}
  got, _, _ = features_of(dataset, encode, weights, **options)
  assert lazy.asked == [[0, 1, 2, 3], [4, 5]]
  want, _, _ = features_of(tiny, encode, weights, **options)
  np.testing.assert_array_equal(got[0], want[0])


def test_a_change_sees_each_images_own_index_and_the_epoch():
  images = make_images(5)

  def change(images, index, epoch):
    return images * 0 + (10 * epoch + index)[:, None, None, None]

  for epoch in (0, 2):
    got = features.extract(
      raw_pixels, {}, images, mesh_of(8), 3, change=change, epoch=epoch
    )
    np.testing.assert_array_equal(got[:, 0], 10 * epoch + np.arange(5))


@pytest.mark.parametrize("labels", [2, 1])
def test_data_with_another_kind_of_labels_are_refused(
  tiny, monkeypatch, labels
):
  many = contracts.Split(tiny.train.images, np.ones((12, 3), bool))
  if labels == 2:
    monkeypatch.setattr(
      data, "load", lambda *_: dataclasses.replace(tiny, train=many, test=many)
    )
  with pytest.raises(errors.UsageError) as caught:
    make("knn" if labels == 2 else "svm", **{"k": 1} if labels == 2 else {})
  words = "several classes an image'; allowed: data with one class an image"
  if labels == 1:
    words = "one class an image'; allowed: data with several classes an image"
  assert words in str(caught.value)


def test_nothing_left_to_select_by_is_refused(tiny, monkeypatch):
  one = contracts.Split(tiny.train.images[:3], tiny.train.labels[:3])
  few = dataclasses.replace(tiny, train=one)
  monkeypatch.setattr(data, "load", lambda *_: few)
  with pytest.raises(
    errors.UsageError, match="here.split: given 'selection'; "
  ):
    make("knn", k=1, split="selection")


def encode_any(variables, images):
  return images.mean((1, 2))


def test_kept_features_do_not_keep_the_weights_alive(tiny):
  weights = jax.device_put(VARIABLES)
  features_of(tiny, encode, weights)
  assert features._last.leaves[0]() is weights["w"]
  del weights
  assert features._last.leaves[0]() is None


def make(name, channels=None, **changes):
  model = contracts.Model(encode=encode, channels=channels)
  entry = {"name": name, "batch": 8, **changes}
  return plugins.make("evaluations", entry, model, mesh_of(1), path="here")


@pytest.mark.parametrize("name", ["knn", "linear"])
@pytest.mark.parametrize(
  "changes, expected",
  [
    ({"batch": 0}, "here.batch: given 0; allowed: an integer in 1..65536"),
    ({"batch": 10**12}, "here.batch: given 1000000000000"),
    ({"batch": 8.0}, "here.batch: given 8.0"),
    ({"image_px": -1}, "here.image_px: given -1"),
    ({"split": "train"}, "here.split: given 'train'; allowed: one of test, s"),
    ({"selection_share": 1.0}, "here.selection_share: given 1.0"),
    ({"train_limit": -1}, "here.train_limit: given -1"),
    ({"train_limit": 2}, ".train_limit: given 2; allowed: 0 or at least the 3"),
    ({"every_steps": -2}, "here.every_steps: given -2"),
    (
      {"channels": 3},
      ".data: given 'tiny, c = 2'; allowed: images of 3 ch",
    ),
    ({"data": {"name": "tinny"}}, "here.data.name: given 'tinny'; allowed: "),
    ({"data": 3}, "here.data: given 3; allowed: a dictionary of options"),
    ({"datum": {}}, "here.datum: unknown option; allowed: "),
  ],
)
def test_bad_input(tiny, name, changes, expected):
  with pytest.raises(errors.UsageError) as caught:
    make(name, **{"k": 1} if name == "knn" else {}, **changes)
  (line,) = str(caught.value).splitlines()
  assert expected in line


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_an_evaluation_says_what_it_judges(tiny, name):
  options = {"k": 1} if name == "knn" else {"max_iterations": 3}
  made = make(name, channels=2, train_limit=6, **options)
  assert made.requires == {"encode"} and made.unit == "%"
  assert made.about.endswith(", on tiny")
  results = dict(made.run(VARIABLES))
  assert made.headline in results
  # Raw pixels are judged by the same code, without weights.
  same = plugins.make(
    "evaluations",
    {"name": name, "batch": 8, "train_limit": 6, **options},
    contracts.Model(encode=five_pixels),
    mesh_of(1),
  )
  assert dict(same.run({})).keys() == results.keys()

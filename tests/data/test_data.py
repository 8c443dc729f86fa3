"""What the room offers to every data set: load, check, digest, balance."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.lib import contracts, errors


def tiny(**changes):
  split = contracts.Split(
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1),
    np.array([0, 1], np.int32),
  )
  dataset = contracts.Dataset("tiny", 2, ("a", "b"), split, split)
  return dataclasses.replace(dataset, **changes)


def test_digest_is_of_content_only():
  assert data.digest(tiny()) == data.digest(tiny(name="renamed"))
  images, labels = tiny().test
  other = images.copy()
  other[1, 2, 3, 0] += 1
  for changed in (
    contracts.Split(other, labels),
    contracts.Split(images.reshape(2, 4, 3, 1), labels),
    contracts.Split(images, labels[::-1]),
    contracts.Split(images, labels.astype(np.int64)),
  ):
    assert data.digest(tiny(test=changed)) != data.digest(tiny())
  # A view with other strides, but equal values, is the same content.
  strided = contracts.Split(np.repeat(images, 2, axis=0)[::2], labels)
  assert data.digest(tiny(test=strided)) == data.digest(tiny())


def test_balanced_indices_against_a_loop():
  labels = np.random.default_rng(0).integers(0, 4, 50)
  labels[:20] = 3  # as if sorted by class
  for count in (1, 4, 10, 31, 49):
    chosen = data.balanced_indices(labels, count)
    taken, rank = [], 0
    while len(taken) < count:  # class by class in turn
      for label in range(4):
        members = np.flatnonzero(labels == label)
        if rank < len(members) and len(taken) < count:
          taken.append(members[rank])
      rank += 1
    np.testing.assert_array_equal(chosen, sorted(taken))


@pytest.mark.parametrize("count", [0, 5, 6])
def test_balanced_indices_takes_all(count):
  np.testing.assert_array_equal(
    data.balanced_indices(np.array([1, 0, 1, 1, 0]), count), np.arange(5)
  )


def test_load_makes_each_entry_once(monkeypatch):
  monkeypatch.setattr(data, "_cache", {})
  one = data.load({"name": "fashion_mnist_mini"})
  assert data.load({"name": "fashion_mnist_mini"}) is one
  with pytest.raises(errors.UsageError, match="no such folder: '/nowhere'"):
    data.load({"name": "fashion_mnist", "data_dir": "/nowhere"})


@pytest.mark.parametrize(
  "entry, expected",
  [
    ({}, "here.name: given ''; allowed: caltech101, cifar10, cifar100, fash"),
    ({"name": "mnist"}, "here.name: given 'mnist'"),
    ({"name": "tfds", "limits": 1}, "here.limits: unknown option"),
    ({"name": "tfds", "limit": -1}, "here.limit: given -1; allowed: an int"),
  ],
)
def test_load_names_the_key(entry, expected):
  with pytest.raises(errors.UsageError) as caught:
    data.load(entry, path="here")
  assert expected in str(caught.value)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 1)).astype("uint8")
LABELS = np.arange(6) % 3
GOOD = {"train": (IMAGES, LABELS), "test": (IMAGES[:4], LABELS[:4])}


@pytest.fixture
def plug_in(monkeypatch):
  """Gives (options of a Dataset) -> an entry whose plug-in returns it."""
  monkeypatch.setattr(data, "_cache", {})
  lab = types.ModuleType("my_lab")
  lab.x = types.ModuleType("my_lab.x")
  monkeypatch.setitem(sys.modules, "my_lab", lab)
  monkeypatch.setitem(sys.modules, "my_lab.x", lab.x)

  def use(num_classes=3, class_names=(), **splits):
    splits = {
      name: contracts.Split(*pair) for name, pair in {**GOOD, **splits}.items()
    }
    lab.x.make = lambda cfg: contracts.Dataset(
      "mine", num_classes, class_names, **splits
    )
    return {"name": "my_lab.x"}

  return use


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_of_any_integer_type_are_kept(plug_in, dtype):
  labels = LABELS.astype(dtype)
  made = data.load(plug_in(train=(IMAGES, labels)))
  assert made.train.labels is labels and made.train.images is IMAGES
  colors = np.repeat(IMAGES, 3, axis=-1)
  data.load(plug_in(train=(colors, LABELS), test=(colors, LABELS)))


@pytest.mark.parametrize(
  "wrong, expected",
  [
    (
      {"selection": (IMAGES, LABELS + 1)},
      "selection labels in 1..3; allowed: 0..2",
    ),
    ({"selection": (IMAGES[:, 1:], LABELS)}, "selection images (3, 3, 1)"),
    ({"train": (IMAGES, np.eye(6, 2) > 0)}, "bool[6, 2]; allowed: [6, 3], one"),
    ({"train": (IMAGES, np.eye(6, 3) > 1)}, "no train image of class 0"),
    (
      {"train": (IMAGES, np.eye(6, 3) > 0)},
      "test labels int64[4]; allowed: the kind of train labels",
    ),
    ({"num_classes": 1}, "num_classes 1; allowed: an integer >= 2"),
    ({"num_classes": -3}, "num_classes -3; allowed: an integer >= 2"),
    ({"num_classes": 4}, "no train image of class 3; allowed: images of every"),
    ({"class_names": ("a",)}, "class_names ('a',); allowed: 3 names, or ()"),
    ({"train": (IMAGES, LABELS - 1)}, "train labels in -1..1; allowed: 0..2"),
    ({"train": (IMAGES, LABELS + 1)}, "train labels in 1..3; allowed: 0..2"),
    ({"test": (IMAGES, LABELS + 1)}, "test labels in 1..3; allowed: 0..2"),
    ({"train": (IMAGES, LABELS * 0)}, "no train image of class 1; allowed:"),
    (
      {"train": (IMAGES, np.maximum(LABELS, 1))},
      "no train image of class 0; allowed: images of every class 0..2",
    ),
    (
      {"train": (IMAGES, LABELS.astype("float32"))},
      "train labels float32[6]; allowed: numpy integers [N]",
    ),
    (
      {"train": (IMAGES, LABELS == 0)},
      "train labels bool[6]; allowed: numpy integers [N]",
    ),
    ({"train": (IMAGES, LABELS[:5])}, "[5]; allowed: [6], one for each image"),
    ({"test": (IMAGES, LABELS[:, None])}, "[6, 1]; allowed: [6], one for"),
    ({"train": (IMAGES, list(LABELS))}, "train labels list; allowed: numpy"),
    ({"train": (list(IMAGES), LABELS)}, "train images list; allowed: numpy"),
    (
      {"test": (IMAGES / np.float32(255), LABELS)},
      "test images float32[6, 4, 3, 1]; allowed: numpy uint8 [N h w c]",
    ),
    ({"train": (IMAGES[..., 0], LABELS)}, "uint8[6, 4, 3]; allowed: [N h w c]"),
    (
      {"train": (np.repeat(IMAGES, 2, axis=-1), LABELS)},
      "uint8[6, 4, 3, 2]; allowed: [N h w c], N h w >= 1 and c 1 or 3",
    ),
    ({"test": (IMAGES[:0], LABELS[:0])}, "test images uint8[0, 4, 3, 1]"),
    (
      {"test": (IMAGES[:, :3], LABELS)},
      "test images (3, 3, 1); allowed: the shape of the train images",
    ),
  ],
)
def test_what_a_plug_in_returns_is_checked(plug_in, wrong, expected):
  with pytest.raises(errors.PluginError) as caught:
    data.load(plug_in(**wrong))
  (line,) = str(caught.value).splitlines()
  assert line.startswith("plug-in my_lab.x returned ") and expected in line


class Lazy:
  """Images that count how many of them are decoded."""

  dtype = np.dtype(np.uint8)

  def __init__(self, images, shape=None, length=None):
    self.images, self.decoded = images, 0
    self.shape = images.shape if shape is None else shape
    self.length = len(images) if length is None else length

  def __len__(self):
    return self.length

  def __getitem__(self, rows):
    self.decoded += len(self.images[rows])
    return self.images[rows]


def test_images_decoded_on_demand_and_several_labels(plug_in):
  many = np.repeat(IMAGES, 40, axis=0)
  lazy = Lazy(many)
  labels = np.arange(len(many) * 3).reshape(-1, 3) % 5 < 2
  made = data.load(
    plug_in(
      train=(lazy, labels),
      test=(IMAGES, labels[:6]),
      selection=(IMAGES[:2], labels[:2]),
    )
  )
  assert made.train.images is lazy and 0 < lazy.decoded <= 10
  assert list(data.splits_of(made)) == ["train", "test", "selection"]
  # Without a digest of their own they count by their pixels.
  resident = dataclasses.replace(made, train=contracts.Split(many, labels))
  lazy.__class__.__array__ = lambda self, *rest, **more: self.images
  assert data.digest(made) == data.digest(resident)
  fewer = dataclasses.replace(made, selection=None)
  assert data.digest(made) != data.digest(fewer)


@pytest.mark.parametrize(
  "lazy, expected",
  [
    (Lazy(IMAGES, shape=(6, 4, 3, 3)), "rows are uint8[6, 4, 3, 1]; allowed:"),
    (Lazy(IMAGES, length=5), "of length 5; allowed: 6"),
    (Lazy(IMAGES * 0), "train images of 0..0; allowed: pixels in 0..255"),
    (Lazy(IMAGES, shape=(6, 4, 3)), "uint8[6, 4, 3]; allowed: [N h w c]"),
  ],
)
def test_images_decoded_on_demand_are_checked(plug_in, lazy, expected):
  with pytest.raises(errors.PluginError) as caught:
    data.load(plug_in(train=(lazy, LABELS)))
  assert expected in str(caught.value)


def test_splits_are_splits_and_data_sets_data_sets(plug_in):
  entry = plug_in()
  sys.modules["my_lab.x"].make = lambda cfg: tiny(test=(IMAGES, LABELS))
  with pytest.raises(errors.PluginError, match="test is .* allowed: Split"):
    data.load(entry)
  sys.modules["my_lab.x"].make = lambda cfg: tiny(num_classes=3.0)
  with pytest.raises(
    errors.PluginError, match="num_classes is 3.0; allowed: int"
  ):
    data.load(entry)
  sys.modules["my_lab.x"].make = lambda cfg: None
  with pytest.raises(errors.PluginError, match="returned NoneType; allowed"):
    data.load(entry)

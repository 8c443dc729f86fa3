"""What the room offers to every data set: load, digest, balanced_indices."""

import dataclasses

import ml_collections
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


def test_load_makes_each_config_once(monkeypatch):
  monkeypatch.setattr(data, "_cache", {})
  one = data.load(ml_collections.ConfigDict({"name": "fashion_mnist_mini"}))
  two = data.load(ml_collections.ConfigDict({"name": "fashion_mnist_mini"}))
  assert one is two
  with pytest.raises(errors.UsageError, match="no such folder: '/nowhere'"):
    data.load(
      ml_collections.ConfigDict(
        {"name": "fashion_mnist", "data_dir": "/nowhere"}
      )
    )


def test_load_without_a_name_lists_what_exists():
  with pytest.raises(errors.UsageError, match="empty.*fashion_mnist_mini"):
    data.load(ml_collections.ConfigDict({"name": ""}))

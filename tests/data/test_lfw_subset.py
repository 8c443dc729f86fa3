"""lfw_subset: 200 real images from scikit-image."""

import sys

import ml_collections
import numpy as np
import pytest

from genrep_jax.data import lfw_subset
from genrep_jax.lib import errors


def make(**options):
  return lfw_subset.make(
    ml_collections.ConfigDict(lfw_subset.default_config() | options)
  )


def test_faces_and_backgrounds_in_equal_halves():
  skimage = pytest.importorskip("skimage.data")
  data = make()
  for first, split in enumerate((data.train, data.test)):
    assert split.images.shape == (100, 32, 32, 3)
    assert split.images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(split.labels), [50, 50])
    original = skimage.lfw_subset()[first::2]
    # Resizing keeps the mean grey of every image to a few levels.
    means = split.images.mean((1, 2, 3)) / 255 - original.mean((1, 2))
    assert np.abs(means).max() < 0.02
  assert make(image_px=25, channels=1).train.images.shape == (100, 25, 25, 1)


def test_without_scikit_image_its_name_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, "skimage", None)
  with pytest.raises(errors.UsageError, match="pip install"):
    make()


@pytest.mark.parametrize("options", [{"image_px": 0}, {"channels": 2}])
def test_bad_options_are_refused(options):
  with pytest.raises(errors.UsageError, match=next(iter(options))):
    make(**options)

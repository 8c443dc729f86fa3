"""lfw_subset: 200 real images from scikit-image."""

import sys

import numpy as np
import pytest

from genrep_jax.lib import errors, plugins


def make(**options):
  return plugins.make("data", {"name": "lfw_subset", **options})


def test_faces_and_backgrounds_in_equal_halves():
  skimage = pytest.importorskip("skimage.data")
  data = make()
  for first, split in enumerate((data.train, data.test)):
    assert split.images.shape == (100, 32, 32, 3)
    assert split.images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(split.labels), [50, 50])
    original = skimage.lfw_subset()[first::2]
    # Resizing keeps the mean gray of every image to a few levels.
    means = split.images.mean((1, 2, 3)) / 255 - original.mean((1, 2))
    assert np.abs(means).max() < 0.02
  assert make(image_px=25, channels=1).train.images.shape == (100, 25, 25, 1)


def test_without_scikit_image_its_name_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, "skimage", None)
  with pytest.raises(errors.UsageError, match="pip install"):
    make()


@pytest.mark.parametrize(
  "options", [{"image_px": 0}, {"image_px": 10**6}, {"channels": 2}]
)
def test_bad_options_are_refused(options):
  ((key, value),) = options.items()
  with pytest.raises(errors.UsageError, match=f"{key}: given {value}; allowed"):
    make(**options)

"""Faces and other patches: scikit-image's lfw_subset, 200 real images.

100 gray faces of Labeled Faces in the Wild (Huang et al. 2007) and 100 patches
of its backgrounds, 25 x 25 pixels, which scikit-image carries in its package:
`pip install -e '.[faces]'`. Even images train, odd ones test. So small a test
set tells an accuracy to within some 4 points at best (one standard deviation of
100 draws), and face or not is an easy question: a check that a pipeline works,
not a benchmark.
"""

import numpy as np

from genrep_jax.lib import contracts, errors, options

CLASS_NAMES = ("face", "background")
_FACES = 100  # stand first


OPTIONS = {
  "image_px": options.integer(
    32,
    "the 25 px are resized to so many (bicubic)",
    low=1,
    high=1024,
    unit="px",
  ),
  "channels": options.one_of(3, (1, 3), "gray, repeated as often"),
}


def make(cfg) -> contracts.Dataset:
  """Loads the 200 images.

  Args:
    cfg: `OPTIONS`.

  Returns:
    The data set: train and test [100 image_px image_px channels].

  Raises:
    UsageError: scikit-image is not installed.
  """
  try:
    from skimage import data
  except ImportError as error:
    raise errors.UsageError(
      "data: lfw_subset needs scikit-image: pip install -e '.[faces]'"
    ) from error
  images = _resize(data.lfw_subset(), cfg.image_px)
  images = np.repeat(images[..., None], cfg.channels, axis=-1)
  labels = (np.arange(len(images)) >= _FACES).astype(np.int32)
  return contracts.Dataset(
    name="lfw_subset",
    num_classes=len(CLASS_NAMES),
    class_names=CLASS_NAMES,
    train=contracts.Split(images[0::2], labels[0::2]),
    test=contracts.Split(images[1::2], labels[1::2]),
  )


def _resize(images, image_px: int) -> np.ndarray:
  """Resizes [n h w] in [0, 1] to uint8 [n image_px image_px]."""
  from PIL import Image

  pixels = np.rint(np.asarray(images) * 255).astype(np.uint8)
  size = (image_px, image_px)
  return np.stack(
    [
      np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC))
      for one in pixels
    ]
  )

"""No augmentation: an optional centre crop, then normalisation.

GenRep's "T_z only" (`--removeimtf`: centre crop, no augmentation), and what an
evaluation shows the encoder.
"""

import jax.numpy as jnp

from genrep_jax.lib import contracts
from genrep_jax.views.pixel import _checks, _ops


def default_config() -> dict:
  """Returns the options; mean and std are GenRep's (ImageNet's)."""
  return {
    "name": "none",
    "crop_px": 0,  # side of the centre crop; 0: the whole image
    "mean": (0.485, 0.456, 0.406),  # of pixels in [0, 1]; 1 or c numbers
    "std": (0.229, 0.224, 0.225),
  }


def check(cfg, image_shape) -> None:
  """Raises UsageError where images of `image_shape` (h, w, c) do not fit."""
  _checks.crop_px("none", cfg)
  _checks.normalisation("none", cfg)
  _checks.crop_fits("none", cfg, image_shape)
  _checks.channels("none", cfg, image_shape[-1])


def make(cfg) -> contracts.PixelView:
  """Makes the view; its key is not used.

  Args:
    cfg: options as in `default_config`.

  Returns:
    (key, image [h w c] in [-1, 1]) -> float32 [h' w' c], normalised.

  Raises:
    UsageError: an option out of range.
  """
  crop_px = _checks.crop_px("none", cfg)
  mean, std = _checks.normalisation("none", cfg)

  def view(key, image):
    del key
    check(cfg, image.shape)
    height, width, _ = image.shape
    size = (crop_px, crop_px) if crop_px else (height, width)
    # torchvision's CenterCrop: halves of odd margins round to even.
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    image = image[top : top + size[0], left : left + size[1]]
    planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    planes = _ops.normalise((planes + 1) / 2, mean, std)
    return jnp.moveaxis(planes, 0, -1)

  return view

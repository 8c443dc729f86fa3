"""No augmentation: an optional center crop, then normalization.

GenRep's "T_z only" (`--removeimtf`: center crop, no augmentation), and what an
evaluation shows the encoder.
"""

import dataclasses

import jax.numpy as jnp

from genrep_jax.lib import contracts
from genrep_jax.views import pixel_ops
from genrep_jax.views.pixel import _shared

OPTIONS = {  # mean and std are GenRep's (ImageNet's)
  "crop_px": dataclasses.replace(
    _shared.CROP_PX, default=0, help="side of the center crop; 0: no crop"
  ),
  **_shared.NORMALIZATION,
}


def make(cfg, image_shape, num_views: int) -> contracts.PixelViews:
  """Makes the view, one for all; its key is not used.

  Raises:
    UsageError: images that are too small, or of other channels.
  """
  _shared.side(cfg, image_shape)
  height, width, _ = image_shape
  size = (cfg.crop_px, cfg.crop_px) if cfg.crop_px else (height, width)
  # torchvision's CenterCrop: halves of odd margins round to even.
  top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)

  def view(key, image):
    del key
    image = image[top : top + size[0], left : left + size[1]]
    planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    planes = pixel_ops.normalize((planes + 1) / 2, cfg.mean, cfg.std)
    return jnp.moveaxis(planes, 0, -1)

  views = (view,) * num_views
  return contracts.PixelViews(views, tuple(cfg.mean), tuple(cfg.std))

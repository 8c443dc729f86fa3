"""Multi-crop: a few large crops of an anchor and many small ones.

SwAV (Caron et al. 2020, section 3.3); the sizes and areas are DINO's (Caron et
al. 2021, section 3.2), the colors SimCLR's, as SwAV's. Views 0 to
num_global - 1 are global crops, all others local ones: an encoder sees 2 x 224
and 6 x 96 pixels at the price of little more than three global crops. SwAV's
own areas: scale (0.14, 1), local_scale (0.05, 0.14).

All V views are crops of renderings: `views.num_views` = num_global + locals,
and `views.rendering_of` = (0, 1, 0, 1, ...) lets the local ones share the
global ones' renderings.
"""

import dataclasses

import ml_collections

from genrep_jax.lib import contracts, options
from genrep_jax.views.pixel import _family, simclr

OPTIONS = simclr.OPTIONS | {
  "scale": _family.scale((0.4, 1.0), "area of a global crop's box"),
  "num_global": options.integer(
    2, "views 0 .. num_global - 1 are global crops", low=1, high=64
  ),
  "local_crop_px": options.integer(
    96, "side of all other views", low=4, high=4096, unit="px"
  ),
  "local_scale": _family.scale((0.05, 0.4), "area of their boxes"),
}


def make(cfg, image_shape, num_views: int) -> contracts.PixelViews:
  """Makes the views of the global crops, and then those of the local ones.

  Raises:
    UsageError: as `_family.make`, or local crops larger than the global ones.
  """
  shown = _family.make(cfg, image_shape, num_views)
  side = cfg.crop_px or min(image_shape[:2])
  if cfg.local_crop_px > side:
    options.refuse(
      "views.pixel.local_crop_px",
      cfg.local_crop_px,
      f"at most {side}, the side of the global crops",
    )
  local = ml_collections.ConfigDict(cfg)
  local.update(crop_px=cfg.local_crop_px, scale=cfg.local_scale)
  small = _family.make(local, image_shape, num_views).views
  return dataclasses.replace(
    shown,
    views=(*shown.views[: cfg.num_global], *small[cfg.num_global :]),
    boxes=(),  # of one size for every view they are not
    cropped=(),
  )

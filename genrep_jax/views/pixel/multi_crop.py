"""Multi-crop: a few large crops of an anchor and many small ones.

SwAV (Caron et al. 2020, section 3.3); the sizes and areas are DINO's (Caron et
al. 2021, section 3.2), the colours SimCLR's, as SwAV's. Views 0 to
num_global - 1 are global crops, all others local ones: an encoder sees 2 x 224
and 6 x 96 pixels at the price of little more than three global crops. SwAV's
own areas: scale (0.14, 1), local_scale (0.05, 0.14).

All V views are crops of renderings: `views.num_views` = num_global + locals,
and `views.rendering_of` = (0, 1, 0, 1, ...) lets the local ones share the
global ones' renderings.
"""

from genrep_jax.lib import contracts
from genrep_jax.views.pixel import _checks, _pipeline, simclr


def default_config() -> dict:
  """Returns the options: SimCLR's, and two sizes of crops."""
  return simclr.default_config() | {
    "name": "multi_crop",
    "num_global": 2,  # views 0 .. num_global - 1
    "scale": (0.4, 1.0),  # area of a global crop's box
    "local_crop_px": 96,  # side of all other views
    "local_scale": (0.05, 0.4),
  }


def check(cfg, image_shape) -> None:
  """Raises UsageError where images of `image_shape` (h, w, c) do not fit."""
  _check_options(cfg)
  _pipeline.check(cfg, image_shape)
  side = cfg.crop_px or min(image_shape[:2])
  if cfg.local_crop_px > side:
    _checks.refuse(
      cfg.name,
      "local_crop_px",
      cfg.local_crop_px,
      f"at most {side}, the side of the global crops",
    )
  _pipeline.check(_of_locals(cfg), image_shape)


def make(cfg) -> contracts.PixelView:
  """Makes the view of a global crop."""
  return make_for_view(cfg, 0)


def make_for_view(cfg, number: int) -> contracts.PixelView:
  """Makes the view of a number, the global crops' or the local ones'.

  Args:
    cfg: options as in `default_config`.
    number: of the view, from 0.

  Returns:
    (key, image [h w c] in [-1, 1]) -> float32 [h' w' c], normalised.

  Raises:
    UsageError: an option out of range.
  """
  _check_options(cfg)
  is_local = number >= cfg.num_global
  return _pipeline.make_view(_of_locals(cfg) if is_local else cfg)


def _of_locals(cfg):
  return _pipeline.changed(
    cfg, crop_px=cfg.local_crop_px, scale=cfg.local_scale
  )


def _check_options(cfg):
  for key in ("num_global", "local_crop_px"):
    if int(cfg[key]) != cfg[key] or cfg[key] < 1:
      _checks.refuse(cfg.name, key, cfg[key], "1, 2, 3, ...")
  _checks.interval(cfg.name, cfg, "local_scale", 1)

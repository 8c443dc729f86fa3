"""What the views of the SimCLR family share: they differ in their options.

The augmentation itself is views/augmentation.py.
"""

import dataclasses
import functools

import ml_collections

from genrep_jax.lib import contracts, options as options_lib
from genrep_jax.views import augmentation
from genrep_jax.views.pixel import _shared

_PER_VIEW = ("blur_probability", "solarize_probability")


def scale(default, help) -> options_lib.Option:
  """Declares the area of a box."""
  help += ", as a share of the image's"
  return options_lib.interval(default, help, above=0, high=1)


def _probability(default, help):
  return options_lib.number(default, help, low=0, high=1)


def _per_view(help):
  help += "; or of view 0, of view 1, and so on in turn"
  one = _probability(0.0, help)
  return options_lib.either(one, options_lib.several((), one, least=1))


def _strength():
  help = "strength s: factor uniform in [max(0, 1 - s), 1 + s]"
  return options_lib.number(0.4, help, low=0, high=10)


_OPTIONS = {
  "crop_px": _shared.CROP_PX,
  "scale": scale((0.2, 1.0), "area of the box"),
  "ratio": options_lib.interval(
    (3 / 4, 4 / 3), "width / height of the box", low=0.01, high=100
  ),
  "antialias": options_lib.flag(
    True, "widen the filter when shrinking, as Pillow does"
  ),
  "flip_probability": _probability(0.5, "of mirroring left and right"),
  "jitter_probability": _probability(0.8, "of jittering the colors"),
  "brightness": _strength(),
  "contrast": _strength(),
  "saturation": _strength(),
  "hue": options_lib.number(
    0.1, "turn uniform in [-hue, hue]", low=0, high=0.5, unit="circles"
  ),
  "grayscale_probability": _probability(0.2, "of dropping the colors"),
  "blur_probability": _per_view("of a blur"),
  "blur_sigma_px": options_lib.interval(
    (0.1, 2.0), "standard deviation of a blur", low=0.01, high=1e3, unit="px"
  ),
  "blur_kernel_px": options_lib.integer(
    11,
    "the blur's window; 0: a tenth of the view's side, at least 3",
    low=0,
    high=1023,
    only=("odd or 0", lambda px: px % 2 == 1 or px == 0),
    unit="px",
  ),
  "solarize_probability": _per_view("of inverting bright pixels"),
  "solarize_threshold": options_lib.number(
    0.5, "of pixels in [0, 1]; these and above: 1 - x", low=0, high=1
  ),
  **_shared.NORMALIZATION,
}


def options(**changes) -> dict:
  """Declares a view's options: GenRep's for 128 px images, defaults changed."""
  return {
    name: dataclasses.replace(option, default=changes.get(name, option.default))
    for name, option in _OPTIONS.items()
  }


def make(cfg, image_shape, num_views: int) -> contracts.PixelViews:
  """Makes the views; those that do not differ are the same function.

  Args:
    cfg: options as in `options`, and perhaps others.
    image_shape: (h, w, c) of the images before T_x.
    num_views: v.

  Raises:
    UsageError: images that are too small, or of other channels.
  """
  side = _shared.side(cfg, image_shape)
  rates = [
    tuple(_in_turn(cfg[key], number) for key in _PER_VIEW)
    for number in range(num_views)
  ]
  blurred = any(blur > 0 for blur, _ in rates)
  if blurred and augmentation.blur_kernel_px(cfg, side) // 2 >= side:
    options_lib.refuse(
      "views.pixel.blur_kernel_px", cfg.blur_kernel_px, f"below {2 * side}"
    )
  views, cropped = (
    {rate: _view(cfg, rate, cropped) for rate in rates}
    for cropped in (False, True)
  )
  return contracts.PixelViews(
    tuple(views[rate] for rate in rates),
    tuple(cfg.mean),
    tuple(cfg.std),
    boxes=(functools.partial(augmentation.draw_box, cfg),) * num_views,
    cropped=tuple(cropped[rate] for rate in rates),
    crop_px=side,
  )


def _in_turn(values, number):
  values = values if isinstance(values, (tuple, list)) else (values,)
  return values[number % len(values)]


def _view(cfg, rates, cropped):
  cfg = ml_collections.ConfigDict(cfg)
  with cfg.ignore_type():
    cfg.update(dict(zip(_PER_VIEW, rates, strict=True)))

  def view(key, image):
    numbers = augmentation.draw(cfg, key, image.shape)
    return augmentation.apply(cfg, numbers, image, cropped=cropped)

  return view

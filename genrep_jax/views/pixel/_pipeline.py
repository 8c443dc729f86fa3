"""What the views of the SimCLR family share: they differ in their options.

Random resized crop, horizontal flip, color jitter in random order, grayscale,
Gaussian blur, solarize, normalize (Chen et al. 2020, appendix A; the order and
solarize of Grill et al. 2020, appendix B). Each image's numbers are drawn by
torchvision's laws from one key, and then applied by `apply`, a deterministic
function. Pixels are interpolated linearly (the papers' TensorFlow code: cubic).

Gray-scale images (c = 1): saturation, hue and grayscale are identities there
(as in torchvision), so jitter is brightness and contrast.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from genrep_jax.lib import contracts, options as options_lib
from genrep_jax.views import pixel_ops
from genrep_jax.views.pixel import _shared

_CROP_TRIES = 10  # torchvision's RandomResizedCrop
# The one draw of all other numbers is as long as without solarize, and so the
# same bits; solarize has a key of its own.
_SOLARIZE_STREAM = 0x536F6C
_PER_VIEW = ("blur_probability", "solarize_probability")


class Draw(NamedTuple):
  """The random numbers of one view of one image; all scalars but two.

  Attributes:
    top: first row of the crop's box, float32 holding an integer; likewise:
    left: first column.
    height: rows of the box.
    width: columns of the box.
    flip: bool.
    factors: float32 [4], brightness, contrast, saturation, hue's turn.
    order: int32 [4], the order of these four (see `pixel_ops.color_jitter`).
    grayscale: bool.
    blur_sigma_px: standard deviation; 0 = no blur.
    solarize: bool.
  """

  top: jax.Array
  left: jax.Array
  height: jax.Array
  width: jax.Array
  flip: jax.Array
  factors: jax.Array
  order: jax.Array
  grayscale: jax.Array
  blur_sigma_px: jax.Array
  solarize: jax.Array


def scale(default, help) -> options_lib.Option:
  """Declares the area of a box."""
  help += ", as a share of the image's"
  return options_lib.interval(default, help, above=0, high=1)


def _probability(default, help=""):
  return options_lib.number(default, help, low=0, high=1)


def _per_view(help):
  help += "; or of view 0, of view 1, and so on in turn"
  one = _probability(0.0, help)
  return options_lib.either(one, options_lib.several((), one, least=1))


def _strength(help):
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
  "flip_probability": _probability(0.5),
  "jitter_probability": _probability(0.8),
  "brightness": _strength("s: factor uniform in [max(0, 1-s), 1+s]"),
  "contrast": _strength("likewise"),
  "saturation": _strength("likewise"),
  "hue": options_lib.number(
    0.1, "turn uniform in [-hue, hue]", low=0, high=0.5, unit="circles"
  ),
  "grayscale_probability": _probability(0.2),
  "blur_probability": _per_view("of a blur"),
  "blur_sigma_px": options_lib.interval(
    (0.1, 2.0), "standard deviation", low=0.01, high=1000, unit="px"
  ),
  "blur_kernel_px": options_lib.integer(
    11,
    "window; 0: a tenth of the view's side, at least 3",
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
  if blurred and blur_kernel_px(cfg, side) // 2 >= side:
    options_lib.refuse(
      "views.pixel.blur_kernel_px", cfg.blur_kernel_px, f"below {2 * side}"
    )
  views = {rate: _view(cfg, rate) for rate in rates}
  views = tuple(views[rate] for rate in rates)
  return contracts.PixelViews(views, tuple(cfg.mean), tuple(cfg.std))


def _in_turn(values, number):
  values = values if isinstance(values, (tuple, list)) else (values,)
  return values[number % len(values)]


def _view(cfg, rates):
  cfg = ml_collections.ConfigDict(cfg)
  with cfg.ignore_type():
    cfg.update(dict(zip(_PER_VIEW, rates, strict=True)))

  def view(key, image):
    return apply(cfg, draw(cfg, key, image.shape), image)

  return view


def draw(cfg, key, image_shape) -> Draw:
  """Draws the numbers of one view by torchvision's laws.

  Args:
    cfg: options as in `options`.
    key: a PRNG key.
    image_shape: (h, w, c).

  Returns:
    A Draw.
  """
  u = jax.random.uniform(key, (2 * _CROP_TRIES + 15,))
  crop_u, u = u[: 2 * _CROP_TRIES + 2], u[2 * _CROP_TRIES + 2 :]
  box = random_box(crop_u, image_shape, cfg.scale, cfg.ratio)
  strength = jnp.asarray(
    [cfg.brightness, cfg.contrast, cfg.saturation], jnp.float32
  )
  low, high = jnp.maximum(0, 1 - strength), 1 + strength
  factors = jnp.append(low + (high - low) * u[:3], cfg.hue * (2 * u[3] - 1))
  nothing = jnp.asarray([1.0, 1.0, 1.0, 0.0], jnp.float32)
  low, high = cfg.blur_sigma_px
  solarize = jnp.bool_(False)
  if cfg.solarize_probability > 0:
    solarize_key = jax.random.fold_in(key, _SOLARIZE_STREAM)
    solarize = jax.random.uniform(solarize_key) < cfg.solarize_probability
  return Draw(
    *box,
    flip=u[8] < cfg.flip_probability,
    factors=jnp.where(u[9] < cfg.jitter_probability, factors, nothing),
    order=jnp.argsort(u[4:8]),
    grayscale=u[10] < cfg.grayscale_probability,
    blur_sigma_px=jnp.where(
      u[11] < cfg.blur_probability, low + (high - low) * u[12], 0.0
    ),
    solarize=solarize,
  )


def random_box(u, image_shape, scale, ratio):
  """Draws RandomResizedCrop's box, without a loop.

  Ten candidates: area uniform in `scale` * h * w, log(width / height) uniform;
  the first that fits into the image is placed uniformly. If none fits, the
  largest centered box whose ratio is allowed.

  Args:
    u: uniform numbers in [0, 1), [22].
    image_shape: (h, w, c).
    scale: (minimum, maximum) area, as a share of the image's.
    ratio: (minimum, maximum) of width / height.

  Returns:
    (top, left, height, width), float32 scalars holding integers.
  """
  image_height, image_width, _ = image_shape
  area = image_height * image_width
  area = area * (scale[0] + (scale[1] - scale[0]) * u[:_CROP_TRIES])
  low, high = math.log(ratio[0]), math.log(ratio[1])
  aspect = jnp.exp(low + (high - low) * u[_CROP_TRIES:-2])
  widths = jnp.round(jnp.sqrt(area * aspect))
  heights = jnp.round(jnp.sqrt(area / aspect))
  fits = (widths >= 1) & (widths <= image_width)
  fits &= (heights >= 1) & (heights <= image_height)
  first = fits & (jnp.cumsum(fits) == 1)
  any_fits = jnp.any(fits)

  top, left, height, width = _fallback_box(image_height, image_width, ratio)
  height = jnp.where(any_fits, jnp.sum(jnp.where(first, heights, 0)), height)
  width = jnp.where(any_fits, jnp.sum(jnp.where(first, widths, 0)), width)
  # The product can round up to the margin + 1: keep the box inside.
  margins = jnp.stack([image_height - height, image_width - width])
  corner = jnp.minimum(jnp.floor(u[-2:] * (margins + 1)), margins)
  corner = jnp.where(any_fits, corner, jnp.asarray([top, left], jnp.float32))
  return corner[0], corner[1], height, width


def apply(cfg, draw: Draw, image):
  """Applies one draw to one image; deterministic.

  Options that switch a stage off (probability or strength 0) leave it out of
  the program.

  Args:
    cfg: options as in `options`.
    draw: what to apply.
    image: [h w c] in [-1, 1], c = 1 or 3.

  Returns:
    float32 [h' w' c], normalized.
  """
  height, width, num_channels = image.shape
  size = (cfg.crop_px, cfg.crop_px) if cfg.crop_px else (height, width)
  planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
  planes = pixel_ops.resized_crop(
    planes,
    draw.top,
    draw.left,
    draw.height,
    draw.width,
    size,
    antialias=bool(cfg.antialias),
    flip=draw.flip,
  )
  # After the crop, where it costs no pass of its own: the crop is linear and
  # its weights sum to 1. Its rounding may leave [0, 1] by 1e-7.
  planes = jnp.clip((planes + 1) / 2, 0, 1)
  strengths = (cfg.brightness, cfg.contrast, cfg.saturation, cfg.hue)
  if cfg.jitter_probability > 0 and any(strengths):
    planes = pixel_ops.color_jitter(
      planes, draw.factors, draw.order, with_hue=cfg.hue > 0
    )
  if cfg.grayscale_probability > 0 and num_channels > 1:
    planes = jnp.where(draw.grayscale, pixel_ops.to_gray(planes), planes)
  if cfg.blur_probability > 0:
    kernel_px = blur_kernel_px(cfg, min(size))
    planes = pixel_ops.gaussian_blur(planes, draw.blur_sigma_px, kernel_px)
  if cfg.solarize_probability > 0:
    negative = pixel_ops.solarize(planes, cfg.solarize_threshold)
    planes = jnp.where(draw.solarize, negative, planes)
  planes = pixel_ops.normalize(planes, cfg.mean, cfg.std)
  return jnp.moveaxis(planes, 0, -1)


def blur_kernel_px(cfg, side: int) -> int:
  """Returns the length of the blur's window for views of a side."""
  return cfg.blur_kernel_px or max(3, side // 10 // 2 * 2 + 1)


def _fallback_box(height, width, ratio):
  box_height, box_width = height, width
  if width / height < ratio[0]:
    box_height = min(height, round(width / ratio[0]))
  elif width / height > ratio[1]:
    box_width = min(width, round(height * ratio[1]))
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return top, left, box_height, box_width

"""What the views of the SimCLR family share: they differ in their options.

Random resized crop, horizontal flip, colour jitter in random order, grayscale,
Gaussian blur, solarise, normalise (Chen et al. 2020, appendix A; the order and
solarise of Grill et al. 2020, appendix B). Each image's numbers are drawn by
torchvision's laws from one key, and then applied by `apply`, a deterministic
function. Pixels are interpolated linearly (the papers' TensorFlow code: cubic).

Grey-scale images (c = 1): saturation, hue and grayscale are identities there
(as in torchvision), so jitter is brightness and contrast.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from genrep_jax.lib import contracts
from genrep_jax.views.pixel import _checks, _ops

_CROP_TRIES = 10  # torchvision's RandomResizedCrop
# The one draw of all other numbers is as long as without solarise, and so the
# same bits; solarise has a key of its own.
_SOLARIZE_STREAM = 0x536F6C


class Draw(NamedTuple):
  """The random numbers of one view of one image; all scalars but two.

  Attributes:
    top: first row of the crop's box, float32 holding an integer; likewise:
    left: first column.
    height: rows of the box.
    width: columns of the box.
    flip: bool.
    factors: float32 [4], brightness, contrast, saturation, hue's turn.
    order: int32 [4], the order of these four (see `_ops.color_jitter`).
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


def options(name: str, **changes) -> dict:
  """Returns a view's options: GenRep's values for 128 px images, changed.

  Args:
    name: the plug-in's.
    **changes: option -> default, in place of GenRep's or beside these.
  """
  return {
    "name": name,
    "crop_px": 112,  # side of the result; 0: as large as the input
    "scale": (0.2, 1.0),  # area of the box, as a share of the image's
    "ratio": (3 / 4, 4 / 3),  # width / height of the box
    "antialias": True,  # widen the filter when shrinking, as Pillow does
    "flip_probability": 0.5,
    "jitter_probability": 0.8,
    "brightness": 0.4,  # strength s: factor uniform in [max(0, 1-s), 1+s]
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,  # turn uniform in [-hue, hue], in circles; at most 0.5
    "grayscale_probability": 0.2,
    "blur_probability": 0.0,
    "blur_sigma_px": (0.1, 2.0),
    "blur_kernel_px": 11,  # odd; 0: a tenth of the view's side, at least 3
    "solarize_probability": 0.0,
    "solarize_threshold": 0.5,  # of pixels in [0, 1]; these and above: 1 - x
    "mean": (0.485, 0.456, 0.406),  # of pixels in [0, 1]; 1 or c numbers
    "std": (0.229, 0.224, 0.225),
    **changes,
  }


def check(cfg, image_shape) -> None:
  """Raises UsageError where images of `image_shape` (h, w, c) do not fit.

  The resampler could enlarge, but a crop larger than the image is refused:
  it is a config written for other images.
  """
  _check_options(cfg)
  _checks.crop_fits(cfg.name, cfg, image_shape)
  _checks.channels(cfg.name, cfg, image_shape[-1])
  side = cfg.crop_px or min(image_shape[:2])
  if cfg.blur_probability > 0 and blur_kernel_px(cfg, side) // 2 >= side:
    _checks.refuse(
      cfg.name, "blur_kernel_px", cfg.blur_kernel_px, f"below {2 * side}"
    )


def make_view(cfg) -> contracts.PixelView:
  """Makes a view; the same function for the same options.

  Views that share a function are augmented together (views/stages.py).

  Args:
    cfg: options as in `options`, and perhaps others.

  Returns:
    (key, image [h w c] in [-1, 1]) -> float32 [h' w' c], normalised.

  Raises:
    UsageError: an option out of range.
  """
  _check_options(cfg)
  return _view(ml_collections.FrozenConfigDict(cfg))


def changed(cfg, **changes) -> ml_collections.ConfigDict:
  """Returns a copy of a view's options with some of them changed."""
  return ml_collections.ConfigDict({**cfg.to_dict(), **changes})


@functools.cache
def _view(cfg):
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
  largest centred box whose ratio is allowed.

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
    float32 [h' w' c], normalised.
  """
  height, width, num_channels = image.shape
  _checks.channels(cfg.name, cfg, num_channels)
  size = (cfg.crop_px, cfg.crop_px) if cfg.crop_px else (height, width)
  planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
  planes = _ops.resized_crop(
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
    planes = _ops.color_jitter(
      planes, draw.factors, draw.order, with_hue=cfg.hue > 0
    )
  if cfg.grayscale_probability > 0 and num_channels > 1:
    planes = jnp.where(draw.grayscale, _ops.to_gray(planes), planes)
  if cfg.blur_probability > 0:
    kernel_px = blur_kernel_px(cfg, min(size))
    planes = _ops.gaussian_blur(planes, draw.blur_sigma_px, kernel_px)
  if cfg.solarize_probability > 0:
    negative = _ops.solarise(planes, cfg.solarize_threshold)
    planes = jnp.where(draw.solarize, negative, planes)
  planes = _ops.normalise(planes, cfg.mean, cfg.std)
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


def _check_options(cfg):
  view = cfg.name
  _checks.crop_px(view, cfg)
  _checks.interval(view, cfg, "scale", 1)
  _checks.interval(view, cfg, "ratio")
  for stage in ("flip", "jitter", "grayscale", "blur", "solarize"):
    _checks.number(view, cfg, f"{stage}_probability", 0, 1)
  for strength in ("brightness", "contrast", "saturation"):
    _checks.number(view, cfg, strength, 0)
  _checks.number(view, cfg, "hue", 0, 0.5)
  _checks.number(view, cfg, "solarize_threshold", 0, 1)
  _checks.interval(view, cfg, "blur_sigma_px")
  kernel_px = cfg.blur_kernel_px
  odd = kernel_px % 2 == 1 and kernel_px > 0
  if kernel_px != 0 and not odd:
    _checks.refuse(view, "blur_kernel_px", kernel_px, "0, 1, 3, 5, ...")
  _checks.normalisation(view, cfg)

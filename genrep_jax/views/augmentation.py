"""The augmentation of the SimCLR family: random numbers and what they do.

Random resized crop, horizontal flip, color jitter in random order, grayscale,
Gaussian blur, solarize, normalize (Chen et al. 2020, appendix A; the order and
solarize of Grill et al. 2020, appendix B). Each image's numbers are drawn by
torchvision's rules from one key, and then applied by `apply`, a deterministic
function. Pixels are interpolated linearly (the papers' TensorFlow code: cubic).

Gray-scale images (c = 1): saturation, hue and grayscale are identities there
(as in torchvision), so jitter is brightness and contrast.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrep_jax.views import pixel_ops

_CROP_TRIES = 10  # torchvision's RandomResizedCrop
# The one draw of all other numbers is as long as without solarize, and so the
# same bits; solarize has a key of its own.
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


def draw(cfg, key, image_shape) -> Draw:
  """Draws the numbers of one view by torchvision's rules.

  Args:
    cfg: a view's options, its probabilities as numbers (pixel/_family.py).
    key: a PRNG key.
    image_shape: (h, w, c).

  Returns:
    A Draw.
  """
  crop_u, u = _uniform(key)
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


def draw_box(cfg, key, size) -> jax.Array:
  """Draws the box alone, as `draw` does: float32 [4] of an image [2] px."""
  u, _ = _uniform(key)
  return jnp.stack(random_box(u, (size[0], size[1]), cfg.scale, cfg.ratio))


def _uniform(key):
  """Returns the numbers of the box and those of everything else."""
  u = jax.random.uniform(key, (2 * _CROP_TRIES + 15,))
  return u[: 2 * _CROP_TRIES + 2], u[2 * _CROP_TRIES + 2 :]


def random_box(u, image_shape, scale, ratio):
  """Draws RandomResizedCrop's box, without a loop.

  Ten candidates: area uniform in `scale` * h * w, log(width / height) uniform;
  the first that fits into the image is placed uniformly. If none fits, the
  largest centered box whose ratio is allowed.

  Args:
    u: uniform numbers in [0, 1), [22].
    image_shape: (h, w, ...); h and w may be traced.
    scale: (minimum, maximum) area, as a share of the image's.
    ratio: (minimum, maximum) of width / height.

  Returns:
    (top, left, height, width), float32 scalars holding integers.
  """
  image_height, image_width = image_shape[:2]
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


def apply(cfg, draw: Draw, image, *, cropped: bool = False):
  """Applies one draw to one image; deterministic.

  Options that switch a stage off (probability or strength 0) leave it out of
  the program.

  Args:
    cfg: a view's options, its probabilities as numbers (pixel/_family.py).
    draw: what to apply.
    image: [h w c] in [-1, 1], c = 1 or 3.
    cropped: it is the box already; it is only mirrored.

  Returns:
    float32 [h' w' c], normalized.
  """
  height, width, num_channels = image.shape
  size = (cfg.crop_px, cfg.crop_px) if cfg.crop_px else (height, width)
  planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
  if cropped:
    size = (height, width)
    planes = jnp.where(draw.flip, planes[..., ::-1], planes)
  else:
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
  box_height = jnp.minimum(height, jnp.round(width / ratio[0]))
  box_width = jnp.minimum(width, jnp.round(height * ratio[1]))
  box_height = jnp.where(width / height < ratio[0], box_height, height)
  box_width = jnp.where(width / height > ratio[1], box_width, width)
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return top, left, box_height, box_width

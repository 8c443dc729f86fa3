"""Pixel transforms as pure functions of an image and explicit parameters.

Images are channel planes [c h w] in [0, 1], float32, c = 1 or 3: color
arithmetic then runs along contiguous rows, and a crop is two matmuls per plane.
Formulas follow torchvision's tensor transforms. On one channel, gray is the
image itself, so saturation, hue and grayscale are identities.

Nothing here gathers or branches on data, so `vmap` costs what a batch costs.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Luma of ITU-R BT.601, as rounded by torchvision.
_GRAY = (0.2989, 0.587, 0.114)
# Pixels whose max - min is below this are gray: their hue is not defined, and
# dividing by less would overflow the gradient.
_MIN_CHROMA = 1e-12
# Views must not depend on the accelerator's default (bfloat16 on TPU).
_PRECISION = jax.lax.Precision.HIGHEST

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def resize_matrix(start, size, input_px, output_px, *, antialias, flip=False):
  """Builds the matrix that crops and resizes one axis: out = matrix @ in.

  A triangle filter with half-pixel centers. Output pixel i is centered at
  (i + 1/2) * size / output_px of the crop. With `antialias` the filter widens
  by size / output_px when shrinking, and its weights are renormalized at the
  crop's edges; without, it has two taps and clamps (torchvision `antialias`).
  Distances are multiplied by 2 * output_px, which makes them integers: they
  are exact up to the one division.

  Args:
    start: first pixel of the crop, an integer (any dtype, may be traced).
    size: length of the crop in pixels, an integer, start + size <= input_px.
    input_px: length of the axis, static.
    output_px: length of the result, static.
    antialias: static bool.
    flip: bool, may be traced: reverse the output.

  Returns:
    float32 [output_px, input_px], rows sum to 1, zero outside the crop.
  """
  start, size = jnp.float32(start), jnp.float32(size)
  i = jnp.arange(output_px, dtype=jnp.float32)[:, None]
  i = jnp.where(flip, output_px - 1 - i, i)
  j = jnp.arange(input_px, dtype=jnp.float32)[None, :] - start
  if antialias:
    distance = (2 * j + 1) * output_px - (2 * i + 1) * size
    weight = 1 - jnp.abs(distance) / (2 * jnp.maximum(output_px, size))
  else:
    center = (2 * i + 1) * size - output_px
    center = jnp.clip(center, 0, 2 * output_px * (size - 1))
    weight = 1 - jnp.abs(2 * output_px * j - center) / (2 * output_px)
  weight = jnp.where((j >= 0) & (j < size), jnp.maximum(weight, 0), 0)
  return weight / jnp.sum(weight, axis=1, keepdims=True)


def resized_crop(
  image, top, left, height, width, output_px, *, antialias=True, flip=False
):
  """Cuts a box out of an image, resizes it, and mirrors it if asked.

  Args:
    image: [c h w], of any range: the weights of each output pixel sum to 1.
    top: first row of the box, integer, may be traced; so may the next three.
    left: first column.
    height: rows of the box.
    width: columns of the box.
    output_px: (rows, columns) of the result, static.
    antialias: static bool, see `resize_matrix`.
    flip: bool, may be traced: mirror left and right.

  Returns:
    [c rows columns].
  """
  _, image_height, image_width = image.shape
  rows = resize_matrix(
    top, height, image_height, output_px[0], antialias=antialias
  )
  columns = resize_matrix(
    left, width, image_width, output_px[1], antialias=antialias, flip=flip
  )
  return _separable(image, rows, columns)


def horizontal_flip(image):
  """Mirrors [c h w] left and right."""
  return image[:, :, ::-1]


def to_gray(image):
  """Returns the gray level [1 h w] of [c h w]; the image itself if c = 1."""
  if image.shape[0] == 1:
    return image
  red, green, blue = _GRAY
  return (red * image[0] + green * image[1] + blue * image[2])[None]


def grayscale(image):
  """Replaces every channel of [c h w] by the gray level."""
  return jnp.broadcast_to(to_gray(image), image.shape)


def adjust_brightness(image, factor):
  """Returns clip(factor * x): 0 is black, 1 changes nothing."""
  return jnp.clip(factor * image, 0, 1)


def adjust_contrast(image, factor):
  """Returns clip(factor * x + (1 - factor) * mean gray of the image)."""
  mean = jnp.mean(to_gray(image))
  return jnp.clip(factor * image + (1 - factor) * mean, 0, 1)


def adjust_saturation(image, factor):
  """Returns clip(factor * x + (1 - factor) * gray(x)); identity if c = 1."""
  if image.shape[0] == 1:
    return image
  return jnp.clip(factor * image + (1 - factor) * to_gray(image), 0, 1)


def adjust_hue(image, turn):
  """Turns the hue h of HSV to (h + turn) mod 1; identity if c = 1.

  Written without the six cases of the textbook: with value v = max, chroma
  d = max - min and hue in sextants, channel n in (5, 3, 1) of the result is
  v - d * clip(min(k, 4 - k), 0, 1), where k = (n + hue) mod 6.

  Args:
    image: [c h w] in [0, 1].
    turn: fraction of the color circle, scalar; 0 changes nothing.

  Returns:
    [c h w].
  """
  if image.shape[0] == 1:
    return image
  red, green, blue = image
  value = jnp.maximum(jnp.maximum(red, green), blue)
  chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
  divisor = jnp.where(chroma > _MIN_CHROMA, chroma, 1.0)
  hue = jnp.where(
    value == red,
    (green - blue) / divisor,
    jnp.where(
      value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
    ),
  )
  offset = jnp.asarray([5.0, 3.0, 1.0], jnp.float32)[:, None, None]
  k = offset + (hue + 6 * turn)
  k = k - 6 * jnp.floor(k / 6)
  turned = value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
  return jnp.where(turn == 0, image, turned)


def color_jitter(image, factors, order, *, with_hue=True):
  """Applies brightness, contrast, saturation and hue in a given order.

  Choosing among the four at each of four steps would, under `vmap`, evaluate
  all sixteen. Instead: the first three are one blend,
  clip(f * x + a * gray(x) + b * mean(gray(x))), with (f, a, b) = (f, 0, 0),
  (f, 0, 1 - f) and (f, 1 - f, 0), and (1, 0, 0) is exactly nothing. So three
  blends (those after the hue set to nothing), one hue, and three blends (those
  before it set to nothing) hold every order. The blends are a `lax.scan`:
  unrolled, XLA's CPU fusion recomputes them in one another (measured 3x
  slower, and minutes of compilation with separate planes).

  On one channel only brightness and contrast act, in one of two orders.

  Args:
    image: [c h w] in [0, 1].
    factors: [4], of brightness, contrast, saturation (1 = nothing), and the
      turn of the hue (0 = nothing).
    order: int32 [4], a permutation: order[s] is what step s applies, as an
      index into `factors`.
    with_hue: static; False leaves the hue out (its turn is known to be 0).

  Returns:
    [c h w] in [0, 1].
  """
  if image.shape[0] == 1:
    return _jitter_one_channel(image, factors, order)
  f = factors[:HUE]
  blends = jnp.stack(
    [f, (1 - f) * np.array([0, 0, 1]), (1 - f) * np.array([0, 1, 0])], axis=1
  )
  slot = jnp.arange(3)
  hue_step = jnp.argmax(order == HUE)
  # Blend of each slot: the order with the hue cut out.
  which = jnp.where(slot >= hue_step, order[1:], order[:3])
  pick = (which[:, None] == slot[None, :])[:, :, None]
  blends = jnp.sum(jnp.where(pick, blends[None], 0), axis=1)  # slot, (f, a, b)
  if not with_hue:
    return _blend(image, blends)
  nothing = jnp.asarray([1.0, 0.0, 0.0], jnp.float32)
  before = (slot < hue_step)[:, None]
  image = _blend(image, jnp.where(before, blends, nothing))
  image = adjust_hue(image, factors[HUE])
  return _blend(image, jnp.where(before, nothing, blends))


def gaussian_blur(image, sigma_px, kernel_px):
  """Blurs with a normalized Gaussian window and reflected borders.

  The separable convolution is written as two matmuls, whose matrices are the
  window's weights times constant 0/1 arrays that hold the reflection.

  Args:
    image: [c h w].
    sigma_px: standard deviation, scalar, may be traced; 0 = no blur.
    kernel_px: window length, static, odd, kernel_px // 2 < min(h, w).

  Returns:
    [c h w].
  """
  radius = kernel_px // 2
  offset = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
  variance = jnp.where(sigma_px > 0, sigma_px, 1.0) ** 2
  weight = jnp.exp(-0.5 * offset**2 / variance)
  weight = jnp.where(sigma_px > 0, weight / jnp.sum(weight), offset == 0)
  _, height, width = image.shape
  rows, columns = (
    jnp.tensordot(weight, _reflected_shifts(n, radius), 1, precision=_PRECISION)
    for n in (height, width)
  )
  return _separable(image, rows, columns)


def solarize(image, threshold):
  """Returns 1 - x where x >= threshold, else x; x in [0, 1]."""
  return jnp.where(image >= threshold, 1 - image, image)


def normalize(image, mean, std):
  """Returns (x - mean) / std per channel; mean, std have 1 or c entries."""
  mean = np.asarray(mean, np.float32)[:, None, None]
  std = np.asarray(std, np.float32)[:, None, None]
  return (image - mean) / std


def _separable(image, rows, columns):
  image = jnp.einsum("chw,pw->chp", image, columns, precision=_PRECISION)
  return jnp.einsum("oh,chp->cop", rows, image, precision=_PRECISION)


def _blend(image, blends):
  def step(image, blend):
    gray = to_gray(image)
    offset = blend[1] * gray + blend[2] * jnp.mean(gray)
    return jnp.clip(blend[0] * image + offset, 0, 1), None

  return jax.lax.scan(step, image, blends)[0]


def _jitter_one_channel(image, factors, order):
  # Brightness stands before or after the one contrast; factor 1 is nothing.
  brightness_first = jnp.argmax(order == BRIGHTNESS) < jnp.argmax(
    order == CONTRAST
  )
  brightness = factors[BRIGHTNESS]
  image = adjust_brightness(image, jnp.where(brightness_first, brightness, 1))
  image = adjust_contrast(image, factors[CONTRAST])
  return adjust_brightness(image, jnp.where(brightness_first, 1, brightness))


def _reflected_shifts(size_px, radius_px):
  """0/1 array [2 radius + 1, size, size]: tap t of pixel i falls on pixel j."""
  i = np.arange(size_px)
  t = np.arange(-radius_px, radius_px + 1)[:, None]
  j = np.abs(i[None, :] + t)  # about pixel 0
  j = size_px - 1 - np.abs(size_px - 1 - j)  # about the last pixel
  return (j[:, :, None] == i).astype(np.float32)

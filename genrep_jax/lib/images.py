"""Images as floats in [-1, 1] and as bytes; for arrays of NumPy and of JAX."""

import jax
import jax.numpy as jnp
import numpy as np


def to_uint8(images):
  """Rounds images in [-1, 1] to uint8; what is outside saturates."""
  xp = jnp if isinstance(images, jax.Array) else np
  return xp.clip(xp.rint((images + 1.0) * 127.5), 0, 255).astype(xp.uint8)


def from_uint8(images):
  """Maps 0..255 to float32 in [-1, 1]."""
  return images.astype("float32") / 127.5 - 1.0


def resize_and_crop(images: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes images [n h w c] until they cover a size, and cuts out its center.

  Args:
    images: floats.
    size: (height, width) of the result; the sides' ratio is kept. Bilinear,
      with antialiasing where it shrinks.
  """
  height, width = images.shape[1:3]
  scale = max(size[0] / height, size[1] / width)
  shape = [max(n, round(old * scale)) for n, old in zip(size, (height, width))]
  images = jax.image.resize(
    images,
    (len(images), *shape, images.shape[3]),
    "bilinear",
    antialias=True,
  )
  top, left = ((have - want) // 2 for have, want in zip(shape, size))
  return images[:, top : top + size[0], left : left + size[1]]


def normalize(images, mean, std):
  """What an encoder is shown of images in [-1, 1]: ((x + 1) / 2 - mean) / std.

  Args:
    images: [... c] in [-1, 1].
    mean: 1 or c numbers, of pixels in [0, 1].
    std: likewise.
  """
  return ((images + 1) / 2 - mean) / std

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

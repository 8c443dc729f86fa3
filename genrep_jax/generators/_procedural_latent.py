"""A procedural recipe's random numbers as one vector of standard normals.

A recipe declares its numbers as fields {name: shape}; the latent is all of
them in a row. Uniform numbers are the normal CDF of theirs, so that every
coordinate of the latent may be moved freely and moves the recipe with it.
"""

import math
from collections.abc import Mapping

import jax

from genrep_jax.lib import maxima

Fields = Mapping[str, tuple[int, ...]]


def size(fields: Fields) -> int:
  """Returns the length of the latent of some fields."""
  return sum(math.prod(shape) for shape in fields.values())


def split(z: jax.Array, fields: Fields) -> dict[str, jax.Array]:
  """Cuts a latent [size(fields)] into its fields, in their order."""
  parts, start = {}, 0
  for name, shape in fields.items():
    end = start + math.prod(shape)
    parts[name] = z[start:end].reshape(shape)
    start = end
  return parts


def uniform(z: jax.Array) -> jax.Array:
  """Maps standard normals to uniforms in [0, 1]."""
  return jax.scipy.special.ndtr(z)


def stretch(image: jax.Array) -> jax.Array:
  """Maps the smallest value of an image to -1 and the largest to 1."""
  flat = image.ravel()
  low, high = -maxima.largest(-flat, 0), maxima.largest(flat, 0)
  return 2 * (image - low) / (high - low) - 1

"""Lengths of latents, with finite gradients at zero."""

import jax.numpy as jnp


def norm(x):
  """Returns |x| [... 1] of x [... d]; its gradient at x = 0 is 0."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  positive = square > 0
  # The square root's derivative is infinite at zero, and 0 * inf is NaN.
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def into_ball(x, radius):
  """Returns the point of the ball |x'| <= radius that is nearest to x."""
  length = norm(x)
  outside = length > radius
  return jnp.where(outside, x * radius / jnp.where(outside, length, 1.0), x)


def unit(x):
  """Returns x / |x|, of vectors as short as 1e-30; 0 for shorter ones."""
  largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
  x = x / jnp.maximum(largest, 1e-30)  # or its square would underflow
  return x / jnp.maximum(norm(x), 1e-30)

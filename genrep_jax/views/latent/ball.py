"""Uniform latent view: z' = z + w, each coordinate of w uniform.

GenRep calls these sets "rnd_ball_xavi" and the noise a uniform ball. It is a
ball in the largest norm, a cube: w_i ~ U(-sigma sqrt 3, sigma sqrt 3), whose
standard deviation is sigma, so that sigma compares with the Gaussian view's.
"""

import math

import jax

from genrep_jax.lib import contracts
from genrep_jax.views.latent import _options


def default_config() -> dict:
  """Returns the options; GenRep used sigma = 0.1, 0.2, 0.5 and 1."""
  return {
    "name": "ball",
    "sigma": 0.2,  # standard deviation of w per coordinate
  }


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z + w, w ~ U(-sigma sqrt 3, sigma sqrt 3) per coordinate.

  Args:
    cfg: options as in `default_config`.
    generator: unused; every generator's latents can be moved.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim], of z's type.

  Raises:
    UsageError: sigma is negative or not finite.
  """
  del generator
  half_side = math.sqrt(3) * _options.non_negative("ball", cfg, "sigma")

  def view(key, z, y):
    del y
    w = half_side * jax.random.uniform(key, z.shape, minval=-1.0, maxval=1.0)
    return z + w.astype(z.dtype)

  return view

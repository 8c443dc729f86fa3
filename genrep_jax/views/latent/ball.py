"""Uniform latent view: z' = z + w, each coordinate of w uniform.

GenRep calls these sets "rnd_ball_xavi" and the noise a uniform ball. It is a
ball in the largest norm, a cube: w_i ~ U(-sigma sqrt 3, sigma sqrt 3), whose
standard deviation is sigma, so that sigma compares with the Gaussian view's.
"""

import math

import jax

from genrep_jax.lib import contracts, options
from genrep_jax.views.latent import _shared

OPTIONS = {
  "sigma": options.number(
    0.2,
    "standard deviation of w per coordinate; GenRep's: 0.1, 0.2, 0.5, 1",
    low=0,
    high=1e3,
  )
}


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z + w, w ~ U(-sigma sqrt 3, sigma sqrt 3) per coordinate."""
  del generator
  half_side = math.sqrt(3) * float(cfg.sigma)

  def noise(key, shape):
    return half_side * jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

  return _shared.added(noise)

"""Gaussian latent view: a positive lies in a small ball around the anchor.

GenRep section 3, T_z(z) = z + w_gauss with w_gauss ~ N^t(0, sigma, t). Its
code uses t = 2 and sigma = 0.2 for BigBiGAN, 1.0 for BigGAN-deep, and
untruncated noise of standard deviation 0.5 (variance 0.25) for StyleGAN2 cars.
"""

from genrep_jax.lib import contracts
from genrep_jax.views.latent import _shared

OPTIONS = _shared.GAUSSIAN  # GenRep's values for BigBiGAN


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z + w, w ~ N^t(0, sigma, t) per coordinate.

  z' is not truncated again: with anchors in [-2, 2] it can reach
  2 + truncation * sigma, as in GenRep's code.
  """
  del generator
  return _shared.added(_shared.gaussian(cfg))

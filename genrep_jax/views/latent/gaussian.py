"""Gaussian latent view: a positive lies in a small ball around the anchor.

GenRep section 3, T_z(z) = z + w_gauss with w_gauss ~ N^t(0, sigma, t). Its
code uses t = 2 and sigma = 0.2 for BigBiGAN, 1.0 for BigGAN-deep, and
untruncated noise of standard deviation 0.5 (variance 0.25) for StyleGAN2 cars.
"""

from genrep_jax.lib import contracts
from genrep_jax.views.latent import _options


def default_config() -> dict:
  """Returns the options with GenRep's values for BigBiGAN."""
  return {
    "name": "gaussian",
    "sigma": 0.2,  # standard deviation of w before truncation
    "truncation": 2.0,  # t: |w| <= t * sigma per coordinate; 0: untruncated
  }


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z + w, w ~ N^t(0, sigma, t) per coordinate.

  z' is not truncated again: with anchors in [-2, 2] it can reach
  2 + truncation * sigma, as in GenRep's code.

  Args:
    cfg: options as in `default_config`.
    generator: unused; every generator's latents can be moved.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim], of z's type.

  Raises:
    UsageError: sigma or truncation is negative or not finite.
  """
  del generator
  noise = _options.gaussian("gaussian", cfg)

  def view(key, z, y):
    del y
    return z + noise(key, z.shape).astype(z.dtype)

  return view

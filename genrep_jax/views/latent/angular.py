"""Angular latent view: the anchor turned by Gaussian noise, its norm kept.

GenRep's "angular" sets: z' = (z + w) |z| / |z + w| with w ~ N^t(0, sigma, t).
The norms are those of one latent, as GenRep intended; its script takes them
over the whole [n, latent_dim] array, one scale for all anchors, and does not
pass sigma on. Where the generator's prior has nearly one norm (a normal in many
dimensions), z' stays where the prior has its mass, unlike z + w.
"""

import jax.numpy as jnp

from genrep_jax.lib import contracts
from genrep_jax.views.latent import _options, _vectors


def default_config() -> dict:
  """Returns the options with GenRep's values for BigBiGAN."""
  return {
    "name": "angular",
    "sigma": 0.2,  # standard deviation of w before truncation; BigGAN: 1
    "truncation": 2.0,  # t: |w| <= t * sigma per coordinate; 0: untruncated
  }


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = (z + w) |z| / |z + w|, w ~ N^t(0, sigma, t) per coordinate.

  For equal options, w is the one that `gaussian` adds. The zero latent, whose
  directions are all alike, stays zero.

  Args:
    cfg: options as in `default_config`.
    generator: unused; every generator's latents can be turned.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim], of z's type, |z'| = |z|.

  Raises:
    UsageError: sigma or truncation is negative or not finite.
  """
  del generator
  noise = _options.gaussian("angular", cfg)

  def view(key, z, y):
    del y
    anchor = z.astype(jnp.float32)
    moved = anchor + noise(key, z.shape)
    length = _vectors.norm(moved)
    scale = _vectors.norm(anchor) / jnp.where(length > 0, length, 1.0)
    return (moved * scale).astype(z.dtype)

  return view

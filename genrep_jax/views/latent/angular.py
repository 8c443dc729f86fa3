"""Angular latent view: the anchor turned by Gaussian noise, its norm kept.

GenRep's "angular" sets: z' = (z + w) |z| / |z + w| with w ~ N^t(0, sigma, t).
The norms are those of one latent, as GenRep intended; its script takes them
over the whole [n, latent_dim] array, one scale for all anchors, and does not
pass sigma on. Where the generator's prior has nearly one norm (a normal in many
dimensions), z' stays where the prior has its mass, unlike z + w.
"""

import jax.numpy as jnp

from genrep_jax.lib import contracts
from genrep_jax.views import vectors
from genrep_jax.views.latent import _shared

OPTIONS = _shared.GAUSSIAN  # GenRep's for BigBiGAN; for BigGAN sigma = 1


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = (z + w) |z| / |z + w|, of z's type; w is `gaussian`'s.

  The zero latent, whose directions are all alike, stays zero.
  """
  del generator
  shifted = _shared.added(_shared.gaussian(cfg))

  def view(key, z, y):
    anchor = z.astype(jnp.float32)
    moved = shifted(key, anchor, y)
    length = vectors.norm(moved)
    scale = vectors.norm(anchor) / jnp.where(length > 0, length, 1.0)
    return (moved * scale).astype(z.dtype)

  return view

"""No latent view: a positive is a second T_x draw of the anchor's image.

GenRep's "T_x only" (`--numcontrast 0`). Under this name each anchor is rendered
once instead of V times.
"""

from genrep_jax.lib import contracts


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z."""
  del cfg, generator
  return lambda key, z, y: z

"""No latent view: a positive is a second T_x draw of the anchor's image.

GenRep's "T_x only" (`--numcontrast 0`). `make` returns the module-level
function `identity`, so that a caller can tell (`view is none.identity`) and
render each anchor once instead of V times.
"""

from genrep_jax.lib import contracts


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Returns `identity`; neither argument is used."""
  del cfg, generator
  return identity


def identity(key, z, y):
  """Returns the anchor's latent unchanged.

  Args:
    key: a PRNG key, unused.
    z: anchor latent [latent_dim].
    y: class of the anchor, int32 scalar, unused.

  Returns:
    z.
  """
  del key, y
  return z

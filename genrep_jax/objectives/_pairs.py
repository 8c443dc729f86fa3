"""What objectives over pairs of views compute: pairs, cosines, a spread."""

import jax
import jax.numpy as jnp
import numpy as np


def to_float(z):
  """Raises the precision of an array to float32; float64 stays."""
  return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def normalize(z):
  """Scales the vectors of z [... d] to length 1, in float32 or float64.

  The epsilon sits inside the square root: the gradient is finite at z = 0.
  """
  z = to_float(z)
  return z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)


def ordered_pairs(v: int):
  """Returns int arrays (a, b): all pairs of different views, a != b."""
  return np.nonzero(~np.eye(v, dtype=bool))


def unordered_pairs(v: int):
  """Returns int arrays (a, b): all pairs of views a < b."""
  return np.nonzero(np.triu(np.ones((v, v), bool), 1))


def cosines(p, z):
  """Cosines of p_a and z_b over ordered pairs a != b of views: [b v(v-1)].

  Args:
    p: [b v d], raw: normalized here.
    z: [b v d], raw; no gradient flows to them.
  """
  p, z = normalize(p), normalize(jax.lax.stop_gradient(z))
  every = jnp.einsum("iad,icd->iac", p, z, precision=jax.lax.Precision.HIGHEST)
  a, b = ordered_pairs(p.shape[1])
  return every[:, a, b]


def spread(z):
  """Standard deviation of z [... d] as unit vectors, times sqrt(d).

  Mean over the d coordinates. 1: spread evenly over the sphere; 0: collapsed
  (SimSiam, Chen and He 2021, figure 2).
  """
  z = normalize(jax.lax.stop_gradient(z))
  d = z.shape[-1]
  return jnp.mean(jnp.std(z.reshape(-1, d), axis=0)) * d**0.5

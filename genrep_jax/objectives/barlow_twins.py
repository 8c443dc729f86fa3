"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230, eqs. 1 and 2).

The cross-correlation matrix of two views' embeddings, over the batch, should be
the identity: coordinates agree between views, and say different things.
"""

import jax
import jax.numpy as jnp

from genrep_jax.objectives import _heads_on_views, _options, _pairs

OPTIONS = {
  "off_diagonal_weight": _options.weight(5e-3, "lambda; the code: 0.0051"),
  "projector_hidden": _options.hidden((1024, 1024), "the paper: (8192, 8192)"),
  "projector_dim": _options.width(1024, "d; the paper: 8192"),
}

_EPSILON = 1e-5  # of the variance; that of the code's batch norm


def terms(z):
  """The two terms of raw embeddings z [b v d], means over pairs of views.

  Returns:
    (invariance: sum_i (1 - C_ii)^2, redundancy: sum_{i != j} C_ij^2).
  """
  b, v, d = z.shape
  _options.check_rows("barlow_twins", b)
  z = _pairs.to_float(z)
  z -= jnp.mean(z, axis=0)
  z *= jax.lax.rsqrt(jnp.mean(z * z, axis=0) + _EPSILON)
  first, second = _pairs.unordered_pairs(v)
  correlation = (
    jnp.einsum(
      "bpi,bpj->pij",
      z[:, first],
      z[:, second],
      precision=jax.lax.Precision.HIGHEST,
    )
    / b
  )
  index = jnp.arange(d)
  diagonal = jnp.equal(index[:, None], index)
  squares = jnp.where(diagonal, 1 - correlation, correlation) ** 2
  squares = jnp.mean(squares, axis=0)
  return jnp.sum(squares, where=diagonal), jnp.sum(squares, where=~diagonal)


def loss(z, *, off_diagonal_weight=5e-3):
  """sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2.

  C_ij = sum_b z^A_bi z^B_bj / (sqrt(sum_b (z^A_bi)^2) sqrt(sum_b (z^B_bj)^2)),
  every view's embeddings having mean 0 over the batch. More than two views: the
  mean over all pairs.

  Args:
    z: [b v d], raw: standardized here. b, v >= 2.
    off_diagonal_weight: lambda.

  Returns:
    Scalar, float32 (float64 if z is); it grows with d, being a sum over
    coordinates.
  """
  invariance, redundancy = terms(z)
  return invariance + off_diagonal_weight * redundancy


def make(cfg, heads):
  """Makes the objective.

  Its chance level is None: it has no level that all uninformative embeddings
  share. Its metrics: the unweighted invariance and redundancy terms, each
  divided by the entries it sums over.
  """
  d = cfg.projector_dim

  def measure(out, views):
    del views
    invariance, redundancy = terms(out["projector"])
    return invariance + cfg.off_diagonal_weight * redundancy, {
      "invariance": invariance / d,
      "redundancy": redundancy / max(d * (d - 1), 1),
    }

  head = heads.mlp(cfg.projector_hidden, d, batch_norm=True, out_bias=False)
  return _heads_on_views.make_objective(
    {"projector": head}, measure, min_views=2
  )

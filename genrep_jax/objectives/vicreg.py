"""VICReg (Bardes et al. 2021, arXiv 2105.04906, eq. 6).

Variance, invariance, covariance: the views of an anchor embed alike, every
coordinate varies over the batch, and no two coordinates are correlated. The
embeddings are not normalized. Covariances want a batch of about d or more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrep_jax.lib import options
from genrep_jax.objectives import _heads_on_views, _options, _pairs

OPTIONS = {
  "similarity_weight": _options.weight(25.0, "lambda"),
  "variance_weight": _options.weight(25.0, "mu"),
  "covariance_weight": _options.weight(1.0, "nu"),
  "variance_reduction": options.choice(
    "mean", ("mean", "sum"), "of the two views' variance terms"
  ),
  "projector_hidden": _options.hidden((1024, 1024), "the paper: (8192, 8192)"),
  "projector_dim": _options.width(1024, "d; the paper: 8192"),
}
_EPSILON = 1e-4  # of the variance; keeps the root's gradient finite at 0


class Terms(NamedTuple):
  """The unweighted terms; all scalars.

  Attributes:
    invariance: s, mean squared distance, over pairs of views.
    variance: v, mean over views and coordinates of max(0, 1 - S(z_j)).
    covariance: c(Z) + c(Z'), the sum over a pair's two views of the mean
      squared off-diagonal covariances, sum_{j != k} Cov_jk^2 / d.
    std: S(z_j), mean over views and coordinates.
  """

  invariance: jax.Array
  variance: jax.Array
  covariance: jax.Array
  std: jax.Array


def terms(z) -> Terms:
  """Returns the Terms of raw embeddings z [b v d]; b, v >= 2."""
  b, v, d = z.shape
  _options.check_rows("vicreg", b)
  z = _pairs.to_float(z)
  first, second = _pairs.unordered_pairs(v)
  invariance = jnp.mean((z[:, first] - z[:, second]) ** 2)
  z -= jnp.mean(z, axis=0)
  std = jnp.sqrt(jnp.sum(z * z, axis=0) / (b - 1) + _EPSILON)
  covariance = jnp.einsum(
    "bvj,bvk->vjk", z, z, precision=jax.lax.Precision.HIGHEST
  ) / (b - 1)
  index = jnp.arange(d)
  off_diagonal = jnp.where(index[:, None] != index, covariance, 0.0)
  return Terms(
    invariance,
    jnp.mean(jax.nn.relu(1 - std)),
    2 * jnp.sum(off_diagonal**2) / (v * d),
    jnp.mean(jax.lax.stop_gradient(std)),
  )


def _total(
  terms,
  *,
  similarity_weight,
  variance_weight,
  covariance_weight,
  variance_reduction,
):
  factor = {"mean": 1.0, "sum": 2.0}[variance_reduction]
  return (
    similarity_weight * terms.invariance
    + variance_weight * factor * terms.variance
    + covariance_weight * terms.covariance
  )


def loss(
  z,
  *,
  similarity_weight=25.0,
  variance_weight=25.0,
  covariance_weight=1.0,
  variance_reduction="mean",
):
  """L = lambda s(Z, Z') + mu [v(Z) + v(Z')] / 2 + nu [c(Z) + c(Z')].

  v(Z) = mean_j max(0, 1 - sqrt(Var z_j + 1e-4)), c(Z) = sum_{j != k} Cov_jk^2 /
  d, with the divisor b - 1 in Var and Cov. More than two views: the mean over
  all pairs of views.

  Args:
    z: [b v d], raw, not normalized. b, v >= 2.
    similarity_weight: lambda.
    variance_weight: mu.
    covariance_weight: nu.
    variance_reduction: of the two variance terms of a pair: "mean" as in the
      official code, or "sum" as in the paper's eq. 6 and solo-learn, which is
      "mean" with twice the weight.

  Returns:
    Scalar, float32 (float64 if z is).
  """
  options.check(
    "variance_reduction", OPTIONS["variance_reduction"], variance_reduction
  )
  return _total(
    terms(z),
    similarity_weight=similarity_weight,
    variance_weight=variance_weight,
    covariance_weight=covariance_weight,
    variance_reduction=variance_reduction,
  )


def make(cfg, heads):
  """Makes the objective behind an expander of fully connected layers.

  Its chance level is None: it has no level that all uninformative embeddings
  share. Its metrics: the unweighted invariance, variance and covariance terms,
  and embedding_std, the mean S(z_j), which a collapse brings to 0.01.
  """
  weights = {
    "similarity_weight": cfg.similarity_weight,
    "variance_weight": cfg.variance_weight,
    "covariance_weight": cfg.covariance_weight,
  }
  _options.some_weight(weights)

  def measure(out, views):
    del views
    found = terms(out["projector"])
    metrics = {
      "invariance": found.invariance,
      "variance": found.variance,
      "covariance": found.covariance,
      "embedding_std": found.std,
    }
    reduction = cfg.variance_reduction
    return _total(found, **weights, variance_reduction=reduction), metrics

  head = heads.mlp(
    cfg.projector_hidden, cfg.projector_dim, batch_norm=True, out_bias=False
  )
  return _heads_on_views.make_objective(
    {"projector": head}, measure, min_views=2
  )

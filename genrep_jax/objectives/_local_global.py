"""Mutual information of vectors with local maps: scores and two estimators.

Deep InfoMax and AMDIM score a vector u_i of image i against position q of image
j's map; s(i, i, q) are the positives, s(i, j, q) with j != i the negatives. No
other position of image i is a negative of u_i. The negatives of a vector make
one log-sum-exp, which its positives share (AMDIM): memory is n * n * positions,
not times positions again.
"""

import math

import jax
import jax.numpy as jnp


def scores(u, maps):
  """s(i, j, q) = u_i . m_jq.

  Args:
    u: [n d].
    maps: [n p d], p positions.

  Returns:
    [n n p].
  """
  return jnp.einsum("id,jqd->ijq", u, maps, precision=jax.lax.Precision.HIGHEST)


def _split(s):
  """Returns (positives [n p], mask [n n p] of the negatives)."""
  index = jnp.arange(len(s))
  own = jnp.broadcast_to(jnp.equal(index[:, None], index)[..., None], s.shape)
  return jnp.sum(s, axis=1, where=own), ~own


def infonce(s):
  """-mean_iq log [e^s(i,i,q) / (e^s(i,i,q) + sum_{j!=i,r} e^s(i,j,r))].

  Args:
    s: scores [n n p].

  Returns:
    Scalar; log(1 + (n-1) p) where all scores are equal.
  """
  positive, negatives = _split(s)
  rest = jax.nn.logsumexp(s, axis=(1, 2), where=negatives)
  return jnp.mean(jax.nn.softplus(rest[:, None] - positive))


def jsd(s):
  """Returns mean sp(-s_pos) + mean sp(s_neg) - 2 log 2, sp = softplus.

  Args:
    s: scores [n n p].

  Returns:
    Scalar; 0 where all scores are 0, never below -2 log 2.
  """
  positive, negatives = _split(s)
  return (
    jnp.mean(jax.nn.softplus(-positive))
    + jnp.mean(jax.nn.softplus(s), where=negatives)
    - 2 * math.log(2)
  )


def measures(s):
  """Returns the metrics of scores [n n p].

  score_accuracy: positives above every negative of their vector, a fraction;
  positive_score, negative_score: means.
  """
  s = jax.lax.stop_gradient(s)
  positive, negatives = _split(s)
  best = jnp.max(s, axis=(1, 2), initial=-jnp.inf, where=negatives)
  return {
    "score_accuracy": jnp.mean(positive > best[:, None], dtype=s.dtype),
    "positive_score": jnp.mean(positive),
    "negative_score": jnp.mean(s, where=negatives),
  }

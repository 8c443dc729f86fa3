"""Mutual information of vectors with local maps: scores and estimators.

Deep InfoMax and AMDIM score a vector u_i of image i against position q of image
j's map; s(i, i, q) are the positives, s(i, j, q) with j != i the negatives. No
other position of image i is a negative of u_i. The negatives of a vector make
one log-sum-exp, which its positives share (AMDIM): memory is n * n * positions,
not times positions again, and in chunks of vectors chunk * n * positions.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.objectives import _chunks

MEASURES = ("jsd", "infonce", "dv", "nwj")


def compare(u, maps, *, measure, divisor=1.0, clip=None, chunk_rows=0):
  """Estimates information with scores s(i, j, q) = u_i . m_jq / divisor.

  infonce: -mean_iq log [e^s(i,i,q) / (e^s(i,i,q) + sum_{j!=i,r} e^s(i,j,r))];
  log(1 + (n-1) p) where all scores are equal.
  jsd: mean sp(-s_pos) + mean sp(s_neg) - 2 log 2, sp = softplus; 0 where all
  scores are 0, never below -2 log 2.
  dv: -mean s_pos + log mean e^s_neg (Donsker & Varadhan), over all negatives.
  nwj: -mean s_pos + mean e^(s_neg - 1), the f-divergence form of the same.

  Args:
    u: [n d]. n >= 2.
    maps: [n p d], p positions.
    measure: of `MEASURES`.
    divisor: of the scores.
    clip: c; the measure is of c tanh(s / c). None: of s.
    chunk_rows: vectors whose scores are held at a time (`_chunks`); 0: all.

  Returns:
    (loss, mean of s^2 before the clip, metrics: score_accuracy, the fraction of
    positives above every negative of their vector; positive_score and
    negative_score, means).
  """
  n = len(maps)
  key_index = np.arange(n)  # a constant: nothing to gather from devices

  def row_terms(block):
    u, index = block
    s = jnp.einsum("id,jqd->ijq", u, maps, precision=jax.lax.Precision.HIGHEST)
    s = s / divisor
    squares = jnp.mean(s * s, axis=(1, 2))
    if clip is not None:
      s = clip * jnp.tanh(s / clip)
    own = jnp.equal(index[:, None], key_index)[..., None]
    negatives = jnp.broadcast_to(~own, s.shape)
    positive = jnp.sum(s, axis=1, where=own)
    rest = jnp.zeros(len(s), s.dtype)
    if measure in ("infonce", "dv"):
      rest = jax.nn.logsumexp(s, axis=(1, 2), where=negatives)
    if measure == "infonce":
      loss = jnp.mean(jax.nn.softplus(rest[:, None] - positive), axis=1)
    elif measure == "dv":
      loss = -jnp.mean(positive, axis=1)
    elif measure == "nwj":
      loss = -jnp.mean(positive, axis=1)
      loss += jnp.mean(jnp.exp(s - 1), axis=(1, 2), where=negatives)
    else:
      loss = jnp.mean(jax.nn.softplus(-positive), axis=1) + jnp.mean(
        jax.nn.softplus(s), axis=(1, 2), where=negatives
      )
    s, positive = jax.lax.stop_gradient((s, positive))
    best = jnp.max(s, axis=(1, 2), initial=-jnp.inf, where=negatives)
    metrics = {
      "score_accuracy": jnp.mean(positive > best[:, None], 1, dtype=s.dtype),
      "positive_score": jnp.mean(positive, axis=1),
      "negative_score": jnp.mean(s, axis=(1, 2), where=negatives),
    }
    return loss, squares, metrics, rest

  *rows, rest = _chunks.over_rows(row_terms, (u, np.arange(n)), chunk_rows)
  loss, squares, metrics = jax.tree.map(jnp.mean, rows)
  if measure == "jsd":
    loss = loss - 2 * math.log(2)
  elif measure == "dv":
    count = n * (n - 1) * maps.shape[1]
    loss = loss + jax.nn.logsumexp(rest) - math.log(count)
  return loss, squares, metrics

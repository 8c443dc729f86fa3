"""The masked soft cross-entropy that all contrastive objectives share.

One kernel, and one objective behind a head: an objective's file says which
rows are positives of each other, and quotes its paper. All is plain code on
global arrays. With the anchors spread over devices, the compiler gathers the
embeddings once, and each device computes its own rows of the similarities.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, errors


class Terms(NamedTuple):
  """What the kernel says of a batch; all scalars.

  Attributes:
    loss: mean over all rows, without any factor.
    accuracy: fraction of rows whose most similar key is a positive; a tie with
      a negative counts against, so a collapsed encoder scores 0.
    positive_cosine: mean cosine of the positive pairs.
    negative_cosine: mean cosine of the other allowed pairs.
  """

  loss: jax.Array
  accuracy: jax.Array
  positive_cosine: jax.Array
  negative_cosine: jax.Array


def normalise(z):
  """Scales the vectors of z [... d] to length 1, in float32 or float64.

  The epsilon sits inside the square root: the gradient is finite at z = 0.
  """
  z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
  return z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)


def soft_cross_entropy(
  rows,
  keys,
  row_groups,
  key_groups,
  *,
  temperature,
  exclude_self=True,
  chunk_rows=0,
) -> Terms:
  """L = -1/n sum_r sum_k P(r,k) [s(r,k) - logsumexp_k' s(r,k')].

  s(r,k) = rows_r . keys_k / temperature; P(r, .) is uniform over the positives
  of r, the keys of the same group; k' runs over all allowed keys, the other
  positives included. A row without a positive adds 0 and still counts in n.

  Args:
    rows: [n d], unit vectors.
    keys: [m d], unit vectors.
    row_groups: int [n].
    key_groups: int [m].
    temperature: tau > 0.
    exclude_self: rows and keys are the same vectors; no row is its own key.
    chunk_rows: rows whose similarities are held at a time, so that memory is
      chunk_rows * m instead of n * m; 0 means all. Each chunk is computed again
      in the backward pass. On several devices, a multiple of their number.

  Returns:
    The Terms.

  Raises:
    UsageError: chunk_rows does not divide n, or a row has no allowed key.
  """
  n, m = len(rows), len(keys)
  check_rows(n, chunk_rows)
  if m <= exclude_self:
    raise errors.UsageError(
      f"contrastive loss: {m} embeddings in the global batch, at least 2 needed"
    )
  key_index = np.arange(m)  # a constant: nothing to gather from devices

  def row_terms(block):
    rows, row_groups, row_index = block
    # Full float32 products: TF32 or bfloat16 passes move the loss by percents.
    s = jnp.matmul(rows, keys.T, precision=jax.lax.Precision.HIGHEST)
    s = s / temperature
    # jnp, not ==: numpy would put the whole [n m] mask into the program.
    positive = jnp.equal(row_groups[:, None], key_groups)
    allowed = jnp.ones_like(positive)
    if exclude_self:
      allowed = jnp.not_equal(row_index[:, None], key_index)
      positive &= allowed
    count = jnp.sum(positive, axis=1)
    log_partition = jax.nn.logsumexp(s, axis=1, where=allowed)
    mean_positive = jnp.sum(s, axis=1, where=positive) / jnp.maximum(count, 1)
    loss = jnp.where(count > 0, log_partition - mean_positive, 0.0)

    s = jax.lax.stop_gradient(s)
    negative = allowed & ~positive
    hit = jnp.max(s, axis=1, initial=-jnp.inf, where=positive) > jnp.max(
      s, axis=1, initial=-jnp.inf, where=negative
    )
    similarities = [jnp.sum(s, axis=1, where=x) for x in (positive, negative)]
    counts = [count, jnp.sum(negative, axis=1)]
    return loss, hit, similarities, counts

  block = (rows, row_groups, np.arange(n))
  if chunk_rows and chunk_rows < n:
    # Chunk j takes the rows j, j + n/chunk, ...: with n spread over devices,
    # every device holds a part of every chunk. The compiler then gathers one
    # chunk at a time, and the keys stay where they are.
    block = jax.tree.map(
      lambda x: x.reshape(chunk_rows, -1, *x.shape[1:]).swapaxes(0, 1), block
    )
    terms = jax.lax.map(jax.checkpoint(row_terms), block)
  else:
    terms = row_terms(block)
  loss, hit, similarities, counts = terms
  cosines = [
    temperature * jnp.sum(s) / jnp.maximum(jnp.sum(c.astype(s.dtype)), 1)
    for s, c in zip(similarities, counts, strict=True)
  ]
  return Terms(jnp.mean(loss), jnp.mean(hit, dtype=loss.dtype), *cosines)


def check_rows(n, chunk_rows):
  """Raises UsageError if chunks of `chunk_rows` do not tile n rows."""
  if chunk_rows and chunk_rows < n and n % chunk_rows:
    fits = max(c for c in range(1, chunk_rows) if n % c == 0)
    raise errors.UsageError(
      f"objective.chunk_rows: {chunk_rows} does not divide the {n} rows "
      f"(anchors times views) of the global batch; {fits} does"
    )


def factor(temperature, base_temperature) -> float:
  """Returns the loss's factor tau / tau_0; 1 without a base temperature."""
  return temperature / base_temperature if base_temperature else 1.0


def terms(z, labels, *, temperature, chunk_rows=0) -> Terms:
  """Terms of raw embeddings, every row being an anchor and a key.

  Args:
    z: [b v d], not normalised, any float dtype.
    labels: int [b], equal where rows are positives; None: the views of one
      anchor are the positives.
    temperature: tau > 0.
    chunk_rows: see `soft_cross_entropy`.

  Returns:
    The Terms.
  """
  b, v, d = z.shape
  if labels is None:
    groups = np.arange(b).repeat(v)
  else:
    groups = jnp.broadcast_to(labels[:, None], (b, v)).reshape(b * v)
  z = normalise(z).reshape(b * v, d)
  return soft_cross_entropy(
    z, z, groups, groups, temperature=temperature, chunk_rows=chunk_rows
  )


def loss(z, labels, temperature, base_temperature, chunk_rows):
  """The loss of `terms`, times tau / tau_0."""
  out = terms(z, labels, temperature=temperature, chunk_rows=chunk_rows)
  return factor(temperature, base_temperature) * out.loss


def default_config(name: str) -> dict:
  """Returns the options that every contrastive objective has."""
  return {
    "name": name,
    "temperature": 0.1,  # tau
    "base_temperature": 0.0,  # tau_0: loss times tau / tau_0; 0: no factor
    "chunk_rows": 0,  # rows of similarities held at a time; 0: all
    "head_hidden": 0,  # width of the head's hidden layer; 0: the feature's
    "head_dim": 128,  # d
  }


def make_objective(cfg, heads, *, use_labels: bool, min_views: int):
  """Makes a contrastive objective behind a two-layer head.

  Args:
    cfg: see `default_config`.
    heads: the module `encoders.heads`.
    use_labels: positives share a label, instead of an anchor.
    min_views: smallest V with positives in every batch.

  Returns:
    The Objective. Its metrics: contrastive_accuracy, positive_cosine,
    negative_cosine (see `Terms`), embedding_norm (mean length before
    normalisation).

  Raises:
    UsageError: an option is out of range.
  """
  temperature, base = float(cfg.temperature), float(cfg.base_temperature)
  if not (temperature > 0 and math.isfinite(temperature)):
    raise errors.UsageError(
      f"objective.temperature: {cfg.temperature} is not > 0"
    )
  if not (base >= 0 and math.isfinite(base)):
    raise errors.UsageError(
      f"objective.base_temperature: {cfg.base_temperature} is not >= 0 "
      "(0: no factor)"
    )
  chunk_rows = cfg.chunk_rows
  if chunk_rows < 0:
    raise errors.UsageError(
      f"objective.chunk_rows: {chunk_rows} is not >= 0 (0: all rows at once)"
    )
  head = heads.mlp([cfg.head_hidden], cfg.head_dim)
  scale = factor(temperature, base)

  def init(key, features):
    b, v, f = features.pooled.shape
    check_rows(b * v, chunk_rows)
    return head.init(key, f)["params"], {}

  def apply(head_params, features, views, target, state, key):
    del target, key
    variables = {"params": head_params, "batch_stats": {}}
    z, _ = head.apply(variables, features.pooled, True)
    labels = views.labels if use_labels else None
    out = terms(z, labels, temperature=temperature, chunk_rows=chunk_rows)
    norm = jnp.mean(jnp.linalg.norm(jax.lax.stop_gradient(z), axis=-1))
    measured = {
      "contrastive_accuracy": out.accuracy,
      "positive_cosine": out.positive_cosine,
      "negative_cosine": out.negative_cosine,
      "embedding_norm": norm,
    }
    return scale * out.loss, measured, state

  return contracts.Objective(
    requires=frozenset({"labels"} if use_labels else ()),
    min_views=min_views,
    init=init,
    apply=apply,
    chance=lambda b, v: scale * math.log(b * v - 1) if b * v > 1 else None,
  )

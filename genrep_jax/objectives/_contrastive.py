"""The masked soft cross-entropy that all contrastive objectives share.

One kernel, and one objective behind a head: an objective's file says which
rows are positives of each other, and quotes its paper. All is plain code on
global arrays. With the anchors spread over devices, the compiler gathers the
embeddings once, and each device computes its own rows of the similarities.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import options
from genrep_jax.objectives import _chunks, _heads_on_views, _options, _pairs


class Terms(NamedTuple):
  """What the kernel says of a batch; all scalars.

  Attributes:
    loss: mean over all rows, without any factor.
    accuracy: fraction of rows whose most similar key is a positive; a tie with
      a negative counts against, so a collapsed encoder scores 0. A row whose
      negatives are all masked scores 1.
    positive_cosine: mean cosine of the positive pairs.
    negative_cosine: mean cosine of the other allowed pairs.
  """

  loss: jax.Array
  accuracy: jax.Array
  positive_cosine: jax.Array
  negative_cosine: jax.Array


def soft_cross_entropy(
  rows,
  keys,
  row_groups,
  key_groups,
  *,
  temperature,
  row_classes=None,
  key_classes=None,
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
    row_classes: int [n], or None. With classes, a key of the row's class that
      is no positive of it is no negative either: it is not among the k'.
    key_classes: int [m], or None.
    exclude_self: rows and keys are the same vectors; no row is its own key.
    chunk_rows: rows whose similarities are held at a time (`_chunks`); 0 means
      all. On several devices, a multiple of their number.

  Returns:
    The Terms.

  Raises:
    UsageError: chunk_rows does not divide n, or a row has no allowed key.
  """
  n, m = len(rows), len(keys)
  if m <= exclude_self:
    options.refuse("global_batch", m, "at least 2 embeddings to contrast")
  key_index = np.arange(m)  # a constant: nothing to gather from devices

  def row_terms(block):
    rows, row_groups, row_classes, row_index = block
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
    if row_classes is not None:
      allowed &= positive | jnp.not_equal(row_classes[:, None], key_classes)
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

  block = (rows, row_groups, row_classes, np.arange(n))
  loss, hit, similarities, counts = _chunks.over_rows(
    row_terms, block, chunk_rows
  )
  cosines = [
    temperature * jnp.sum(s) / jnp.maximum(jnp.sum(c.astype(s.dtype)), 1)
    for s, c in zip(similarities, counts, strict=True)
  ]
  return Terms(jnp.mean(loss), jnp.mean(hit, dtype=loss.dtype), *cosines)


def factor(temperature, base_temperature) -> float:
  """Returns the loss's factor tau / tau_0; 1 without a base temperature."""
  return temperature / base_temperature if base_temperature else 1.0


def terms(z, labels, *, temperature, mask_labels=None, chunk_rows=0) -> Terms:
  """Terms of raw embeddings, every row being an anchor and a key.

  Args:
    z: [b v d], not normalized, any float dtype.
    labels: int [b], equal where rows are positives; None: the views of one
      anchor are the positives.
    temperature: tau > 0.
    mask_labels: int [b], or None. Rows of other anchors with an equal label are
      then neither positives nor negatives.
    chunk_rows: see `soft_cross_entropy`.

  Returns:
    The Terms.
  """
  b, v, d = z.shape

  def of_rows(x):
    return jnp.broadcast_to(x[:, None], (b, v)).reshape(b * v)

  groups = np.arange(b).repeat(v) if labels is None else of_rows(labels)
  classes = None if mask_labels is None else of_rows(mask_labels)
  z = _pairs.normalize(z).reshape(b * v, d)
  return soft_cross_entropy(
    z,
    z,
    groups,
    groups,
    temperature=temperature,
    row_classes=classes,
    key_classes=classes,
    chunk_rows=chunk_rows,
  )


def pair_terms(rows, keys, *, temperature, mask_labels=None, chunk_rows=0):
  """Terms of pairs of views, one key per anchor: arrays [p].

  Args:
    rows: [b p d], unit vectors.
    keys: [b p d], unit vectors; keys[i, j] is the positive of rows[i, j], and
      keys[k, j] a negative.
    temperature: tau > 0.
    mask_labels: see `terms`.
    chunk_rows: rows of similarities held at a time; 0 means all b.

  Raises:
    UsageError: chunk_rows does not divide b.
  """
  b = len(rows)
  _chunks.check(b, chunk_rows, _chunks.ONE_PER_ANCHOR)
  ids = np.arange(b)
  kernel = functools.partial(
    soft_cross_entropy,
    row_groups=ids,
    key_groups=ids,
    temperature=temperature,
    row_classes=mask_labels,
    key_classes=mask_labels,
    exclude_self=False,
    chunk_rows=chunk_rows,
  )
  return jax.vmap(kernel, in_axes=1)(rows, keys)


def metrics_of(terms: Terms) -> dict:
  """Names what is measured beside the loss; means over pairs of views."""
  return {
    "contrastive_accuracy": jnp.mean(terms.accuracy),
    "positive_cosine": jnp.mean(terms.positive_cosine),
    "negative_cosine": jnp.mean(terms.negative_cosine),
  }


def loss(z, labels, temperature, base_temperature, chunk_rows, mask_labels):
  """The loss of `terms`, times tau / tau_0."""
  out = terms(
    z,
    labels,
    temperature=temperature,
    mask_labels=mask_labels,
    chunk_rows=chunk_rows,
  )
  return factor(temperature, base_temperature) * out.loss


OPTIONS = {
  "temperature": _options.temperature(0.1, "tau"),
  "base_temperature": options.number(
    0.0,
    "tau_0: loss times tau / tau_0; 0: no factor",
    low=0,
    high=1e3,
    only=("0 or >= 0.001", lambda x: not x or x >= 1e-3),
  ),
  "chunk_rows": _options.CHUNK_ROWS,
  "head_hidden": _options.HEAD_HIDDEN,
  "head_dim": _options.width(128, "d"),
}


def make_objective(cfg, heads, *, use_labels: bool, min_views: int):
  """Makes a contrastive objective behind a two-layer head.

  Args:
    cfg: with `OPTIONS`, and `mask_same_class` unless `use_labels`.
    heads: the module `lib.heads`.
    use_labels: positives share a label, instead of an anchor.
    min_views: smallest V with positives in every batch.

  Returns:
    The Objective. Its metrics: contrastive_accuracy, positive_cosine,
    negative_cosine (see `Terms`), embedding_norm (mean length before
    normalization).
  """
  # Where positives share a class, there would be nothing to mask.
  mask = not use_labels and cfg.mask_same_class
  scale = factor(cfg.temperature, cfg.base_temperature)

  def measure(z, views):
    out = terms(
      z,
      views.labels if use_labels else None,
      temperature=cfg.temperature,
      mask_labels=views.labels if mask else None,
      chunk_rows=cfg.chunk_rows,
    )
    norm = jnp.mean(jnp.linalg.norm(jax.lax.stop_gradient(z), axis=-1))
    return scale * out.loss, {**metrics_of(out), "embedding_norm": norm}

  def chance(b, v):
    # How many negatives are left depends on the labels.
    return None if mask or b * v < 2 else scale * math.log(b * v - 1)

  return _heads_on_views.make_objective(
    heads.mlp([cfg.head_hidden], cfg.head_dim),
    measure,
    requires={"labels"} if use_labels or mask else (),
    min_views=min_views,
    check=lambda b, v: _chunks.check(b * v, cfg.chunk_rows),
    chance=chance,
  )

"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057, algorithm 1).

Queries q = predictor(projector(h)) are those of the trained network, keys
k = projector(h) those of its moving average; the negatives are the keys of the
other view in the same batch: there is no queue.
"""

import math

import jax
import jax.numpy as jnp

from genrep_jax.objectives import (
  _chunks,
  _contrastive,
  _options,
  _pairs,
  _siamese,
)

OPTIONS = {
  "temperature": _options.temperature(
    0.2, "tau; the code: 0.2 for ViT, 1.0 for ResNet"
  ),
  "chunk_rows": _options.CHUNK_ROWS,
  "projector_hidden": _options.hidden(
    (1024,), "the code: (4096,), for ViT (4096, 4096)"
  ),
  "projector_dim": _options.width(256, "d"),
  "predictor_hidden": _options.hidden((1024,), "the code: (4096,)"),
  **_options.MASK,
}


def _terms(queries, keys, *, temperature, chunk_rows, mask_labels):
  """The kernel's Terms of every ordered pair of views: arrays [v(v-1)]."""
  b, v, _ = queries.shape
  _options.check_rows("moco_v3", b)
  rows, others = _pairs.ordered_pairs(v)
  queries = _pairs.normalize(queries)
  keys = _pairs.normalize(jax.lax.stop_gradient(keys))
  return _contrastive.pair_terms(
    queries[:, rows],
    keys[:, others],
    temperature=temperature,
    mask_labels=mask_labels,
    chunk_rows=chunk_rows,
  )


def loss(queries, keys, *, temperature, chunk_rows=0, mask_labels=None):
  """ctr(q_1, k_2) + ctr(q_2, k_1) of algorithm 1, where.

  ctr(q_a, k_b) = -2 tau mean_i log [exp(q_ia.k_ib/tau) / sum_j
  exp(q_ia.k_jb/tau)]. With more than two views, twice the mean over all ordered
  pairs a != b.

  Args:
    queries: [b v d], raw: normalized here. b, v >= 2.
    keys: [b v d], raw; no gradient flows to them.
    temperature: tau > 0.
    chunk_rows: rows of similarities held at a time; 0 means all b.
    mask_labels: int [b], or None. Keys of other anchors of the same label,
      false negatives, are then left out of the denominator.

  Returns:
    Scalar, float32 (float64 if the queries are).
  """
  terms = _terms(
    queries,
    keys,
    temperature=temperature,
    chunk_rows=chunk_rows,
    mask_labels=mask_labels,
  )
  return 4 * temperature * jnp.mean(terms.loss)


def make(cfg, heads):
  """Makes the objective; it requires the target network.

  With `mask_same_class` it requires labels, too.

  Its metrics: contrastive_accuracy, positive_cosine, negative_cosine (see
  `_contrastive.Terms`; means over pairs of views), embedding_std (of the keys,
  see `_pairs.spread`).
  """
  temperature, chunk_rows = cfg.temperature, cfg.chunk_rows
  mask = cfg.mask_same_class

  def measure(queries, keys, labels):
    terms = _terms(
      queries,
      keys,
      temperature=temperature,
      chunk_rows=chunk_rows,
      mask_labels=labels,
    )
    return 4 * temperature * jnp.mean(terms.loss), {
      **_contrastive.metrics_of(terms),
      "embedding_std": _pairs.spread(keys),
    }

  def head(hidden):
    return heads.mlp(
      hidden, cfg.projector_dim, batch_norm=True, out_batch_norm=True
    )

  def chance(b, v):
    del v
    # How many negatives are left depends on the labels.
    return None if mask or b < 2 else 4 * temperature * math.log(b)

  return _siamese.make_objective(
    head(cfg.projector_hidden),
    cfg.projector_dim,
    head(cfg.predictor_hidden),
    measure,
    use_target=True,
    use_labels=mask,
    check=lambda b, v: _chunks.check(b, chunk_rows, _chunks.ONE_PER_ANCHOR),
    chance=chance,
  )

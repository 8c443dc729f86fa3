"""Contrastive multiview coding (CMC, Tian et al. 2019, arXiv 1906.05849).

The loss L(V_1, V_2) of two views, and its two ways to more: core view and full
graph. View 0, the anchor unless `anchor_first` is off, is the core. In the
denominator stands one key per anchor, of one view: unlike in multi-positive
cross-entropy, positives never compete.

The paper has an encoder per view and a memory bank of negatives; here all views
share the encoder and the head, and the negatives are the batch.
"""

import math

import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import options
from genrep_jax.objectives import (
  _chunks,
  _contrastive,
  _heads_on_views,
  _options,
  _pairs,
)

OPTIONS = {
  "temperature": _options.temperature(
    0.1, "tau; the paper: 0.07, 0.1 on STL-10"
  ),
  "graph": options.choice(
    "core", ("core", "full"), "pairs of views: those with view 0, or all"
  ),
  "chunk_rows": _options.CHUNK_ROWS,
  "head_hidden": _options.HEAD_HIDDEN,
  "head_dim": _options.width(128, "d; as the paper's"),
  **_options.MASK,
}


def _edges(v: int, graph: str):
  """Returns int arrays (a, b): the pairs of views, a < b."""
  options.check("graph", OPTIONS["graph"], graph)
  a, b = _pairs.unordered_pairs(v)
  keep = a == 0 if graph == "core" else slice(None)
  return a[keep], b[keep]


def _terms(z, *, temperature, graph, chunk_rows, mask_labels):
  """The kernel's Terms of both directions of every pair: arrays [2 pairs]."""
  b, v, _ = z.shape
  _options.check_rows("cmc", b)
  first, second = _edges(v, graph)
  z = _pairs.normalize(z)
  return _contrastive.pair_terms(
    z[:, np.concatenate([first, second])],
    z[:, np.concatenate([second, first])],
    temperature=temperature,
    mask_labels=mask_labels,
    chunk_rows=chunk_rows,
  )


def loss(z, *, temperature, graph="core", chunk_rows=0, mask_labels=None):
  """Sum over pairs (a, b) of views of L(a, b) + L(b, a), where.

  L(a, b) = -mean_i log [exp(z_ia.z_ib/tau) / sum_j exp(z_ia.z_jb/tau)].

  Args:
    z: [b v d], raw: normalized here. b, v >= 2.
    temperature: tau > 0.
    graph: "core": view 0 with each other view, v - 1 pairs; "full": all
      v(v-1)/2 pairs.
    chunk_rows: rows of similarities held at a time; 0 means all b.
    mask_labels: int [b], or None. Keys of other anchors of the same label,
      false negatives, are then left out of the denominator.

  Returns:
    Scalar, float32 (float64 if z is). Divided by the number of pairs it bounds
    information from below: I(z_a; z_b) >= log b - L(a, b).
  """
  terms = _terms(
    z,
    temperature=temperature,
    graph=graph,
    chunk_rows=chunk_rows,
    mask_labels=mask_labels,
  )
  return jnp.sum(terms.loss)


def make(cfg, heads):
  """Makes the objective.

  Its metrics: contrastive_accuracy, positive_cosine, negative_cosine (see
  `_contrastive.Terms`; means over the pairs) and mutual_information_bound, the
  mean of log b - L(a, b), in nats: a bound only without `mask_same_class`,
  which requires labels.
  """
  mask = cfg.mask_same_class

  def measure(out, views):
    z = out["projector"]
    terms = _terms(
      z,
      temperature=cfg.temperature,
      graph=cfg.graph,
      chunk_rows=cfg.chunk_rows,
      mask_labels=views.labels if mask else None,
    )
    bound = math.log(len(z)) - jnp.mean(terms.loss)
    metrics = _contrastive.metrics_of(terms)
    return jnp.sum(terms.loss), {**metrics, "mutual_information_bound": bound}

  def chance(b, v):
    # How many negatives are left depends on the labels.
    if mask or b < 2:
      return None
    return 2 * len(_edges(v, cfg.graph)[0]) * math.log(b)

  return _heads_on_views.make_objective(
    {"projector": heads.mlp([cfg.head_hidden], cfg.head_dim)},
    measure,
    requires={"labels"} if mask else (),
    min_views=2,
    check=lambda b, v: _chunks.check(b, cfg.chunk_rows, _chunks.ONE_PER_ANCHOR),
    chance=chance,
  )

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

from genrep_jax.lib import contracts
from genrep_jax.objectives import _chunks, _contrastive, _options, _siamese

GRAPHS = ("core", "full")


def _edges(v: int, graph: str):
  """Returns int arrays (a, b): the pairs of views, a < b."""
  _options.one_of("cmc graph", graph, GRAPHS)
  a, b = _siamese.unordered_pairs(v)
  keep = a == 0 if graph == "core" else slice(None)
  return a[keep], b[keep]


def _terms(z, *, temperature, graph, chunk_rows, mask_labels):
  """The kernel's Terms of both directions of every pair: arrays [2 pairs]."""
  b, v, _ = z.shape
  _options.check_rows("cmc", b)
  first, second = _edges(v, graph)
  z = _contrastive.normalise(z)
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
    z: [b v d], raw: normalised here. b, v >= 2.
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


def default_config() -> dict:
  """Returns the options and their defaults."""
  return {
    "name": "cmc",
    "temperature": 0.1,  # tau; the paper: 0.07, 0.1 on STL-10
    "graph": "core",  # or "full"
    "chunk_rows": 0,  # rows of similarities held at a time; 0: all
    "head_hidden": 0,  # width of the hidden layer; 0: the feature's
    "head_dim": 128,  # d; as the paper's
    "mask_same_class": False,  # other anchors of one class: no negatives
  }


def make(cfg, heads):
  """Makes the objective.

  Its metrics: contrastive_accuracy, positive_cosine, negative_cosine (see
  `_contrastive.Terms`; means over the pairs) and mutual_information_bound, the
  mean of log b - L(a, b), in nats: a bound only without `mask_same_class`,
  which requires labels.
  """
  temperature = _options.positive(cfg, "temperature")
  graph = _options.choice(cfg, "graph", GRAPHS)
  chunk_rows = _options.count(cfg, "chunk_rows", 0)
  mask = cfg.mask_same_class
  head = heads.mlp([cfg.head_hidden], cfg.head_dim)

  init_head, run = _siamese.on_pooled({"projector": head})

  def init(key, features):
    _chunks.check(len(features.pooled), chunk_rows, _chunks.ONE_PER_ANCHOR)
    return init_head(key, features)

  def apply(head_params, features, views, target, state, key):
    del target, key
    out, state = run(head_params, features, state)
    terms = _terms(
      out["projector"],
      temperature=temperature,
      graph=graph,
      chunk_rows=chunk_rows,
      mask_labels=views.labels if mask else None,
    )
    metrics = {
      "contrastive_accuracy": jnp.mean(terms.accuracy),
      "positive_cosine": jnp.mean(terms.positive_cosine),
      "negative_cosine": jnp.mean(terms.negative_cosine),
      "mutual_information_bound": math.log(len(out["projector"]))
      - jnp.mean(terms.loss),
    }
    return jnp.sum(terms.loss), metrics, state

  def chance(b, v):
    # How many negatives are left depends on the labels.
    if mask or b < 2:
      return None
    return 2 * len(_edges(v, graph)[0]) * math.log(b)

  return contracts.Objective(
    requires=frozenset({"labels"} if mask else ()),
    min_views=2,
    init=init,
    apply=apply,
    chance=chance,
  )

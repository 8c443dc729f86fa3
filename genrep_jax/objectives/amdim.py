"""AMDIM: cross-view, multi-scale InfoMax (Bachman et al. 2019, 1906.00910).

An antecedent of one view predicts the consequents of another: the vector its
coarse and its fine map (1->5 and 1->7 in the paper, whose maps have 5x5 and 7x7
positions), and one random position of the coarse map the other view's coarse
map (5->5).

Departures. The encoders here have one local map: it is the fine one, and the
coarse one is its average over windows of `coarse_window` positions (3: 7x7
becomes 5x5 as in the paper), where the paper takes two depths. Receptive fields
overlap more than in the paper's encoder, which has no padding.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, options
from genrep_jax.objectives import (
  _chunks,
  _heads_on_views,
  _local_global,
  _options,
  _pairs,
)

OPTIONS = {
  "clip": options.number(20.0, "c: scores stay in (-c, c)", low=1e-3, high=1e4),
  "regularizer": _options.weight(5e-2, "of the mean squared score"),
  "rkhs_dim": _options.width(512, "d; the paper: 1024 to 2560"),
  "coarse_window": options.integer(
    3, "side of the windows that make the coarse map", low=1, high=1024
  ),
  "chunk_rows": _options.CHUNK_ROWS,
}

_TERMS = ("global_to_coarse", "global_to_fine", "coarse_to_coarse")


def _nce(antecedents, consequents, clip, chunk_rows):
  """Loss, mean t^2 and metrics of one term, means over ordered pairs of views.

  Args:
    antecedents: [b v d].
    consequents: [b v p d].
    clip: c of the soft clip.
    chunk_rows: antecedents whose scores are held at a time; 0: all b.
  """
  b, v, d = antecedents.shape
  first, second = _pairs.ordered_pairs(v)
  pair = functools.partial(
    _local_global.compare,
    measure="infonce",
    divisor=d**0.5,
    clip=clip,
    chunk_rows=chunk_rows,
  )
  out = jax.vmap(pair, in_axes=1)(antecedents[:, first], consequents[:, second])
  return jax.tree.map(jnp.mean, out)


def _terms(vectors, coarse, fine, positions, clip, chunk_rows):
  """Returns {term: (loss, mean t^2, metrics)}; arguments as of `loss`."""
  b, v, d = vectors.shape
  _options.check_rows("amdim", b)
  _chunks.check(b, chunk_rows, _chunks.ONE_PER_ANCHOR)
  vectors, coarse, fine = map(_pairs.to_float, (vectors, coarse, fine))
  coarse = coarse.reshape(b, v, -1, d)
  fine = fine.reshape(b, v, -1, d)
  chosen = jnp.take_along_axis(coarse, positions[..., None, None], axis=2)
  both = (
    (vectors, coarse),
    (vectors, fine),
    (chosen[:, :, 0], coarse),
  )
  return {
    name: _nce(*arrays, clip, chunk_rows)
    for name, arrays in zip(_TERMS, both, strict=True)
  }


def _total(terms, regularizer):
  return sum(nce + regularizer * square for nce, square, _ in terms.values())


def loss(
  vectors,
  coarse,
  fine,
  positions,
  *,
  clip=20.0,
  regularizer=5e-2,
  chunk_rows=0,
):
  """Sum over the three terms of NCE + 5e-2 mean(t^2), means over view pairs.

  Scores t = u . w / sqrt(d); NCE = -mean log e^s+ / (e^s+ + sum_negatives e^s)
  with s = c tanh(t / c). Negatives are all positions of the same view of all
  other anchors; each term is the mean over the ordered pairs a != b of views.

  Args:
    vectors: [b v d], embedded, raw: not normalized. b, v >= 2.
    coarse: [b v m' m' d].
    fine: [b v m m d].
    positions: int [b v], the position of each coarse map that is the antecedent
      of coarse_to_coarse, in 0 .. m'^2 - 1.
    clip: c.
    regularizer: weight of the mean squared score, before the clip.
    chunk_rows: rows of scores held at a time, for each pair of views; 0 means
      all b.

  Returns:
    Scalar, float32 (float64 if the embeddings are).
  """
  terms = _terms(vectors, coarse, fine, positions, clip, chunk_rows)
  return _total(terms, regularizer)


def make(cfg, heads):
  """Makes the objective; it requires local maps.

  Each scale has a network of its own: two layers and a linear shortcut, with a
  batch norm on top. The chance level is None: it depends on the encoder's map.
  Its metrics: loss_<term> of each term, mean_square_score, and score_accuracy,
  positive_score, negative_score of global_to_fine
  (`_local_global.compare`).
  """
  dim, window, run = cfg.rkhs_dim, cfg.coarse_window, _heads_on_views.run
  net = heads.mlp(
    [dim], dim, batch_norm=True, out_batch_norm=True, shortcut=True
  )

  def coarsen(local):
    b, v, m, _, c = local.shape
    side = min(window, m)
    pooled = nn.avg_pool(local.reshape(b * v, m, m, c), (side, side))
    return pooled.reshape(b, v, *pooled.shape[1:])

  def init(key, features):
    b, _, f = features.pooled.shape
    c = features.local.shape[-1]
    _chunks.check(b, cfg.chunk_rows, _chunks.ONE_PER_ANCHOR)
    return _heads_on_views.init(
      key, {"global": (net, f), "coarse": (net, c), "fine": (net, c)}
    )

  def apply(head_params, features, views, target, state, key):
    del views, target
    pooled, local = features.pooled, features.local
    vectors, state = run(net, "global", head_params, state, pooled)
    coarse, state = run(net, "coarse", head_params, state, coarsen(local))
    fine, state = run(net, "fine", head_params, state, local)
    b, v, m, _, _ = coarse.shape
    positions = jax.random.randint(key, (b, v), 0, m * m)
    out = _terms(vectors, coarse, fine, positions, cfg.clip, cfg.chunk_rows)
    metrics = {f"loss_{name}": nce for name, (nce, _, _) in out.items()}
    squares = [square for _, square, _ in out.values()]
    metrics["mean_square_score"] = sum(squares) / len(squares)
    metrics |= out["global_to_fine"][2]
    return _total(out, cfg.regularizer), metrics, state

  return contracts.Objective(
    requires=frozenset({"local"}),
    min_views=2,
    init=init,
    apply=apply,
    chance=lambda b, v: None,
  )

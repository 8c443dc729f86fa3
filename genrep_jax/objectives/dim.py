"""Deep InfoMax, local: DIM(L) (Hjelm et al. 2018, arXiv 1808.06670).

The image's vector E(x) should predict every position of its local map C(x).
The critic is "encode-and-dot": two small residual networks, one per position of
the map and one for the vector, end in a layer norm, and the score is the plain
dot product, without temperature. All views are rows of their own: the paper has
no views, and another view of the same anchor counts as another image. The
cross-view form is `amdim`.

The paper's third part, matching E(x) to a prior (its gamma), is a second player
and thus a game, not an objective.
"""

import jax

from genrep_jax.lib import contracts, options
from genrep_jax.objectives import (
  _chunks,
  _heads_on_views,
  _local_global,
  _options,
  _pairs,
)

OPTIONS = {
  "measure": options.choice(
    "jsd", _local_global.MEASURES, "infonce: better with many negatives"
  ),
  "mi_units": _options.width(512, "d; the code: 2048, 1024 with infonce"),
  "chunk_rows": _options.CHUNK_ROWS,
}


def _compare(local_maps, global_features, measure, chunk_rows):
  """Returns what `_local_global.compare` does; arguments as of `loss`."""
  n = len(global_features)
  options.check("measure", OPTIONS["measure"], measure)
  _options.check_rows("dim", n)
  local_maps, u = map(_pairs.to_float, (local_maps, global_features))
  maps = local_maps.reshape(n, -1, u.shape[-1])
  return _local_global.compare(u, maps, measure=measure, chunk_rows=chunk_rows)


def loss(local_maps, global_features, *, measure="jsd", chunk_rows=0):
  """-1/m^2 sum_q I(C_q(X); E(X)), estimated with scores T = C_q(x') . E(x).

  jsd: mean sp(-T) over positives + mean sp(T) over negatives - 2 log 2,
  sp(t) = log(1 + e^t). 0 says no information.
  infonce: -mean log e^T / (e^T + sum over negatives e^T').
  Negatives of image i are all positions of the other images; its own other
  positions are left out (the original puts scores of -10 there, which take over
  once true scores fall below).

  Args:
    local_maps: [n m m d], raw.
    global_features: [n d], raw. n >= 2.
    measure: "jsd" or "infonce".
    chunk_rows: rows of scores held at a time; 0 means all n.

  Returns:
    Scalar, float32 (float64 if both are).
  """
  return _compare(local_maps, global_features, measure, chunk_rows)[0]


def make(cfg, heads):
  """Makes the objective; it requires local maps.

  Its chance level is None: the loss of uninformative embeddings is 0 (jsd) or
  log(1 + (n-1) m^2) (infonce) only at equal scores. Its metrics:
  score_accuracy, positive_score, negative_score (`_local_global.compare`).
  """
  units, run = cfg.mi_units, _heads_on_views.run
  net = heads.mlp(
    [units], units, batch_norm=True, shortcut=True, out_layer_norm=True
  )

  def init(key, features):
    b, v, f = features.pooled.shape
    _chunks.check(b * v, cfg.chunk_rows)
    networks = {"local": (net, features.local.shape[-1]), "global": (net, f)}
    return _heads_on_views.init(key, networks)

  def apply(head_params, features, views, target, state, key):
    del views, target, key
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), features)
    local, state = run(net, "local", head_params, state, rows.local)
    u, state = run(net, "global", head_params, state, rows.pooled)
    total, _, metrics = _compare(local, u, cfg.measure, cfg.chunk_rows)
    return total, metrics, state

  return contracts.Objective(
    requires=frozenset({"local"}),
    min_views=1,
    init=init,
    apply=apply,
    chance=lambda b, v: None,
  )

"""Heads on the features of views: how they start, and how they are trained.

Batch norms of heads see all b * v rows at once, as the encoder's do: one set of
statistics for all views, where the papers' code runs the network once per view.
Their running statistics are the objective's state; nothing here reads them.
"""

from collections.abc import Mapping

import jax

from genrep_jax.lib import contracts


def init(key, heads):
  """Initializes heads {name: (Head, dimension of its input)}.

  Returns:
    (params {name: tree}, state {name: batch_stats}); a head without batch norm
    is not in the state.
  """
  params, state = {}, {}
  keys = jax.random.split(key, len(heads))
  for key, (name, (head, in_dim)) in zip(keys, heads.items(), strict=True):
    variables = head.init(key, in_dim)
    params[name] = variables["params"]
    if variables["batch_stats"]:
      state[name] = variables["batch_stats"]
  return params, state


def run(head, name, params, state, x):
  """Applies a head of `init` in training.

  Returns:
    (its output, the state with its new statistics).
  """
  variables = {"params": params[name], "batch_stats": state.get(name, {})}
  y, batch_stats = head.apply(variables, x, True)
  return y, {**state, name: batch_stats} if batch_stats else state


def make_objective(
  heads,
  measure,
  *,
  requires=(),
  min_views=1,
  check=lambda b, v: None,
  chance=lambda b, v: None,
  **others,
) -> contracts.Objective:
  """Makes an objective of heads that all read the pooled features.

  Args:
    heads: {name: Head}; or one Head, whose params are the objective's own.
    measure: ({name: output [b v d]}, or the output; Views) -> (loss, metrics).
    requires: see contracts.Objective; so are the others.
    min_views: likewise.
    check: (b, v) -> None, raises UsageError for a batch that does not fit.
    chance: likewise; there is no such level by default.
    **others: fields of contracts.Objective.
  """
  named = heads if isinstance(heads, Mapping) else None

  def start(key, features):
    b, v, in_dim = features.pooled.shape
    check(b, v)
    if named is not None:
      return init(key, {name: (head, in_dim) for name, head in named.items()})
    variables = heads.init(key, in_dim)
    return variables["params"], variables["batch_stats"]

  def apply(head_params, features, views, target, state, key):
    del target, key
    if named is None:
      variables = {"params": head_params, "batch_stats": state}
      out, state = heads.apply(variables, features.pooled, True)
    else:
      out = {}
      for name, head in named.items():
        out[name], state = run(head, name, head_params, state, features.pooled)
    loss, metrics = measure(out, views)
    return loss, metrics, state

  return contracts.Objective(
    requires=frozenset(requires),
    min_views=min_views,
    init=start,
    apply=apply,
    chance=chance,
    **others,
  )

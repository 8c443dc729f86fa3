"""A weighted sum of objectives, on the features of one encoder.

  c.objective = {"name": "weighted", "terms": {
    "simclr": {"weight": 1.0, "temperature": 0.1},
    "inverter": {"weight": 0.1},
  }}

A term is called as its objective is, or has a `name` of its own. Every term has
its own head, options and metrics; the encoder gets the sum of the gradients.
"""

import jax

from genrep_jax.lib import contracts, options, plugins
from genrep_jax.objectives import _options

_ROOM = "objectives"
OPTIONS = {
  "terms": options.Entry(
    _ROOM,
    "",
    "what is summed, by any names",
    many=True,
    shared={"weight": _options.weight(1.0, "of its loss")},
  )
}


def make(cfg, heads):
  """Makes the sum.

  Args:
    cfg: with the terms.
    heads: the module `lib.heads`.

  Returns:
    The Objective. Metrics of a term have its label before them, and so has its
    loss, before its weight.

  Raises:
    UsageError: no terms, a sum among them, or all weights zero.
  """
  weights = {label: term.weight for label, term in cfg.terms.items()}
  if not any(weights.values()):
    options.refuse(
      "objective.terms", weights, "objectives, at least one of a weight > 0"
    )
  terms = {}
  for label, term in cfg.terms.items():
    path = f"objective.terms.{label}"
    if term.name == "weighted":
      options.refuse(f"{path}.name", term.name, "no sum within a sum")
    own = {key: value for key, value in term.items() if key != "weight"}
    terms[label] = plugins.make(_ROOM, own, heads, path=path)
  frozen = {
    label: term.frozen
    for label, term in terms.items()
    if term.frozen is not None
  }

  def init(key, features):
    params, state = {}, {}
    for i, (label, term) in enumerate(terms.items()):
      params[label], state[label] = term.init(
        jax.random.fold_in(key, i), features
      )
    return params, state

  def apply(head_params, features, views, target, state, key):
    total, measured, new_state = 0.0, {}, {}
    for i, (label, term) in enumerate(terms.items()):
      own = None
      if "target" in term.requires:
        own = contracts.Target(target.features, target.head[label])
      loss, extra, new_state[label] = term.apply(
        head_params[label],
        features,
        views._replace(frozen=(views.frozen or {}).get(label)),
        own,
        state[label],
        jax.random.fold_in(key, i),
      )
      total += weights[label] * loss
      measured[f"{label}_loss"] = loss
      measured |= {f"{label}_{name}": value for name, value in extra.items()}
    return total, measured, new_state

  def chance(b, v):
    levels = {label: term.chance(b, v) for label, term in terms.items()}
    if None in levels.values():
      return None
    return sum(weights[label] * level for label, level in levels.items())

  return contracts.Objective(
    requires=frozenset().union(*(term.requires for term in terms.values())),
    min_views=max(term.min_views for term in terms.values()),
    init=init,
    apply=apply,
    chance=chance,
    frozen=frozen or None,
    min_px=max(term.min_px for term in terms.values()),
  )

"""A weighted sum of objectives, on the features of one encoder.

  c.objective = {"name": "weighted", "terms": {
    "simclr": {"weight": 1.0, "temperature": 0.1},
    "inverter": {"weight": 0.1},
  }}

A term is called as its objective is, or has a `name` of its own. Every term has
its own head, options and metrics; the encoder gets the sum of the gradients.
"""

import math

import jax
import ml_collections

from genrep_jax.lib import contracts, errors, plugins

_ROOM = "objectives"


def default_config() -> dict:
  """Returns the options."""
  return {"name": "weighted", "terms": {}}


def complete(cfg) -> None:
  """Fills in every term's name, weight and defaults, in place.

  Args:
    cfg: an unlocked config of this objective.

  Raises:
    UsageError: an unknown objective, or an option that it does not have.
  """
  for label, term in cfg.terms.items():
    if not isinstance(term, ml_collections.ConfigDict):
      raise errors.UsageError(
        f"objective.terms.{label}: {term!r} is not a dictionary of options"
      )
    term.name = term.get("name", label)
    if term.name == "weighted":
      raise errors.UsageError(f"objective.terms.{label}: a sum within a sum")
    module = plugins.resolve(_ROOM, term.name)
    known = {**module.default_config(), "name": term.name, "weight": 1.0}
    for key in term:
      if key not in known:
        raise errors.UsageError(
          f"objective.terms.{label}: objective {term.name!r} has no option "
          f"{key!r}; options: {', '.join(known)}"
        )
    for key, value in known.items():
      term[key] = term.get(key, value)


def make(cfg, heads):
  """Makes the sum.

  Args:
    cfg: options as `complete` leaves them.
    heads: the module `lib.heads`.

  Returns:
    The Objective. Metrics of a term have its label before them, and so has its
    loss, before its weight.

  Raises:
    UsageError: no terms, a negative or infinite weight, or all weights zero.
  """
  if not cfg.terms:
    raise errors.UsageError("objective.terms: empty; name an objective")
  weights = {label: float(term.weight) for label, term in cfg.terms.items()}
  for label, weight in weights.items():
    if not (weight >= 0 and math.isfinite(weight)):
      raise errors.UsageError(
        f"objective.terms.{label}.weight: {weight} is not >= 0"
      )
  if not sum(weights.values()):
    raise errors.UsageError(
      f"objective.terms: the weights of {', '.join(weights)} sum to zero"
    )
  terms = {
    label: plugins.resolve(_ROOM, term.name).make(term, heads)
    for label, term in cfg.terms.items()
  }

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

"""Siamese objectives: a projector, and a predictor on top of its output z.

Keys come from the target network or from z itself, without gradient.
"""

import jax

from genrep_jax.lib import contracts
from genrep_jax.objectives import _heads_on_views


def make_objective(
  projector,
  projector_dim,
  predictor,
  measure,
  *,
  use_target,
  use_labels=False,
  check=lambda b, v: None,
  chance=lambda b, v: None,
) -> contracts.Objective:
  """Makes an objective of predictions p = q(g(h)) and keys.

  Args:
    projector: the Head g.
    projector_dim: dimension of its output.
    predictor: the Head q.
    measure: (predictions [b v d], keys [b v d], labels [b] or None) -> (loss,
      metrics).
    use_target: keys are the target network's g(h), else those of the trained
      one; without gradient either way.
    use_labels: `measure` gets the labels.
    check: (b, v) -> None, raises UsageError for a batch that does not fit.
    chance: see contracts.Objective; there is no such level by default.
  """
  run = _heads_on_views.run

  def init(key, features):
    b, v, in_dim = features.pooled.shape
    check(b, v)
    return _heads_on_views.init(
      key,
      {
        "projector": (projector, in_dim),
        "predictor": (predictor, projector_dim),
      },
    )

  def apply(head_params, features, views, target, state, key):
    del key
    z, new = run(projector, "projector", head_params, state, features.pooled)
    p, new = run(predictor, "predictor", head_params, new, z)
    if use_target:  # its batch norms see the batch, too; not in the state
      pooled = target.features.pooled
      z, _ = run(projector, "projector", target.head, state, pooled)
    labels = views.labels if use_labels else None
    loss, metrics = measure(p, jax.lax.stop_gradient(z), labels)
    return loss, metrics, new

  needs = (("target", use_target), ("labels", use_labels))
  return contracts.Objective(
    requires=frozenset(name for name, needed in needs if needed),
    min_views=2,
    init=init,
    apply=apply,
    chance=chance,
  )

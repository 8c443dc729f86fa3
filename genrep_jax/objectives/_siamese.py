"""What the objectives over pairs of views share: pairs, cosines, heads.

A siamese objective has a projector, its output z, and often a predictor on top
of it; keys come from the target network or from z itself, without gradient.

Batch norms of heads see all b * v rows at once, as the encoder's do: one set of
statistics for all views, where the papers' code runs the network once per view.
Their running statistics are the objective's state; nothing here reads them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts


def to_float(z):
  """Raises the precision of an array to float32; float64 stays."""
  return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def ordered_pairs(v: int):
  """Returns int arrays (a, b): all pairs of different views, a != b."""
  return np.nonzero(~np.eye(v, dtype=bool))


def unordered_pairs(v: int):
  """Returns int arrays (a, b): all pairs of views a < b."""
  return np.nonzero(np.triu(np.ones((v, v), bool), 1))


def cosines(p, z):
  """Cosines of p_a and z_b over ordered pairs a != b of views: [b v(v-1)].

  Args:
    p: [b v d], unit vectors.
    z: [b v d], unit vectors.
  """
  every = jnp.einsum("iad,icd->iac", p, z, precision=jax.lax.Precision.HIGHEST)
  a, b = ordered_pairs(p.shape[1])
  return every[:, a, b]


def spread(z):
  """Standard deviation of unit vectors z [... d], times sqrt(d).

  Mean over the d coordinates. 1: spread evenly over the sphere; 0: collapsed
  (SimSiam, Chen and He 2021, figure 2).
  """
  z = jax.lax.stop_gradient(z)
  d = z.shape[-1]
  return jnp.mean(jnp.std(z.reshape(-1, d), axis=0)) * d**0.5


def init_heads(key, heads):
  """Initialises heads {name: (Head, dimension of its input)}.

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


def run_head(head, name, params, state, x):
  """Applies a head of `init_heads` in training.

  Returns:
    (its output, the state with its new statistics).
  """
  variables = {"params": params[name], "batch_stats": state.get(name, {})}
  y, batch_stats = head.apply(variables, x, True)
  return y, {**state, name: batch_stats} if batch_stats else state


def on_pooled(heads):
  """Heads {name: Head} that all read the pooled features.

  Returns:
    (init, run): init(key, features) -> (params, state), and
    run(params, features, state) -> ({name: output}, new state), in training.
  """

  def init(key, features):
    in_dim = features.pooled.shape[-1]
    return init_heads(
      key, {name: (head, in_dim) for name, head in heads.items()}
    )

  def run(params, features, state):
    out = {}
    for name, head in heads.items():
      out[name], state = run_head(head, name, params, state, features.pooled)
    return out, state

  return init, run


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

  def init(key, features):
    b, v, in_dim = features.pooled.shape
    check(b, v)
    return init_heads(
      key,
      {
        "projector": (projector, in_dim),
        "predictor": (predictor, projector_dim),
      },
    )

  def apply(head_params, features, views, target, state, key):
    del key
    z, new = run_head(
      projector, "projector", head_params, state, features.pooled
    )
    p, new = run_head(predictor, "predictor", head_params, new, z)
    if use_target:  # its batch norms see the batch, too; not in the state
      z, _ = run_head(
        projector, "projector", target.head, state, target.features.pooled
      )
    labels = views.labels if use_labels else None
    loss, metrics = measure(p, jax.lax.stop_gradient(z), labels)
    return loss, metrics, new

  return contracts.Objective(
    requires=frozenset(
      ({"target"} if use_target else set())
      | ({"labels"} if use_labels else set())
    ),
    min_views=2,
    init=init,
    apply=apply,
    chance=chance,
  )

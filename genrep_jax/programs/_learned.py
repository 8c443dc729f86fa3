"""Learned T_z inside the step: parameters that climb, latents that search.

A contracts.LearnedView differentiates the objective's loss through the encoder,
T_x and the frozen generator, to its own parameters or to the latents. What it
learns is local to the step: the encoder goes down the same loss.
"""

import jax
import jax.numpy as jnp
import optax


def init(view, key):
  """State of a LearnedView at step 0; {} where there is nothing to train."""
  params = {} if view is None else view.init(key)
  if not params:
    return {}
  return {"params": params, "opt_state": view.optimizer.init(params)}


def climb(view, state, grads):
  """Moves a LearnedView's parameters up the loss.

  Args:
    view: the contracts.LearnedView, or None.
    state: from `init`.
    grads: gradient of the loss with respect to the parameters, if any.

  Returns:
    (new state, metrics); {} and {} where there is nothing to train.
  """
  if not state:
    return state, {}
  descent = jax.tree.map(jnp.negative, grads)
  updates, opt_state = view.optimizer.update(
    descent, state["opt_state"], state["params"]
  )
  params = optax.apply_updates(state["params"], updates)
  measured = {"view_grad_norm": optax.tree.norm(grads)}
  return {"params": params, "opt_state": opt_state}, measured


def search(view, loss_of_latents, latents, anchors, start, split):
  """Lets a LearnedView move the latents of a batch.

  Args:
    view: the contracts.LearnedView, or None.
    loss_of_latents: latents [b r latent_dim] -> the objective's loss.
    latents: where it starts.
    anchors: [b latent_dim].
    start: renderings before this one stay where they are.
    split: shards arrays over the devices by their first axis.

  Returns:
    (latents, metrics); what was given and {} where nothing searches.
  """
  if view is None or view.search is None:
    return latents, {}
  free = jnp.arange(latents.shape[1])[:, None] >= start

  def slope(latents):
    loss, grad = jax.value_and_grad(loss_of_latents)(split(latents))
    return loss, split(jnp.where(free, grad, 0.0))

  with jax.named_scope("search"):
    latents, measured = view.search(slope, latents, anchors)
  return split(latents), measured

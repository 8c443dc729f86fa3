"""SimCLR that also measures the latents it is shown."""

import dataclasses

import jax.numpy as jnp

from genrep_jax.objectives import simclr

OPTIONS = simclr.OPTIONS


def make(cfg, heads):
  """Makes the objective; its further metrics are of the latents of view 1."""
  made = simclr.make(cfg, heads)

  def apply(head, features, views, *rest):
    loss, measured, state = made.apply(head, features, views, *rest)
    moved = views.latents - views.anchors[:, None]
    length = jnp.linalg.norm(moved[:, 1], axis=-1)
    seen = {
      "anchor_moved": jnp.abs(moved[:, 0]).max(),
      "shortest": length.min(),
      "longest": length.max(),
      "mean_length": length.mean(),
    }
    return loss, {**measured, **seen}, state

  return dataclasses.replace(
    made, apply=apply, requires=made.requires | {"latents"}
  )

"""Adversarial latent view: the positive that the encoder finds hardest.

Starts as the Gaussian view does and climbs the objective's loss through the
encoder, T_x and the generator by k steps of projected gradient ascent
(Madry et al. 2018, section 2.1, in the norm of the latents):

  d_0 = P(w),  d_{i+1} = P(d_i + eta r g / |g|),  g = dL/dz' at z' = z + d_i,

P the projection to the ball of radius r = sigma sqrt(latent_dim), in which a
Gaussian of standard deviation sigma has its mass. All views of the batch move
at once, each against the others as they are. A step costs k further passes,
forward and backward, through generator, T_x and encoder.
"""

import math

import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, options
from genrep_jax.views import vectors
from genrep_jax.views.latent import _shared

OPTIONS = _shared.GAUSSIAN | {
  "sigma": options.number(
    0.2,
    "radius of the ball / sqrt(latent_dim), and of the start",
    low=0,
    high=1e3,
  ),
  "num_steps": options.integer(
    1, "k; 0: the Gaussian view, projected", low=0, high=100
  ),
  "step_size": options.number(0.5, "eta, in radii", low=0, high=1e3),
}


def make(cfg, generator: contracts.Generator) -> contracts.LearnedView:
  """Makes the view.

  Args:
    cfg: the options.
    generator: its latent_dim gives the radius.

  Returns:
    A LearnedView without parameters. Its metrics: loss_before_search, of the
    start, to hold against the run's loss; and view_distance, the mean of
    |z' - z| / r over the latents that may move.
  """
  noise = _shared.gaussian(cfg)
  step_size = float(cfg.step_size)
  radius = float(cfg.sigma) * math.sqrt(generator.latent_dim)

  def apply(params, key, z, y):
    del params, y
    w = noise(key, z.shape)
    return z + vectors.into_ball(w, radius).astype(z.dtype)

  def search(slope, latents, anchors):
    anchors = anchors[:, None]

    def climb(moved, _):
      loss, gradient = slope(anchors + moved)
      moved += step_size * radius * vectors.unit(gradient)
      return vectors.into_ball(moved, radius), loss

    # Traced once and unrolled: k is small, and XLA's CPU backend runs the
    # convolutions of a real loop's body slowly (a quick start step with k = 1:
    # 1.85 s against 0.51).
    moved, losses = jax.lax.scan(
      climb, latents - anchors, length=cfg.num_steps, unroll=True
    )
    length = vectors.norm(moved)
    free = jnp.maximum(jnp.sum(length > 0), 1)
    return anchors + moved, {
      "loss_before_search": losses[0],
      "view_distance": jnp.sum(length) / (free * (radius or 1.0)),
    }

  return contracts.LearnedView(
    init=lambda key: {}, apply=apply, search=search if cfg.num_steps else None
  )

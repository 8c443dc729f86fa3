"""Half a cosine (Loshchilov and Hutter 2016, arXiv 1608.03983), GenRep's.

From 1 at the end of the warm-up to final_fraction at the end of the run. GenRep
and its ancestor SupContrast compute the cosine over the whole run and let the
warm-up end on it; without warm-up the two are equal. They also change it once
an epoch; here it changes every step.
"""

import jax.numpy as jnp

from genrep_jax.lib import options

OPTIONS = {
  "final_fraction": options.number(
    1e-3, "of the learning rate, at the end", low=0, high=1
  )
}


def make(cfg, *, warmup_steps, total_steps, steps_per_epoch):
  """Makes t -> fraction; see contracts.ROOMS."""
  del steps_per_epoch
  final = cfg.final_fraction

  def fraction(t):
    done = jnp.clip((t - warmup_steps) / (total_steps - warmup_steps), 0, 1)
    return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * done))

  return fraction

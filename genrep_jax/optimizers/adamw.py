"""AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101).

learning rate * weight_decay * w is subtracted from the weights.
"""

import optax

from genrep_jax.optimizers import _options

OPTIONS = _options.MOMENTS


def make(cfg, schedule, decayed):
  """Makes the transformation; see contracts.ROOMS."""
  return optax.chain(
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.add_decayed_weights(cfg.weight_decay, decayed),
    optax.scale_by_learning_rate(schedule),
  )

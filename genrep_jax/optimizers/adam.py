"""Adam (Kingma and Ba 2014, arXiv 1412.6980).

weight_decay * w is added to the gradient, as PyTorch does; `adamw` does not.
"""

import optax

from genrep_jax.optimizers import _options

OPTIONS = _options.MOMENTS


def make(cfg, schedule, decayed):
  """Makes the transformation; see contracts.ROOMS."""
  return optax.chain(
    optax.add_decayed_weights(cfg.weight_decay, decayed),
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.scale_by_learning_rate(schedule),
  )

"""SGD with momentum, GenRep's: weight_decay * w is added to the gradient.

g += wd w; v = m v + g; w -= lr (v, or g + m v with Nesterov), as PyTorch does.
"""

import optax

from genrep_jax.optimizers import _options

OPTIONS = _options.MOMENTUM


def make(cfg, schedule, decayed):
  """Makes the transformation; see contracts.ROOMS."""
  return optax.chain(
    optax.add_decayed_weights(cfg.weight_decay, decayed),
    optax.trace(cfg.momentum, cfg.nesterov),
    optax.scale_by_learning_rate(schedule),
  )

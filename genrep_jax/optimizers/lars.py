"""LARS (You et al. 2017, arXiv 1708.03888), for large batches.

(gradient + weight_decay * w) is scaled by trust_coefficient * |w| / |that|, per
leaf; leaves that are not decayed are not scaled either.
"""

import optax

from genrep_jax.lib import options
from genrep_jax.optimizers import _options

OPTIONS = {
  **_options.MOMENTUM,
  "trust_coefficient": options.number(
    1e-3, "length of a step, as a share of the weights'", above=0, high=1e3
  ),
}


def make(cfg, schedule, decayed):
  """Makes the transformation; see contracts.ROOMS."""
  return optax.lars(
    schedule,
    weight_decay=cfg.weight_decay,
    weight_decay_mask=decayed,
    trust_coefficient=cfg.trust_coefficient,
    trust_ratio_mask=decayed,
    momentum=cfg.momentum,
    nesterov=cfg.nesterov,
  )

"""Dense layers on all pixels: BiGAN's encoder of permutation-invariant MNIST.

Donahue et al. 2017 (arXiv:1605.09782), as their released code has it: no
biases, batch norm with a shift and no gain behind every layer but the first,
leaky ReLU. Weights start from N(0, 0.02). It has no local map.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from genrep_jax.encoders import _layers
from genrep_jax.lib import contracts, options

_SLOPE = 0.2  # leaky ReLU

OPTIONS = {
  "widths": options.several(
    (1024, 1024),
    options.integer(low=1, high=65536),
    "units of each layer; the last ones are the features",
    least=1,
    bound=True,
  ),
}


def make(cfg, *, dtype=jnp.float32) -> contracts.Encoder:
  """Makes the net; it takes images of any size, the same ones always.

  Args:
    cfg: see `OPTIONS`.
    dtype: compute dtype; parameters, statistics and features are float32.

  Returns:
    The encoder; f is the last of `widths`.
  """
  module = _MLP("batch", 1, dtype, tuple(cfg["widths"]))
  return _layers.encoder(module, _init, lambda outputs: outputs)


def _init(module, key, image_shape) -> contracts.Tree:
  images = jnp.zeros((1, *image_shape), jnp.float32)
  return {"batch_stats": {}, **module.init(key, images, train=False)}


class _MLP(_layers.Layers):
  """See the module's docstring."""

  widths: Sequence[int]

  @nn.compact
  def __call__(self, x, *, train) -> tuple[jnp.ndarray, Any]:
    """Maps images [n h w c] to float32 (features [n f], None)."""
    x = x.reshape(len(x), -1).astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = nn.Dense(
        width,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=nn.initializers.normal(0.02),
        name=f"dense{i}",
      )(x)
      if i:
        x = self.batch_norm(
          x, train, f"norm{i}", use_scale=False, dtype=self.dtype
        )
      x = nn.leaky_relu(x, _SLOPE)
    return x.astype(jnp.float32), None

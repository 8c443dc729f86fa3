"""Layers under spectral normalization, as BigGAN's code has it.

Miyato et al. 2018, algorithm 1, with one step of power iteration: every forward
pass divides the weight by v W u, where v and u come from the stored u0 in one
step, in training and evaluation alike; training keeps u as the next u0. u and v
are constants in the gradient. u0 lies in the collection "batch_stats": it moves
when statistics move.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_EPSILON = 1e-12


def step(matrix, u0):
  """Takes one step of power iteration.

  Args:
    matrix: W [inputs outputs].
    u0: [outputs].

  Returns:
    (sigma, u [outputs]); sigma = v W u with v and u held constant.
  """

  def unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x), _EPSILON)

  fixed = jax.lax.stop_gradient(matrix)
  v = unit(fixed @ u0)
  u = unit(v @ fixed)
  return v @ matrix @ u, u


class _Layer(nn.Module):
  """Base: the normalized kernel.

  Attributes:
    features: outputs.
    use_bias: adds one.
    kernel_init: of the kernel.
  """

  features: int
  use_bias: bool = True
  kernel_init: Any = nn.initializers.normal(0.02)

  def weights(self, shape, train):
    """Returns (kernel / sigma, bias or 0)."""
    kernel = self.param("kernel", self.kernel_init, shape)
    size = (self.features,)
    u0 = self.variable(
      "batch_stats",
      "u0",
      lambda: jax.random.normal(self.make_rng("params"), size),
    )
    sigma, u = step(kernel.reshape(-1, self.features), u0.value)
    if train and not self.is_initializing():
      u0.value = u
    bias = 0
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, size)
    return kernel / sigma, bias


class Dense(_Layer):
  """A dense layer [n d] -> [n features]."""

  @nn.compact
  def __call__(self, x, *, train: bool):
    """Applies it."""
    kernel, bias = self.weights((x.shape[-1], self.features), train)
    return x @ kernel + bias


class Conv(_Layer):
  """A square convolution of stride 1, padded: [n h w d] -> [n h w features].

  Attributes:
    size: of the kernel.
  """

  size: int = 3

  @nn.compact
  def __call__(self, x, *, train: bool):
    """Applies it."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel, bias = self.weights(shape, train)
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=dimensions
    )
    return x + bias

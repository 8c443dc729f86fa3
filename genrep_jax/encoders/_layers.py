"""Convolution and norm as every convolutional encoder here uses them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from genrep_jax.lib import contracts, options

EPSILON = 1e-5
# Running statistics keep this share of their old value at each update, which
# PyTorch calls momentum 0.1. Unlike PyTorch's, the variance averaged is the
# biased one: the difference is 1/(n*h*w).
_MOMENTUM = 0.9


def check_group_size(cfg, channels: int) -> None:
  """Refuses groups that do not make up `channels`, if the norm is by groups."""
  if cfg.norm == "group" and channels % cfg.group_size:
    options.refuse(
      "encoder.group_size", cfg.group_size, f"a divisor of {channels} channels"
    )


def run(module: nn.Module, variables, images, train: bool):
  """Runs a module with batch norms; they see the batch in training only.

  Returns:
    (its outputs, batch_stats, which training has updated).
  """
  if not train:
    outputs = module.apply(variables, images, train=False)
    return outputs, variables["batch_stats"]
  outputs, updated = module.apply(
    variables, images, train=True, mutable=["batch_stats"]
  )
  return outputs, updated.get("batch_stats", {})


def encoder(module: nn.Module, init: Callable, of: Callable):
  """Makes a contracts.Encoder of a module.

  Args:
    module: called with (images, train=...).
    init: (module, key, image_shape) -> variables.
    of: the module's outputs -> (pooled, local), float32.
  """

  def apply(variables, images, *, train, local=False):
    outputs, batch_stats = run(module, variables, images, train)
    pooled, last = of(outputs)
    return contracts.Features(pooled, last if local else None), batch_stats

  return contracts.Encoder(lambda key, shape: init(module, key, shape), apply)


class Layers(nn.Module):
  """Base of modules made of convolutions and norms.

  Attributes:
    norm_kind: "batch", "group" or "none".
    group_size: channels per group of "group".
    dtype: compute dtype; parameters and statistics are float32.
  """

  norm_kind: str
  group_size: int
  dtype: Any

  def conv(self, x, channels, size, stride, name):
    """A square convolution, padded by size // 2 all around.

    It has a bias only where no norm follows to make one useless. Its kernel
    starts from Kaiming normal fan_in, unless the encoder draws its own.
    """
    return nn.Conv(
      channels,
      (size, size),
      strides=stride,
      padding=size // 2,
      use_bias=self.norm_kind == "none",
      dtype=self.dtype,
      kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
      name=name,
    )(x)

  def norm(self, x, train, name):
    """Batch norm over the whole (global) batch, group norm, or nothing."""
    if self.norm_kind == "none":
      return x
    if self.norm_kind == "group":
      return nn.GroupNorm(
        num_groups=None,
        group_size=self.group_size,
        epsilon=EPSILON,
        dtype=self.dtype,
        name=name,
      )(x)
    return self.batch_norm(x, train, name, dtype=self.dtype)

  def batch_norm(self, x, train, name, **options):
    """Batch norm over the whole (global) batch, with our constants."""
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=_MOMENTUM,
      epsilon=EPSILON,
      name=name,
      **options,
    )(x)

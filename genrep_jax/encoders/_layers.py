"""Convolution and norm as every convolutional encoder here uses them."""

from typing import Any

import flax.linen as nn

from genrep_jax.lib import errors

_EPSILON = 1e-5
# Running statistics keep this share of their old value at each update, which
# PyTorch calls momentum 0.1. Unlike PyTorch's, the variance averaged is the
# biased one: the difference is 1/(n*h*w).
_MOMENTUM = 0.9


def check_group_size(group_size: int, channels: int):
  """Raises UsageError unless groups of `group_size` make up `channels`."""
  if group_size < 1 or channels % group_size:
    raise errors.UsageError(
      f"encoder.group_size must divide the first layer's {channels} "
      f"channels, got {group_size}"
    )


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
        epsilon=_EPSILON,
        dtype=self.dtype,
        name=name,
      )(x)
    return self.batch_norm(x, train, name, dtype=self.dtype)

  def batch_norm(self, x, train, name, **options):
    """Batch norm over the whole (global) batch, with our constants."""
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=_MOMENTUM,
      epsilon=_EPSILON,
      name=name,
      **options,
    )(x)

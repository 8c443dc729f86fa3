"""Discriminators of pairs: an image and the latent that goes with it."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

_SLOPE = 0.2  # leaky ReLU
_EPSILON = 1e-5
_NORMAL = nn.initializers.normal(0.02)


class _BatchNorm(nn.Module):
  """Normalizes by the batch, always: a discriminator never sees one image."""

  @nn.compact
  def __call__(self, x):
    axes = tuple(range(x.ndim - 1))
    shift = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    mean = jnp.mean(x, axes)
    variance = jnp.mean((x - mean) ** 2, axes)
    return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) + shift


class Dense(nn.Module):
  """BiGAN's discriminator of permutation-invariant MNIST.

  Donahue et al. 2017, as released: no biases; z enters every hidden layer but
  the first through a linear map; batch norm with a shift and no gain behind
  these; the last layer starts at zero, so that the first logits are 0.

  Attributes:
    widths: units of the hidden layers.
  """

  widths: Sequence[int]

  @nn.compact
  def __call__(self, images, z):
    """Maps images [n h w c] and z [n d] to logits [n]."""
    x = images.reshape(len(images), -1)
    for i, width in enumerate(self.widths):
      x = nn.Dense(width, False, kernel_init=_NORMAL, name=f"dense{i}")(x)
      if i:
        x += nn.Dense(width, False, kernel_init=_NORMAL, name=f"latent{i}")(z)
        x = _BatchNorm(name=f"norm{i}")(x)
      x = nn.leaky_relu(x, _SLOPE)
    return _logits(x)


class Convolutional(nn.Module):
  """The same rule for strided 3x3 convolutions; z is added at every position.

  Attributes:
    widths: channels after each halving.
  """

  widths: Sequence[int]

  @nn.compact
  def __call__(self, images, z):
    """Maps images [n h w c] and z [n d] to logits [n]."""
    x = images
    for i, width in enumerate(self.widths):
      x = nn.Conv(
        width,
        (3, 3),
        strides=2,
        padding=1,
        use_bias=False,
        kernel_init=_NORMAL,
        name=f"conv{i}",
      )(x)
      if i:
        entered = nn.Dense(width, False, kernel_init=_NORMAL, name=f"latent{i}")
        x = _BatchNorm(name=f"norm{i}")(x + entered(z)[:, None, None])
      x = nn.leaky_relu(x, _SLOPE)
    return _logits(x.reshape(len(x), -1))


def _logits(x):
  zeros = nn.initializers.zeros
  return nn.Dense(1, False, kernel_init=zeros, name="out")(x)[:, 0]

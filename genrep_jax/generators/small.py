"""A small image generator made for two CPU cores.

A dense layer from [z, embedding of y] to a `base_px` map, then one stage per
width: modulated batch norm, ReLU, 3x3 convolution, and depth-to-space to the
next resolution. There is no transposed convolution, and no convolution at the
output's own resolution: XLA on a CPU runs both slowly, and this network is the
renderer inside every training step of the quick start.

The batch norms' gain and bias are linear in [z, embedding of y]: conditional
batch norm (de Vries et al. 2017) with the latent as a condition too
(self-modulation, Chen et al. 2019, eq. 3-4), as in BigGAN-deep.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genrep_jax.lib import errors, rng
from genrep_jax.lib.contracts import Generator

_EMBEDDING_DIM = 32  # length of the class embedding appended to z

# Options that may differ from those the weights were made with (lib/frozen.py).
FREE_OPTIONS = ("truncation",)  # of the latents


def default_config() -> dict:
  """Returns the config keys of this generator: 28x28x1, unconditional."""
  return {
    "name": "small",
    "num_classes": 0,  # 0 = unconditional
    "latent_dim": 64,
    "truncation": 2.0,  # z ~ N^t(0, 1, truncation); 0 = uncut
    "channels": 1,
    "base_px": 7,  # the output is base_px * 2**len(widths) pixels wide
    "widths": (64, 32),  # channels of the map at 7x7, at 14x14, ...
    "extra_convs": (0, 1),  # further 3x3 convolutions at each resolution
  }


def depth_to_space(x: jax.Array) -> jax.Array:
  """Moves channels to pixels: [n h w 4c] -> [n 2h 2w c]."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, 2, 2, c // 4)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


class ModulatedBatchNorm(nn.Module):
  """Batch norm whose gain and bias are linear in a condition, then ReLU."""

  dtype: jnp.dtype
  momentum: float

  @nn.compact
  def __call__(self, x, condition, train):
    """Normalises x [n h w c] and modulates it by condition [n d]."""
    channels = x.shape[-1]
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=self.momentum,
      use_bias=False,
      use_scale=False,
      dtype=self.dtype,
    )(x)
    modulation = nn.Dense(
      2 * channels, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype
    )(condition)
    gain, bias = jnp.split(modulation[:, None, None, :], 2, axis=-1)
    return nn.relu(x * (1 + gain) + bias)


class SmallGenerator(nn.Module):
  """The network; see the module docstring and `default_config`."""

  num_classes: int
  channels: int
  base_px: int
  widths: Sequence[int]
  extra_convs: Sequence[int]
  dtype: jnp.dtype = jnp.float32
  momentum: float = 0.9  # of the stored statistics, in training mode

  @nn.compact
  def __call__(self, z, y, train=False):
    """Maps z [n latent_dim], y int [n] to images [n h w c] in [-1, 1]."""

    def conv(features, name):
      return nn.Conv(features, (3, 3), dtype=self.dtype, name=name)

    condition = z.astype(self.dtype)
    if self.num_classes:
      embedding = nn.Embed(
        self.num_classes,
        _EMBEDDING_DIM,
        embedding_init=nn.initializers.normal(1.0),
        dtype=self.dtype,
        name="embedding",
      )(y)
      condition = jnp.concatenate([condition, embedding], axis=-1)
    side = self.base_px
    x = nn.Dense(
      side * side * self.widths[0],
      use_bias=False,
      dtype=self.dtype,
      name="stem",
    )(condition)
    x = x.reshape(-1, side, side, self.widths[0])
    targets = [*self.widths[1:], self.channels]
    for i, target in enumerate(targets):
      for j in range(self.extra_convs[i]):
        x = ModulatedBatchNorm(self.dtype, self.momentum, name=f"norm_{i}_{j}")(
          x, condition, train
        )
        x = conv(self.widths[i], f"conv_{i}_{j}")(x)
      x = ModulatedBatchNorm(self.dtype, self.momentum, name=f"norm_{i}_up")(
        x, condition, train
      )
      x = depth_to_space(conv(4 * target, f"conv_{i}_up")(x))
    return jnp.tanh(x.astype(jnp.float32))


def module(cfg, *, dtype=jnp.float32) -> SmallGenerator:
  """Returns the linen module, for a game that trains it.

  Args:
    cfg: a config with the keys of `default_config`.
    dtype: compute type; variables are float32.

  Raises:
    UsageError: sizes that do not fit together.
  """
  widths, extra = tuple(cfg.widths), tuple(cfg.extra_convs)
  if not widths or len(widths) != len(extra):
    raise errors.UsageError(
      f"generator.small: widths {widths} and extra_convs {extra} must have "
      "the same length, at least 1"
    )
  if cfg.channels not in (1, 3):
    raise errors.UsageError(
      f"generator.small: channels {cfg.channels} must be 1 or 3"
    )
  if cfg.num_classes < 0 or cfg.latent_dim < 1 or cfg.base_px < 1:
    raise errors.UsageError(
      f"generator.small: num_classes {cfg.num_classes} must be >= 0, "
      f"latent_dim {cfg.latent_dim} and base_px {cfg.base_px} >= 1"
    )
  if cfg.truncation < 0:
    raise errors.UsageError(
      f"generator.small: truncation {cfg.truncation} must be >= 0 (0 = uncut)"
    )
  return SmallGenerator(
    num_classes=cfg.num_classes,
    channels=cfg.channels,
    base_px=cfg.base_px,
    widths=widths,
    extra_convs=extra,
    dtype=dtype,
  )


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a config with the keys of `default_config`.
    dtype: compute type; images are float32.

  Returns:
    A Generator whose variables are {"params", "batch_stats"}.

  Raises:
    UsageError: sizes that do not fit together.
  """
  net = module(cfg, dtype=dtype)
  side = cfg.base_px * 2 ** len(net.widths)

  def init(key):
    z = jnp.zeros((1, cfg.latent_dim))
    return dict(net.init(key, z, jnp.zeros((1,), jnp.int32)))

  def sample(key):
    return rng.latent_and_class(
      key, cfg.latent_dim, cfg.num_classes, truncation=cfg.truncation
    )

  return Generator(
    resolution=(side, side),
    channels=cfg.channels,
    latent_dim=cfg.latent_dim,
    num_classes=cfg.num_classes,
    init=init,
    sample=sample,
    apply=net.apply,
  )

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

from genrep_jax.lib import options, rng
from genrep_jax.lib.contracts import Generator

_EMBEDDING_DIM = 32  # length of the class embedding appended to z
_LARGEST_PX = 2048

OPTIONS = {
  "num_classes": options.integer(
    0, "0: unconditional", low=0, high=65536, bound=True
  ),
  "latent_dim": options.integer(
    64, "length of z", low=1, high=65536, bound=True
  ),
  "truncation": options.number(
    2.0, "z ~ N^t(0, 1, truncation); 0: uncut", low=0
  ),
  "channels": options.one_of(1, (1, 3), "of the images", bound=True),
  "base_px": options.integer(
    7,
    "side of the first map; that of the images is base_px * 2**len(widths)",
    low=1,
    high=256,
    unit="px",
    bound=True,
  ),
  "widths": options.several(
    (64, 32),
    options.integer(low=1, high=16384),
    "channels of the map at base_px, at twice base_px, ...",
    least=1,
    bound=True,
  ),
  "extra_convs": options.several(
    (0, 1),
    options.integer(low=0, high=16),
    "further 3x3 convolutions at each resolution",
    least=1,
    bound=True,
  ),
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
    """Normalizes x [n h w c] and modulates it by condition [n d]."""
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
  """The network; see the module docstring and `OPTIONS`."""

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


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the generator, which can be trained.

  Args:
    cfg: a checked entry with the keys of `OPTIONS`.
    dtype: compute type; variables and images are float32.

  Returns:
    A Generator whose variables are {"params", "batch_stats"}.

  Raises:
    UsageError: sizes that do not fit together.
  """
  widths, extra = tuple(cfg.widths), tuple(cfg.extra_convs)
  if len(extra) != len(widths):
    options.refuse(
      "generator.extra_convs", extra, f"as many as widths has, {len(widths)}"
    )
  side = cfg.base_px * 2 ** len(widths)
  if side > _LARGEST_PX:
    options.refuse(
      "generator.widths", widths, f"base_px * 2**len(widths) <= {_LARGEST_PX}"
    )
  net = SmallGenerator(
    num_classes=cfg.num_classes,
    channels=cfg.channels,
    base_px=cfg.base_px,
    widths=widths,
    extra_convs=extra,
    dtype=dtype,
  )

  def init(key):
    z = jnp.zeros((1, cfg.latent_dim))
    return dict(net.init(key, z, jnp.zeros((1,), jnp.int32)))

  def sample(key):
    return rng.latent_and_class(
      key, cfg.latent_dim, cfg.num_classes, truncation=cfg.truncation
    )

  def train_apply(variables, z, y, momentum=None):
    trained = net if momentum is None else net.clone(momentum=momentum)
    images, updated = trained.apply(
      variables, z, y, train=True, mutable=["batch_stats"]
    )
    return images, {**variables, **updated}

  return Generator(
    resolution=(side, side),
    channels=cfg.channels,
    latent_dim=cfg.latent_dim,
    num_classes=cfg.num_classes,
    init=init,
    sample=sample,
    apply=net.apply,
    train_apply=train_apply,
  )

"""BigGAN's small generator without classes, which a game can train.

Brock et al. 2019, the CIFAR size of the authors' PyTorch code, with z in
chunks: the first makes the `base_px` map, each block is conditioned on the next
one through its batch norms, as in BigBiGAN (Donahue & Simonyan 2019). Spectral
normalization throughout (lib/spectral.py).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genrep_jax.lib import options, rng, spectral
from genrep_jax.lib.contracts import Generator

_EPSILON = 1e-5
_MOMENTUM = 0.9  # share of the old in the new statistics

OPTIONS = {
  "latent_dim": options.integer(
    80,
    "length of z: a multiple of 1 + the number of widths",
    low=1,
    high=65536,
    bound=True,
  ),
  "prior": options.choice(
    "gaussian", ("gaussian", "uniform"), "z in N(0, 1) or U(-1, 1)", bound=True
  ),
  "constant": options.integer(
    0,
    "length of a learned condition before each chunk (BigBiGAN: 128)",
    low=0,
    high=4096,
    bound=True,
  ),
  "base_px": options.integer(
    4,
    "side of the first map; that of the images is base_px * 2**len(widths)",
    low=1,
    high=256,
    unit="px",
    bound=True,
  ),
  "widths": options.several(
    (256, 256, 256),
    options.integer(low=1, high=16384),
    "channels of each block; the first map has the first block's",
    least=1,
    bound=True,
  ),
  "channels": options.one_of(3, (1, 3), "of the images", bound=True),
}


class _Statistics(nn.Module):
  """Normalizes over batch and positions; no gain and bias."""

  momentum: float

  @nn.compact
  def __call__(self, x, train):
    size = (x.shape[-1],)
    mean = self.variable("batch_stats", "mean", jnp.zeros, size)
    var = self.variable("batch_stats", "var", jnp.ones, size)
    if not train:
      return (x - mean.value) * jax.lax.rsqrt(var.value + _EPSILON)
    axes = (0, 1, 2)
    now = jnp.mean(x, axes)
    spread = jnp.mean((x - now) ** 2, axes)
    if not self.is_initializing():
      count = x.size // x.shape[-1]
      kept, new = self.momentum, 1 - self.momentum
      mean.value = kept * mean.value + new * now
      var.value = kept * var.value + new * spread * count / max(1, count - 1)
    return (x - now) * jax.lax.rsqrt(spread + _EPSILON)


class Block(nn.Module):
  """Doubles the side: two convolutions, each behind a conditional batch norm.

  Attributes:
    features: channels of the result.
    momentum: of the statistics.
  """

  features: int
  momentum: float = _MOMENTUM

  @nn.compact
  def __call__(self, x, condition, *, train: bool):
    """Maps x [n h w c] and condition [n d] to [n 2h 2w features]."""

    def norm(x, name):
      size = x.shape[-1]
      gain, bias = (
        spectral.Dense(size, use_bias=False, name=f"{name}_{of}")(
          condition, train=train
        )[:, None, None]
        for of in ("gain", "bias")
      )
      x = _Statistics(self.momentum, name=name)(x, train)
      return nn.relu(x * (1 + gain) + bias)

    skip = spectral.Conv(self.features, size=1, name="conv_sc")
    y = _doubled(norm(x, "bn1"))
    y = spectral.Conv(self.features, name="conv1")(y, train=train)
    y = norm(y, "bn2")
    y = spectral.Conv(self.features, name="conv2")(y, train=train)
    return y + skip(_doubled(x), train=train)


class BigGAN(nn.Module):
  """The network; see the module's docstring and `OPTIONS`."""

  widths: Sequence[int]
  base_px: int
  channels: int
  constant: int = 0
  momentum: float = _MOMENTUM

  @nn.compact
  def __call__(self, z, y, train=False):
    """Maps z [n latent_dim] to images [n h w c] in [-1, 1]."""
    del y
    first, *chunks = jnp.split(z, 1 + len(self.widths), axis=-1)
    if self.constant:
      shared = self.param(
        "constant", nn.initializers.normal(0.02), (self.constant,)
      )
      shared = jnp.broadcast_to(shared, (len(z), self.constant))
      chunks = [jnp.concatenate([shared, chunk], axis=-1) for chunk in chunks]
    width, side = self.widths[0], self.base_px
    x = spectral.Dense(width * side * side, name="linear")(first, train=train)
    x = x.reshape(-1, width, side, side).transpose(0, 2, 3, 1)
    for i, (features, chunk) in enumerate(
      zip(self.widths, chunks, strict=True)
    ):
      block = Block(features, self.momentum, name=f"block_{i}")
      x = block(x, chunk, train=train)
    x = _Statistics(self.momentum, name="out_bn")(x, train)
    gain = self.param("out_gain", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("out_bias", nn.initializers.zeros, (x.shape[-1],))
    x = nn.relu(x * gain + bias)
    return jnp.tanh(spectral.Conv(self.channels, name="to_rgb")(x, train=train))


def _doubled(x):
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the generator, which can be trained; it computes in float32.

  Args:
    cfg: a checked entry with the keys of `OPTIONS`.
    dtype: not used: spectral norms and statistics want float32.

  Returns:
    A Generator whose variables are {"params", "batch_stats"}; the vectors of
    the spectral norms are among the statistics.

  Raises:
    UsageError: z does not split into equal chunks.
  """
  del dtype
  widths = tuple(cfg.widths)
  if cfg.latent_dim % (1 + len(widths)):
    options.refuse(
      "generator.latent_dim",
      cfg.latent_dim,
      f"a multiple of {1 + len(widths)}: a chunk of z for the first map and "
      f"for each of {len(widths)} blocks",
    )
  net = BigGAN(widths, cfg.base_px, cfg.channels, cfg.constant)
  side = cfg.base_px * 2 ** len(widths)
  no_class = jnp.zeros((), jnp.int32)

  def init(key):
    return dict(net.init(key, jnp.zeros((1, cfg.latent_dim)), no_class))

  def sample(key):
    return rng.unconditional_latent(key, cfg.latent_dim, cfg.prior)

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
    num_classes=0,
    init=init,
    sample=sample,
    apply=net.apply,
    train_apply=train_apply,
  )

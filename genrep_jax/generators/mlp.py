"""Dense layers from a latent to all pixels: BiGAN's generator of MNIST.

Donahue et al. 2017 (arXiv:1605.09782), as their released code has it: no
biases, batch norm with a shift and no gain, ReLU; the latent enters every
hidden layer; a sigmoid says the pixels in [0, 1]. Weights start from N(0,
0.02). It is unconditional and can be trained.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from genrep_jax.lib import options, rng
from genrep_jax.lib.contracts import Generator

OPTIONS = {
  "latent_dim": options.integer(
    50, "length of z", low=1, high=65536, bound=True
  ),
  "prior": options.choice(
    "uniform", ("uniform", "gaussian"), "z in U(-1, 1) or N(0, 1)", bound=True
  ),
  "widths": options.several(
    (1024, 1024),
    options.integer(low=1, high=65536),
    "units of the hidden layers",
    least=1,
    bound=True,
  ),
  "side": options.integer(
    28, "of the images", low=1, high=1024, unit="px", bound=True
  ),
  "channels": options.one_of(1, (1, 3), "of the images", bound=True),
}


class _MLP(nn.Module):
  """See the module's docstring."""

  widths: Sequence[int]
  side: int
  channels: int
  dtype: jnp.dtype = jnp.float32
  momentum: float = 0.9  # of the stored statistics, in training mode

  @nn.compact
  def __call__(self, z, y, train=False):
    """Maps z [n latent_dim] to images [n side side c] in [-1, 1]."""
    del y

    def dense(units, name, x):
      return nn.Dense(
        units,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=nn.initializers.normal(0.02),
        name=name,
      )(x)

    x = z = z.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = dense(width, f"dense{i}", x)
      if i:
        x += dense(width, f"latent{i}", z)
      x = nn.BatchNorm(
        use_running_average=not train,
        momentum=self.momentum,
        use_scale=False,
        dtype=self.dtype,
        name=f"norm{i}",
      )(x)
      x = nn.relu(x)
    x = dense(self.side**2 * self.channels, "to_pixels", x)
    x = x.reshape(-1, self.side, self.side, self.channels)
    return jnp.tanh(x.astype(jnp.float32) / 2)  # 2 sigmoid(x) - 1


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the generator, which can be trained.

  Args:
    cfg: a checked entry with the keys of `OPTIONS`.
    dtype: compute type; variables and images are float32.

  Returns:
    A Generator whose variables are {"params", "batch_stats"}.
  """
  net = _MLP(tuple(cfg.widths), cfg.side, cfg.channels, dtype)
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
    resolution=(cfg.side, cfg.side),
    channels=cfg.channels,
    latent_dim=cfg.latent_dim,
    num_classes=0,
    init=init,
    sample=sample,
    apply=net.apply,
    train_apply=train_apply,
  )

"""DCGAN (Radford et al. 2016), unconditional and class-conditional.

The generator of the paper's figure 1 as the common PyTorch code builds it: a
4x4 transposed convolution of stride 1 on the latent, then one of stride 2 and
padding 1 per doubling, each but the last followed by batch norm and ReLU, the
last by tanh. A conditional one sees [z, one-hot class] (Mirza & Osindero 2014).

Variables hold what a frozen network computes: batch norms are folded into the
convolutions before them, so a layer is kernel and bias, and kernels lie as
they are used. XLA runs transposed convolutions slowly on a CPU, so one of
stride 2 is an ordinary 2x2 convolution with an output per phase: `up`.
"""

import math

import jax
import jax.numpy as jnp

from genrep_jax.generators import (
  _biggan,
  _dcgan_source,
  _stylegan2_ops as ops,
)
from genrep_jax.lib import options, rng
from genrep_jax.lib.contracts import Converter, Generator

OPTIONS = {
  "resolution": options.integer(
    64,
    "of the images: the first map's side times 2**len(widths)",
    low=2,
    high=2048,
    unit="px",
    bound=True,
  ),
  "channels": options.one_of(3, (1, 3), "of the images", bound=True),
  "latent_dim": options.integer(
    100, "length of z", low=1, high=65536, bound=True
  ),
  "num_classes": options.integer(
    0, "0: unconditional", low=0, high=65536, bound=True
  ),
  "widths": options.several(
    (512, 256, 128, 64),
    options.integer(low=1, high=16384),
    "channels of the first map, of one twice as large, ...",
    least=1,
    bound=True,
  ),
  "truncation": options.number(
    0.0, "z ~ N^t(0, 1, truncation); 0: uncut, as trained", low=0
  ),
}


def _shapes(cfg, side: int) -> dict:
  """Returns the nested dict of the variables' shapes."""
  sizes = (*cfg.widths, cfg.channels)
  inputs = cfg.latent_dim + cfg.num_classes
  layers = {
    "stem": {"kernel": (inputs, side**2 * sizes[0]), "bias": (sizes[0],)}
  }
  for i, (c, o) in enumerate(zip(sizes, sizes[1:])):
    layers[f"up_{i}"] = {"kernel": (2, 2, c, 4 * o), "bias": (o,)}
  return layers


def up(x: jax.Array, layer) -> jax.Array:
  """Doubles a map as torch's ConvTranspose2d(4, stride=2, padding=1).

  By definition y[2i + k - 1] += x[i] w[k], on both axes, all taps k. So odd
  rows 2i-1 see x[i-1], x[i] through taps 2, 0, and even rows 2i see the same
  two through taps 3, 1: one 2x2 convolution of the padded map gives all pairs
  (2i-1, 2i), the first and the last row of them too many.

  Args:
    x: [n h w c].
    layer: {"kernel" [2 2 c 4o] of `_dcgan_source.phases`, "bias" [o]}.

  Returns:
    [n 2h 2w o].
  """
  y = jax.lax.conv_general_dilated(
    x,
    layer["kernel"].astype(x.dtype),
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  y = ops.depth_to_space(y)[:, 1:-1, 1:-1]
  return y + layer["bias"].astype(x.dtype)


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a checked entry with the keys of `OPTIONS`.
    dtype: compute type; variables and images are float32.

  Returns:
    A Generator whose variables are {"stem", "up_0", "up_1", ...}, each
    {"kernel", "bias"}.

  Raises:
    UsageError: sizes that do not fit together.
  """
  widths = tuple(cfg.widths)
  doublings = 2 ** len(widths)
  if cfg.resolution % doublings:
    options.refuse(
      "generator.resolution",
      cfg.resolution,
      f"a multiple of {doublings}: {len(widths)} widths double the first map "
      "as often",
    )
  side = cfg.resolution // doublings

  def init(key):
    # He's gain: the maps of the untrained network keep their scale.
    drawn = _biggan.init(key, _shapes(cfg, side))
    return jax.tree.map(lambda x: math.sqrt(2) * x, drawn)

  def sample(key):
    return rng.latent_and_class(
      key, cfg.latent_dim, cfg.num_classes, truncation=cfg.truncation
    )

  def apply(variables, z, y):
    x = z.astype(dtype)
    if cfg.num_classes:
      one_hot = jax.nn.one_hot(y, cfg.num_classes, dtype=dtype)
      x = jnp.concatenate([x, one_hot], axis=-1)
    stem = variables["stem"]
    x = x @ stem["kernel"].astype(dtype)
    x = x.reshape(-1, side, side, widths[0]) + stem["bias"].astype(dtype)
    for i in range(len(widths)):
      x = up(jax.nn.relu(x), variables[f"up_{i}"])
    return jnp.tanh(x.astype(jnp.float32))

  return Generator(
    resolution=(cfg.resolution,) * 2,
    channels=cfg.channels,
    latent_dim=cfg.latent_dim,
    num_classes=cfg.num_classes,
    init=init,
    sample=sample,
    apply=apply,
  )


CONVERTER = Converter(
  _dcgan_source.convert,
  options={
    "num_classes": options.integer(
      -1,
      "inputs of the first layer, at their end, that are the one-hot class; "
      "-1: those beyond 100, unless the inputs are a power of two in number",
      low=-1,
      high=65536,
    )
  },
  parameters=_dcgan_source.parameter_count,
)

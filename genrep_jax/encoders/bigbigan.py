"""BigBiGAN's encoder: a ResNet-50 or a RevNet-50x4, and a head for latents.

Donahue & Simonyan 2019 train it with the generator of generators/bigbigan.py:
it maps a real image to a normal distribution of latents, and its pooled
features are what they evaluate. Images are 256 pixels in the release; others
work, by convolution. `convert` reads the variables of TensorFlow Hub's modules
deepmind/bigbigan-resnet50 and -revnet50x4.

THE RELEASED FILES WERE NEVER SEEN HERE, and no code of the encoder is public.

- Verified: inputs and outputs (256 px in [-1, 1]; mean and deviation of 120
  latents; 2048 pooled features of the ResNet-50, 4096 after BN+CReLU); the
  RevNet, as google/revisiting-self-supervised has it (revnet50 of its
  models/resnet.py, with filters_factor = 16).
- Recalled from the paper: the head is an MLP of four layers of width 4096, two
  residual blocks of two layers; BN+CReLU's batch norm has no gain and bias.
- Unknown, and chosen here: that the ResNet-50 has its strides on the 3x3
  convolutions ("v1.5") and a max-pool that pads with minus infinity, as
  encoders/resnet.py; the epsilon of its batch norms (see `convert`); that the
  RevNet pads its max-pool with zeros as the code above does; where the head has
  its ReLUs (after the first layer of a block and after its sum), and that its
  first block, whose widths differ, has a linear shortcut.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.encoders import _layers, resnet
from genrep_jax.encoders.contrib import bigbigan_tf
from genrep_jax.lib import contracts, options, plugins, rng

_HEAD_WIDTH = 4096
_HEAD_BLOCKS = 2
_REVNET_CHANNELS = 1024  # after the first convolution: 64 * filters_factor
_RESNET_CHANNELS = 64

OPTIONS = {
  "trunk": options.choice(
    "resnet50", ("resnet50", "revnet50x4"), "without its classifier", bound=True
  ),
  "width": options.number(
    1.0,
    "multiplies every channel count, and the head's width",
    low=1 / 128,
    high=16,
    bound=True,
  ),
  "blocks": options.several(
    (3, 4, 6, 3),
    options.integer(low=1, high=64),
    "of each stage",
    lengths=(4,),
    bound=True,
  ),
  "features": options.choice(
    "avepool",
    ("avepool", "bn_crelu"),
    "avepool: h, the mean over positions; bn_crelu: ReLU(BN(h)), ReLU(-BN(h))",
  ),
  "latent_dim": options.integer(
    120, "of the head's latents", low=1, high=65536, bound=True
  ),
}


def make(cfg, *, dtype=jnp.float32) -> contracts.Encoder:
  """Makes the encoder.

  Args:
    cfg: see `OPTIONS`.
    dtype: compute dtype, float32 or bfloat16. Parameters, batch statistics and
      features are float32 in either case.

  Returns:
    The encoder; f is 2048 * width for resnet50 and 8192 * width for revnet50x4,
    twice that for bn_crelu; the local map is the trunk's last. The parameters
    hold the head, too, of which features do not depend; see `make_encode`.

  Raises:
    UsageError: a width that the trunk cannot have.
  """
  trunk = _trunk(cfg, dtype)
  both = cfg.features == "bn_crelu"

  def init(key, image_shape):
    return _init(trunk, cfg, key, image_shape)

  def apply(variables, images, *, train, local=False):
    last, batch_stats = _run(trunk, variables, images, train)
    pooled = last.mean(axis=(1, 2))
    normal, stats = _feature_norm(
      pooled, batch_stats["feature_norm"], train=train
    )
    if train:
      batch_stats = {**batch_stats, "feature_norm": stats}
    if both:
      pooled = jax.nn.relu(jnp.concatenate([normal, -normal], axis=-1))
    return contracts.Features(pooled, last if local else None), batch_stats

  return contracts.Encoder(init=init, apply=apply)


def make_encode(cfg, *, dtype=jnp.float32):
  """Makes the map to latents.

  Args:
    cfg: see `OPTIONS`.
    dtype: compute dtype of the trunk; the head is float32.

  Returns:
    encode(variables, images float [n h w c] in [-1, 1]) -> (z_mean, z_stdev),
    float32 [n latent_dim]: a pure function, with stored batch statistics. A
    latent is z_mean + z_stdev * a standard normal.

  Raises:
    UsageError: a width that the trunk cannot have.
  """
  trunk = _trunk(cfg, dtype)

  def encode(variables, images):
    last, _ = _run(trunk, variables, images, train=False)
    return latents(variables["params"]["head"], last.mean(axis=(1, 2)))

  return encode


def latents(head, h: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Runs the head: pooled features [n f] -> (z_mean, z_stdev) [n latent_dim].

  Args:
    head: its parameters, `variables["params"]["head"]`.
    h: float32 [n f].
  """

  def linear(x, layer):
    return x @ layer["kernel"] + layer.get("bias", 0)

  for i in range(_HEAD_BLOCKS):
    block = head[f"block{i}"]
    inner = jax.nn.relu(linear(h, block["linear0"]))
    shortcut = linear(h, block["shortcut"]) if "shortcut" in block else h
    h = jax.nn.relu(shortcut + linear(inner, block["linear1"]))
  mean, raw = jnp.split(linear(h, head["linear_out"]), 2, axis=-1)
  return mean, jax.nn.softplus(raw)


def _convert(
  arrays: Mapping[str, np.ndarray], *, trunk, table, features, epsilon
) -> tuple[dict, dict]:
  """Converts the variables of TensorFlow Hub's module.

  How the released files call the encoder's variables is not known: the default
  table only guesses. contrib/bigbigan_variables.py says how to make one's own.
  Variables outside the table's prefix are ignored.
  """
  names = bigbigan_tf.read_table(table)
  stem, channels = "params/trunk/stem/kernel", _REVNET_CHANNELS
  if trunk == "resnet50":
    stem, channels = "params/trunk/stem/conv/kernel", _RESNET_CHANNELS
  found = bigbigan_tf.size(arrays, names, stem, -1, channels)
  leaf = "params/head/linear_out/bias"
  outputs = bigbigan_tf.size(
    arrays, names, leaf, -1, 2 * OPTIONS["latent_dim"].default
  )
  made = {
    "trunk": trunk,
    "width": found / channels,
    "blocks": OPTIONS["blocks"].default,
    "features": features,
    "latent_dim": outputs // 2,
  }
  what = f"BigBiGAN's {trunk}, width {made['width']:g}"
  template = _template(trunk, made["width"], made["latent_dim"])
  variables = bigbigan_tf.fill(arrays, names, template, what)
  variables["batch_stats"] = bigbigan_tf.shift_epsilon(
    variables["batch_stats"], epsilon - _layers.EPSILON
  )
  return variables, made


CONVERTER = contracts.Converter(
  _convert,
  options={
    "trunk": OPTIONS["trunk"],
    "table": options.text("", "a file of names; empty: guesses"),
    "features": OPTIONS["features"],
    "epsilon": options.number(
      1e-5,
      "of the source's batch norms; the stored variances make up for ours",
      above=0,
      high=1,
    ),
  },
)


@functools.cache
def _template(trunk: str, width: float, latent_dim: int) -> contracts.Tree:
  """Returns the shapes of the variables; tracing them takes a second."""
  sizes = {"trunk": trunk, "width": width, "latent_dim": latent_dim}
  encoder = plugins.make("encoders", {"name": "bigbigan", **sizes})
  return jax.eval_shape(lambda: encoder.init(jax.random.key(0), (256, 256, 3)))


def _trunk(cfg, dtype):
  """Builds the trunk: images -> {stage: [n m m f]}."""
  blocks = tuple(cfg.blocks)
  if cfg.trunk == "resnet50":
    channels = round(_RESNET_CHANNELS * cfg.width)
    if channels < 1:
      options.refuse("encoder.width", cfg.width, "1/64 or more, for resnet50")
    return resnet.ResNet(
      "batch", 1, dtype, True, blocks, channels, stem="imagenet"
    )
  channels = round(_REVNET_CHANNELS * cfg.width)
  if channels % 8:
    options.refuse("encoder.width", cfg.width, "k/128, for a RevNet")
  return _RevNet("batch", 1, dtype, blocks, channels)


def _run(trunk, variables, images, train):
  """Returns (the trunk's last map in float32 [n m m f], batch_stats)."""
  batch_stats = variables["batch_stats"]
  inner = {
    "params": variables["params"]["trunk"],
    "batch_stats": batch_stats["trunk"],
  }
  maps, stats = _layers.run(trunk, inner, images, train)
  last = maps[f"layer{len(trunk.blocks)}"]
  return last.astype(jnp.float32), {**batch_stats, "trunk": stats}


class _FeatureNorm(_layers.Layers):
  """Batch norm of pooled features, without gain and bias."""

  @nn.compact
  def __call__(self, h, train):
    return self.batch_norm(h, train, "norm", use_scale=False, use_bias=False)


def _feature_norm(h, stats, *, train):
  """Returns (h normalized [n f], its statistics, updated in training)."""
  module = _FeatureNorm("batch", 1, jnp.float32)
  normal, updated = module.apply(
    {"batch_stats": {"norm": stats}}, h, train, mutable=["batch_stats"]
  )
  return normal, updated["batch_stats"]["norm"]


def _init(trunk, cfg, key, image_shape) -> contracts.Tree:
  """Draws the weights: Kaiming normal; norms as the identity."""
  trunk_key, head_key = jax.random.split(key)
  inner = resnet.init(trunk, trunk_key, image_shape)
  f = (32 if cfg.trunk == "resnet50" else 8) * trunk.channels

  def build(normal):
    def linear(inputs, outputs, gain=2.0, bias=True):
      kernel = normal((inputs, outputs)) * (gain / inputs) ** 0.5
      return {"kernel": kernel} | ({"bias": jnp.zeros(outputs)} if bias else {})

    width = max(1, round(_HEAD_WIDTH * cfg.width))
    head, inputs = {}, f
    for i in range(_HEAD_BLOCKS):
      block = {
        "linear0": linear(inputs, width),
        "linear1": linear(width, width),
      }
      if inputs != width:
        block["shortcut"] = linear(inputs, width, gain=1.0, bias=False)
      head[f"block{i}"] = block
      inputs = width
    head["linear_out"] = linear(width, 2 * cfg.latent_dim, gain=1.0)
    return head

  return {
    "params": {
      "trunk": inner["params"],
      "head": rng.one_draw(head_key, build),
    },
    "batch_stats": {
      "trunk": inner["batch_stats"],
      "feature_norm": {"mean": jnp.zeros(f), "var": jnp.ones(f)},
    },
  }


class _RevNet(_layers.Layers):
  """RevNet-50 (Gomez et al. 2017; Kolesnikov et al. 2019).

  Activations are kept for the gradient like any network's: that they could be
  computed back from the output is not made use of.
  """

  blocks: tuple[int, ...]
  channels: int

  @nn.compact
  def __call__(self, x, *, train):
    """Maps images [n h w c] to {"stem" and "layer1" ... "layer4": [n m m c]}.

    "stem" is given before the max-pool, "layer4" after the last batch norm.
    """
    shared = (self.norm_kind, self.group_size, self.dtype)
    x = self.conv(x.astype(self.dtype), self.channels, 7, 2, "stem")
    outputs = {"stem": x}
    # No ReLU came before, so that the zeros around the map can be maxima.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nn.max_pool(x, (3, 3), strides=(2, 2))
    for stage, units in enumerate(self.blocks):
      if stage:
        x = _halve_and_double(x)
      for unit in range(units):
        residual = _Residual(*shared, name=f"layer{stage + 1}_block{unit}")
        x = _reversible(x, lambda half, f=residual: f(half, train))
      outputs[f"layer{stage + 1}"] = x
    last = f"layer{len(self.blocks)}"
    outputs[last] = self.norm(x, train, "norm")
    return outputs


class _Residual(_layers.Layers):
  """A bottleneck that begins with its norm ("v2"), without a shortcut."""

  @nn.compact
  def __call__(self, x, train):
    """Maps [n h w c] to as much, through c/4 channels."""
    c = x.shape[-1]
    for i, (size, channels) in enumerate(((1, c // 4), (3, c // 4), (1, c))):
      x = nn.relu(self.norm(x, train, f"norm{i + 1}"))
      x = self.conv(x, channels, size, 1, f"conv{i + 1}")
    return x


def _reversible(x, residual):
  """Adds a function of one half to the other, and swaps them: [n h w c]."""
  one, two = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([two, one + residual(two)], axis=-1)


def _halve_and_double(x):
  """Means over 2x2 positions, and as many zero channels: half on each side."""
  c = x.shape[-1] // 2
  x = nn.avg_pool(
    x, (2, 2), strides=(2, 2), padding="SAME", count_include_pad=False
  )
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (c, c)))

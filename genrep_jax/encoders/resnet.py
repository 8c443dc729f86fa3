"""ResNet-18/34/50/101, as GenRep trains it (He et al. 2016, "v1.5").

Follows GenRep's networks/resnet_big.py, so that weights travel both ways: the
stride of a bottleneck sits on its 3x3 convolution; convolutions start from
Kaiming normal fan_out; the last scale of a block starts at one, not at zero;
padding is PyTorch's, symmetric (XLA's "SAME" may pad a stride-2 window on the
right only, another network). `CONVERTER` and `EXPORTERS` translate the weights.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from genrep_jax.encoders import _layers, _resnet_names, _torch
from genrep_jax.lib import contracts, options, plugins, rng

# depth: (bottleneck?, blocks per layer)
_DEPTHS = {
  18: (False, (2, 2, 2, 2)),
  34: (False, (3, 4, 6, 3)),
  50: (True, (3, 4, 6, 3)),
  101: (True, (3, 4, 23, 3)),
}


OPTIONS = {
  "depth": options.one_of(
    50, tuple(_DEPTHS), "of the layout; from 50 on, bottlenecks", bound=True
  ),
  "blocks": options.several(
    (),
    options.integer(low=1, high=64),
    "of each layer, first to last; (): as the depth says",
    lengths=range(5),
    bound=True,
  ),
  "width": options.number(
    1.0, "multiplies every channel count", low=1 / 64, high=16, bound=True
  ),
  "stem": options.choice(
    "imagenet",
    ("imagenet", "small"),
    "imagenet: 7x7/2 and a 3x3/2 max-pool; small: 3x3/1, no pool",
    bound=True,
  ),
  "norm": options.choice(
    "batch",
    ("batch", "group"),
    "batch: over the global batch; group: within an image",
    bound=True,
  ),
  "group_size": options.integer(
    16,
    "per group of norm=group",
    low=1,
    high=32768,
    unit="channels",
    bound=True,
  ),
}


def make(cfg, *, dtype=jnp.float32) -> contracts.Encoder:
  """Makes a ResNet.

  Args:
    cfg: see `OPTIONS`.
    dtype: compute dtype, float32 or bfloat16. Parameters, batch statistics and
      features are float32 in either case.

  Returns:
    The encoder; features are the mean over positions of the last layer
    (f = 512 * width, or 2048 * width from depth 50 on), and the local map is
    that layer itself.

  Raises:
    UsageError: groups that do not make up the first layer.
  """
  bottleneck, blocks, channels = layout(cfg)
  _layers.check_group_size(cfg, channels)
  module = ResNet(
    cfg.norm, cfg.group_size, dtype, bottleneck, blocks, channels, cfg.stem
  )

  def of(stages):
    last = stages[f"layer{len(blocks)}"].astype(jnp.float32)
    return last.mean(axis=(1, 2)), last

  return _layers.encoder(module, init, of)


def layout(cfg) -> tuple[bool, tuple[int, ...], int]:
  """Returns (bottlenecks?, blocks per layer, channels of the first layer)."""
  bottleneck, blocks = _DEPTHS[cfg["depth"]]
  return bottleneck, tuple(cfg["blocks"]) or blocks, round(64 * cfg["width"])


def init(module: "ResNet", key, image_shape) -> contracts.Tree:
  """Draws the weights: Kaiming normal fan_out, norms as the identity.

  One draw serves all convolutions. Flax's own way, one random stream for each,
  has the same distribution, but XLA needs 10 to 14 seconds to compile so many.
  """
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  shapes = jax.eval_shape(
    lambda images: module.init(jax.random.key(0), images, train=False), images
  )
  shapes = {"batch_stats": {}, **shapes}

  def build(normal):
    def value(path, leaf):
      if leaf.ndim == 4:
        height, width, _, out = leaf.shape
        return normal(leaf.shape) * (2.0 / (height * width * out)) ** 0.5
      one = path[-1].key in ("scale", "var")
      return jnp.full(leaf.shape, float(one), leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)

  return rng.one_draw(key, build)


class _Block(_layers.Layers):
  """A residual block: 3x3, 3x3 or, as a bottleneck, 1x1, 3x3, 1x1."""

  bottleneck: bool
  channels: int
  stride: int

  @nn.compact
  def __call__(self, x, train):
    """Maps x [n h w c] to [n h/stride w/stride channels or 4*channels]."""
    sizes = (1, 3, 1) if self.bottleneck else (3, 3)
    strided = 1 if self.bottleneck else 0  # which convolution has the stride
    out = self.channels * (4 if self.bottleneck else 1)
    y = x
    for i, size in enumerate(sizes):
      last = i == len(sizes) - 1
      stride = self.stride if i == strided else 1
      channels = out if last else self.channels
      y = self.conv(y, channels, size, stride, f"conv{i + 1}")
      y = self.norm(y, train, f"norm{i + 1}")
      if not last:
        y = nn.relu(y)
    if self.stride != 1 or x.shape[-1] != out:
      x = self.conv(x, out, 1, self.stride, "shortcut_conv")
      x = self.norm(x, train, "shortcut_norm")
    return nn.relu(x + y)


class ResNet(_layers.Layers):
  """The whole network; returns the outputs of all its stages."""

  bottleneck: bool
  blocks: tuple[int, ...]
  channels: int
  stem: str

  @nn.compact
  def __call__(self, x, *, train):
    """Maps images [n h w c] to {"stem" and "layer1" ... "layer4": [n m m c]}.

    "stem" is given before the max-pool.
    """
    x = x.astype(self.dtype)
    shared = {
      "norm_kind": self.norm_kind,
      "group_size": self.group_size,
      "dtype": self.dtype,
    }
    x = _Stem(**shared, channels=self.channels, kind=self.stem, name="stem")(
      x, train
    )
    outputs = {"stem": x}
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for layer, count in enumerate(self.blocks):
      for block in range(count):
        x = _Block(
          **shared,
          bottleneck=self.bottleneck,
          channels=self.channels * 2**layer,
          stride=2 if layer > 0 and block == 0 else 1,
          name=f"layer{layer + 1}_block{block}",
        )(x, train)
      outputs[f"layer{layer + 1}"] = x
    return outputs


class _Stem(_layers.Layers):
  """First convolution: 7x7 with stride 2, or 3x3 for small images."""

  channels: int
  kind: str

  @nn.compact
  def __call__(self, x, train):
    """Maps images [n h w c] to [n h w channels], or half that size."""
    size, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
    x = self.conv(x, self.channels, size, stride, "conv")
    return nn.relu(self.norm(x, train, "norm"))


# --- weights under their PyTorch names ----------------------------------------


def _convert(arrays):
  """Reads an encoder of GenRep, torchvision or timm; heads are left out."""
  reader = _resnet_names.Reader(arrays)
  standard = reader.bottleneck, reader.blocks
  depths = [depth for depth, one in _DEPTHS.items() if one == standard]
  made = {
    "depth": depths[0] if depths else 50 if reader.bottleneck else 18,
    "blocks": () if depths else reader.blocks,
    "width": reader.channels / 64,
    "stem": "small" if reader.kernel == 3 else "imagenet",
    "norm": "batch",
  }
  encoder = plugins.make("encoders", {"name": "resnet", **made})
  shape = (32, 32, reader.image_channels)
  template = jax.eval_shape(lambda: encoder.init(jax.random.key(0), shape))
  return reader.fill(template), made


CONVERTER = contracts.Converter(_convert)


def _arrays(cfg, variables):
  del cfg
  return _torch.state_dict(variables, _resnet_names.torchvision)


def _torch_source(cfg, channels) -> str:
  bottleneck, blocks, width = layout(cfg)
  return _torch.source(
    _torch.RESNET,
    in_channels=channels,
    channels=width,
    bottleneck=bottleneck,
    blocks=blocks,
    stem=cfg["stem"],
    norm=cfg["norm"],
    group_size=cfg["group_size"],
  )


def _library_source(cfg, channels, *, package, network) -> str:
  """How a package that has the network builds it; refuses what it has not."""
  for key, only in (("norm", "batch"), ("width", 1.0)):
    if cfg[key] != only:
      options.refuse(f"encoder.{key}", cfg[key], f"{only} in {package}")
  blocks = _DEPTHS[cfg["depth"]][1]
  if layout(cfg)[1] != blocks:
    options.refuse("encoder.blocks", cfg["blocks"], f"{blocks} in {package}")
  lines = [f"import {package}", "", "", "def Encoder():"]
  lines += ['  """The package\'s own ResNet, without its classifier."""']
  lines += [f"  net = {network.format(cfg['depth'])}"]
  if package == "torchvision":
    lines += ["  net.fc = nn.Identity()"]
  small = cfg["stem"] == "small"
  if small or channels != 3:
    size = "3, 1, 1" if small else "7, 2, 3"
    lines += [f"  net.conv1 = nn.Conv2d({channels}, 64, {size}, bias=False)"]
  if small:
    lines += ["  net.maxpool = nn.Identity()"]
  return "\n".join([*lines, "  return net", ""])


def _library(package: str, network: str) -> contracts.Exporter:
  source = functools.partial(_library_source, package=package, network=network)
  return contracts.Exporter(_arrays, source, package)


EXPORTERS = {
  "torchvision": _library("torchvision", "torchvision.models.resnet{}()"),
  "timm": _library("timm", 'timm.create_model("resnet{}", num_classes=0)'),
  "torch_module": contracts.Exporter(_arrays, _torch_source),
}

"""ResNet-18/34/50/101, as GenRep trains it (He et al. 2016, "v1.5").

Follows GenRep's networks/resnet_big.py, so that weights travel both ways: the
stride of a bottleneck sits on its 3x3 convolution; convolutions start from
Kaiming normal fan_out; the last scale of a block starts at one, not at zero;
padding is PyTorch's, symmetric (XLA's "SAME" may pad a stride-2 window on the
right only, another network). `from_torch` and `to_torch` translate the weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.encoders import _layers
from genrep_jax.lib import contracts, errors, rng

# depth: (bottleneck?, blocks per layer)
_DEPTHS = {
  18: (False, (2, 2, 2, 2)),
  34: (False, (3, 4, 6, 3)),
  50: (True, (3, 4, 6, 3)),
  101: (True, (3, 4, 23, 3)),
}


def default_config() -> dict[str, Any]:
  """Returns the options of `make` with their defaults."""
  return {
    "name": "resnet",
    "depth": 50,  # 18 | 34 | 50 | 101
    "width": 1.0,  # multiplies every channel count
    "stem": "imagenet",  # 7x7/2 and 3x3/2 max-pool | small: 3x3/1, no pool
    "norm": "batch",  # batch: over the global batch | group: within an image
    "group_size": 16,  # channels per group of norm = "group"
  }


def make(cfg, *, dtype=jnp.float32) -> contracts.Encoder:
  """Makes a ResNet.

  Args:
    cfg: see `default_config`.
    dtype: compute dtype, float32 or bfloat16. Parameters, batch statistics and
      features are float32 in either case.

  Returns:
    The encoder; features are the mean over positions of the last layer
    (f = 512 * width, or 2048 * width from depth 50 on), and the local map is
    that layer itself.

  Raises:
    UsageError: an option is out of range.
  """
  module = _build(cfg, dtype)

  def init(key, image_shape):
    return _init(module, key, image_shape)

  def apply(variables, images, *, train, local=False):
    if train:
      layers, updated = module.apply(
        variables, images, train=True, mutable=["batch_stats"]
      )
      batch_stats = updated.get("batch_stats", {})
    else:
      layers = module.apply(variables, images, train=False)
      batch_stats = variables["batch_stats"]
    last = layers[f"layer{len(module.blocks)}"].astype(jnp.float32)
    features = contracts.Features(
      last.mean(axis=(1, 2)), last if local else None
    )
    return features, batch_stats

  return contracts.Encoder(init=init, apply=apply)


def _build(cfg, dtype) -> "_ResNet":
  """Checks the options and builds the module."""
  if cfg.depth not in _DEPTHS:
    raise errors.UsageError(
      f"encoder.depth must be one of {', '.join(map(str, _DEPTHS))}, "
      f"got {cfg.depth!r}"
    )
  if cfg.stem not in ("imagenet", "small"):
    raise errors.UsageError(
      f"encoder.stem must be imagenet or small, got {cfg.stem!r}"
    )
  if cfg.norm not in ("batch", "group"):
    raise errors.UsageError(
      f"encoder.norm must be batch or group, got {cfg.norm!r}"
    )
  channels = round(64 * cfg.width)
  if channels < 1:
    raise errors.UsageError(
      f"encoder.width must leave a channel of the first layer's 64, "
      f"got {cfg.width}"
    )
  if cfg.norm == "group":
    _layers.check_group_size(cfg.group_size, channels)
  bottleneck, blocks = _DEPTHS[cfg.depth]
  return _ResNet(
    cfg.norm, cfg.group_size, dtype, bottleneck, blocks, channels, cfg.stem
  )


def _init(module: "_ResNet", key, image_shape) -> contracts.Tree:
  """Draws the weights: Kaiming normal fan_out, norms as the identity.

  One draw serves all convolutions. Flax's own way, one random stream for each,
  is the same law, but XLA needs 10 to 14 seconds to compile so many of them.
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


class _ResNet(_layers.Layers):
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

_NORM_LEAVES = {
  ("params", "scale"): "weight",
  ("params", "bias"): "bias",
  ("batch_stats", "mean"): "running_mean",
  ("batch_stats", "var"): "running_var",
}


def _torch_module(path: tuple[str, ...], layout: str) -> str:
  """Translates the path of one convolution or norm ("layer1.0.conv1")."""
  block, part = path
  if block == "stem":
    if layout == "torchvision":
      return {"conv": "conv1", "norm": "bn1"}[part]
    return {"conv": "encoder.stem.0", "norm": "encoder.stem.1"}[part]
  layer, _, index = block.partition("_block")
  if part.startswith("shortcut"):
    name = "downsample" if layout == "torchvision" else "shortcut"
    part = f"{name}.{0 if part.endswith('conv') else 1}"
  else:
    part = part.replace("norm", "bn")
  prefix = "" if layout == "torchvision" else "encoder."
  return f"{prefix}{layer}.{index}.{part}"


def _torch_leaves(tree, layout) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Yields (PyTorch key, path) of every leaf of `tree`."""
  for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
    collection, *module, leaf = (entry.key for entry in path)
    weight = "weight" if leaf == "kernel" else _NORM_LEAVES[collection, leaf]
    key = f"{_torch_module(tuple(module), layout)}.{weight}"
    yield key, (collection, *module, leaf)


def to_torch(
  variables: contracts.Tree, *, layout: str = "genrep"
) -> dict[str, np.ndarray]:
  """Gives the weights of a batch-norm ResNet their PyTorch names and shapes.

  Args:
    variables: of an encoder of this module with `norm = "batch"`.
    layout: "genrep" (keys `encoder.stem.0.weight`, ...) or "torchvision"
      (`conv1.weight`, ...; without `fc`).

  Returns:
    {key: array}: convolutions [out in h w]; every batch norm has the
    `num_batches_tracked` (0) that PyTorch's strict loading asks for.

  Raises:
    UsageError: unknown layout, or a ResNet without batch norm.
  """
  _check_layout(layout)
  if not variables["batch_stats"]:
    raise errors.UsageError(
      "to_torch: only a ResNet with norm = batch has PyTorch names"
    )
  state = {}
  for key, path in _torch_leaves(variables, layout):
    value = variables
    for name in path:
      value = value[name]
    value = np.asarray(value)
    state[key] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    if path[-1] == "var":
      tracked = key.replace("running_var", "num_batches_tracked")
      state[tracked] = np.zeros((), np.int64)
  return state


def from_torch(
  state: Mapping[str, np.ndarray],
  template: contracts.Tree,
  *,
  layout: str = "genrep",
) -> contracts.Tree:
  """Reads PyTorch weights; every key must be used and every leaf be filled.

  Args:
    state: {key: array} of the encoder; `num_batches_tracked` is ignored.
    template: variables, or their ShapeDtypeStructs, of the encoder to fill.
    layout: as in `to_torch`.

  Returns:
    float32 variables with the structure of `template`.

  Raises:
    UsageError: unknown layout; a missing, superfluous or misshapen tensor.
  """
  _check_layout(layout)
  state = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
  leaves, structure = jax.tree_util.tree_flatten(template)
  keys = [key for key, _ in _torch_leaves(template, layout)]
  different = sorted(set(keys) ^ set(state))
  if different:
    missing = [key for key in different if key not in state]
    what = "is missing" if missing else "has no place in this ResNet"
    raise errors.UsageError(
      f"from_torch: {(missing or different)[0]!r} {what} "
      f"({len(different)} keys differ)"
    )
  values = []
  for key, leaf in zip(keys, leaves, strict=True):
    value = np.asarray(state[key], np.float32)
    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    if value.shape != leaf.shape:
      raise errors.UsageError(
        f"from_torch: {key!r} has shape {np.shape(state[key])}, which fills "
        f"{value.shape}, not {leaf.shape}"
      )
    values.append(value)
  return jax.tree_util.tree_unflatten(structure, values)


def _check_layout(layout: str):
  """Raises UsageError for a layout that does not exist."""
  if layout not in ("genrep", "torchvision"):
    raise errors.UsageError(
      f"layout must be genrep or torchvision, got {layout!r}"
    )

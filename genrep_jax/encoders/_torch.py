"""Encoders in PyTorch: weights as its modules hold them, and the modules.

The sources are texts that tools/export_encoder.py completes: torch and nn are
imported, and `Encoder()` maps normalized images [n c h w] to features [n f].
"""

import pprint
from collections.abc import Callable

import jax
import numpy as np

from genrep_jax.encoders import _layers

LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def state_dict(variables, name: Callable[[tuple[str, ...]], str]) -> dict:
  """Gives variables their PyTorch names and layout.

  Args:
    variables: of convolutions and norms: {"params": ..., "batch_stats": ...}.
    name: path of one of them, e.g. ("layer1_block0", "conv1") -> its name.

  Returns:
    {key: contiguous array}: convolutions [out in h w]; every batch norm has the
    `num_batches_tracked` (0) that PyTorch's strict loading asks for.
  """
  state = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    _, *module, last = (entry.key for entry in path)
    key, value = name(tuple(module)), np.asarray(leaf)
    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    state[f"{key}.{LEAVES[last]}"] = np.ascontiguousarray(value)
    if last == "var":
      state[f"{key}.num_batches_tracked"] = np.zeros((), np.int64)
  return state


def source(text: str, **options) -> str:
  """Completes a module's source by the options it is built with."""
  given = pprint.pformat(options, indent=1, width=78, sort_dicts=False)
  return f"OPTIONS = {given}\n\n\n{_NORM}{text}"


_NORM = f'''def norm(channels):
  """The norm after a convolution."""
  if OPTIONS["norm"] == "none":
    return nn.Identity()
  if OPTIONS["norm"] == "group":
    groups = channels // OPTIONS["group_size"]
    return nn.GroupNorm(groups, channels, eps={_layers.EPSILON})
  return nn.BatchNorm2d(channels, eps={_layers.EPSILON})


'''

SMALL = f'''class Encoder(nn.Module):
  """Three convolutions of stride 2, and the maxima of four quadrants."""

  def __init__(self):
    super().__init__()
    inputs, bias = OPTIONS["in_channels"], OPTIONS["norm"] == "none"
    for i, channels in enumerate(OPTIONS["channels"], 1):
      conv = nn.Conv2d(inputs, channels, 3, 2, 1, bias=bias)
      self.add_module(f"conv{{i}}", conv)
      self.add_module(f"norm{{i}}", norm(channels))
      inputs = channels
    self.feature_norm = {{
      "batch": nn.BatchNorm1d(4 * inputs, eps={_layers.EPSILON}, affine=False),
      "layer": nn.LayerNorm(4 * inputs, eps=1e-6),
      "none": nn.Identity(),
    }}[OPTIONS["feature_norm"]]

  def forward(self, x):
    for i in range(1, len(OPTIONS["channels"]) + 1):
      x = getattr(self, f"norm{{i}}")(getattr(self, f"conv{{i}}")(x)).relu()
    rows, columns = x.shape[2] // 2, x.shape[3] // 2  # odd sides overlap
    halves = [x[:, :, : x.shape[2] - rows], x[:, :, rows:]]
    pooled = [
      part.amax((2, 3))
      for half in halves
      for part in (half[..., : x.shape[3] - columns], half[..., columns:])
    ]
    return self.feature_norm(torch.cat(pooled, 1))
'''

RESNET = '''class Block(nn.Module):
  """A residual block under torchvision's names."""

  def __init__(self, inputs, channels, stride):
    super().__init__()
    wide = OPTIONS["bottleneck"]
    sizes = (1, 3, 1) if wide else (3, 3)
    outputs = channels * (4 if wide else 1)
    self.count = len(sizes)
    now = inputs
    for i, size in enumerate(sizes, 1):
      out = outputs if i == self.count else channels
      step = stride if i == (2 if wide else 1) else 1
      conv = nn.Conv2d(now, out, size, step, size // 2, bias=False)
      self.add_module(f"conv{i}", conv)
      self.add_module(f"bn{i}", norm(out))
      now = out
    self.downsample = nn.Sequential()
    if stride != 1 or inputs != outputs:
      conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
      self.downsample = nn.Sequential(conv, norm(outputs))

  def forward(self, x):
    y = x
    for i in range(1, self.count + 1):
      y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
      y = y.relu() if i < self.count else y
    return (y + self.downsample(x)).relu()


class Encoder(nn.Module):
  """A ResNet under torchvision's names, without `fc`."""

  def __init__(self):
    super().__init__()
    channels, small = OPTIONS["channels"], OPTIONS["stem"] == "small"
    size, stride = (3, 1) if small else (7, 2)
    self.conv1 = nn.Conv2d(
      OPTIONS["in_channels"], channels, size, stride, size // 2, bias=False
    )
    self.bn1 = norm(channels)
    self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
    inputs = channels
    for layer, count in enumerate(OPTIONS["blocks"], 1):
      blocks = []
      for block in range(count):
        stride = 2 if layer > 1 and block == 0 else 1
        blocks.append(Block(inputs, channels, stride))
        inputs = channels * (4 if OPTIONS["bottleneck"] else 1)
      self.add_module(f"layer{layer}", nn.Sequential(*blocks))
      channels *= 2

  def forward(self, x):
    x = self.maxpool(self.bn1(self.conv1(x)).relu())
    for layer in range(1, len(OPTIONS["blocks"]) + 1):
      x = getattr(self, f"layer{layer}")(x)
    return x.mean((2, 3))
'''

"""ResNets under the names of PyTorch's: GenRep's, torchvision's, timm's.

torchvision and timm call them the same. GenRep's names are theirs below
"encoder.", but for the stem and the shortcuts.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from genrep_jax.encoders import _torch
from genrep_jax.lib import foreign

_DROPPED = ("head.", "fc.")  # a projection head, a classifier


def torchvision(module: tuple[str, ...]) -> str:
  """Names one convolution or norm, e.g. "layer1.0.conv1"."""
  block, part = module
  if block == "stem":
    return {"conv": "conv1", "norm": "bn1"}[part]
  layer, _, index = block.partition("_block")
  if part.startswith("shortcut"):
    return f"{layer}.{index}.downsample.{0 if part.endswith('conv') else 1}"
  return f"{layer}.{index}.{part.replace('norm', 'bn')}"


def genrep(key: str) -> str:
  """Turns torchvision's name into that of GenRep's networks/resnet_big.py."""
  key = re.sub(r"^conv1\.", "stem.0.", key)
  key = re.sub(r"^bn1\.", "stem.1.", key)
  return "encoder." + key.replace(".downsample.", ".shortcut.")


class Reader:
  """A checkpoint of a batch-norm ResNet, its sizes read off its tensors.

  Attributes:
    kernel: side of the first convolution, 7 or 3.
    channels: after it.
    image_channels: before it.
    bottleneck: whether its blocks are bottlenecks.
    blocks: of each layer.
  """

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self.arrays = {
      key: x
      for key, x in arrays.items()
      if "num_batches_tracked" not in key and not key.startswith(_DROPPED)
    }
    own = any(key.startswith("encoder.") for key in self.arrays)
    self._name = genrep if own else lambda key: key
    stem = self.arrays.get(self._name("conv1.weight"))
    shape = np.shape(stem) if np.ndim(stem) == 4 else (64, 3, 7, 7)
    self.channels, self.image_channels, self.kernel, _ = shape
    self.bottleneck = self._name("layer1.0.conv3.weight") in self.arrays
    blocks = []
    while len(blocks) < 4 and (count := self._count(len(blocks) + 1)):
      blocks.append(count)
    self.blocks = tuple(blocks)

  def _count(self, layer: int) -> int:
    count = 0
    while self._name(f"layer{layer}.{count}.conv1.weight") in self.arrays:
      count += 1
    return count

  def fill(self, template):
    """Returns the template's structure with the checkpoint's arrays, float32.

    Args:
      template: variables of the encoder, or their ShapeDtypeStructs.

    Raises:
      UsageError: missing, left-over, mis-shaped tensors and such with a NaN.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    keys, expected = [], {}
    for path, leaf in leaves:
      _, *module, last = (entry.key for entry in path)
      key = f"{torchvision(tuple(module))}.{_torch.LEAVES[last]}"
      shape = leaf.shape
      shape = (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape
      keys.append(self._name(key))
      expected[keys[-1]] = shape
    foreign.check("a ResNet", self.arrays, expected)
    values = [np.array(self.arrays[key], np.float32) for key in keys]
    values = [x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for x in values]
    return jax.tree.unflatten(structure, values)

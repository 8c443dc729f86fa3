"""Recorded BigGAN weights, under ajbrock's keys, as trees of ours."""

import numpy as np


def put(tree, path, value):
  *parts, leaf = path
  for part in parts:
    tree = tree.setdefault(part, {})
  tree[leaf] = value


def layer(key):
  """blocks.2.0.bn1.gain -> (block_2, bn1_gain); conv1 -> (conv1,)."""
  parts = key.split(".")
  path = []
  if parts[0] == "blocks":
    path, parts = [f"block_{parts[1]}"], parts[3:]
  name = {"output_layer.2": "to_rgb", "output_layer.0": "out_bn"}
  joined = ".".join(parts)
  return [*path, name.get(joined, joined.replace(".", "_"))]


def kernel(weight):
  """[out in] -> [in out], OIHW -> HWIO."""
  return weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)


def read(arrays, dtype):
  """{key: array} -> {"params", "batch_stats"}; gradients as weights."""
  made = {"params": {}, "batch_stats": {}}
  for key, value in arrays.items():
    of, leaf = key.rsplit(".", 1)
    value = np.asarray(value, dtype)
    path = layer(of)
    if leaf == "u0":
      put(made["batch_stats"], [*path, "u0"], value[0])
    elif leaf.startswith("stored_"):
      put(made["batch_stats"], [*path, leaf.removeprefix("stored_")], value)
    elif leaf == "weight":
      put(made["params"], [*path, "kernel"], kernel(value))
    elif path == ["out_bn"]:
      put(made["params"], [f"out_{leaf}"], value)
    else:
      put(made["params"], [*path, leaf], value)
  return made


def part(recorded, prefix):
  """The arrays whose keys begin so, without it."""
  return {
    key.removeprefix(prefix): value
    for key, value in recorded.items()
    if key.startswith(prefix)
  }

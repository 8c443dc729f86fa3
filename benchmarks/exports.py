"""How far exported ResNets are from ours, at full size: docs/export.md's table.

`python -m benchmarks.exports resnet18 resnet50 --to torchvision timm` exports
encoders of random weights, whose norms have seen 40 batches of noise, and
prints what tools/export_encoder prints. It needs torch; torchvision and timm
are compared with where they are installed.
"""

import argparse
import pathlib
import tempfile

import jax
import numpy as np

from genrep_jax.lib import export, plugins
from genrep_jax.tools import export_encoder

_COLOR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def save(folder, depth: int, side: int = 64) -> None:
  """Writes a ResNet as a finished run leaves it."""
  entry, shape = {"name": "resnet", "depth": depth}, (side, side, 3)
  encoder = plugins.make("encoders", entry)
  variables = jax.jit(lambda: encoder.init(jax.random.key(0), shape))()
  images = np.random.default_rng(0).normal(size=(8, *shape))
  learn = jax.jit(lambda v, x: encoder.apply(v, x, train=True)[1])
  for _ in range(40):
    stats = learn(variables, images.astype(np.float32))
    variables = {**variables, "batch_stats": stats}
  metadata = export.encoder_metadata(
    encoder=entry,
    image={"height": side, "width": side, "channels": 3, **_COLOR},
    generator={},
    config={},
    seed=0,
    steps=0,
  )
  path = pathlib.Path(folder) / "encoder.safetensors"
  export.save(path, jax.device_get(variables), metadata, {})


def main():
  """Exports what the command line names."""
  arguments = argparse.ArgumentParser(description=__doc__)
  arguments.add_argument("names", nargs="+", help="resnet18, resnet34, ...")
  arguments.add_argument("--to", nargs="+", default=["torch_module"])
  flags = arguments.parse_args()
  for name in flags.names:
    with tempfile.TemporaryDirectory() as folder:
      save(folder, int(name.removeprefix("resnet")))
      for target in flags.to:
        print(f"{name} to {target}")
        words = ["--weights", folder, "--to", target]
        export_encoder.main([*words, "--out", f"{folder}/{target}"])


if __name__ == "__main__":
  main()

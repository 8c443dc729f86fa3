"""Small image files for tests."""

import io

import numpy as np
from PIL import Image


def png(seed, height=12, width=16, mode="RGB"):
  """A PNG whose pixels are a function of the seed."""
  random = np.random.default_rng(seed)
  pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(file, "PNG")
  return file.getvalue()


def write(root, names):
  """Writes an image for each name; a name ending in "/" is an empty folder."""
  for seed, name in enumerate(names):
    path = root / name
    (path if name.endswith("/") else path.parent).mkdir(
      parents=True, exist_ok=True
    )
    if not name.endswith("/"):
      path.write_bytes(png(seed))

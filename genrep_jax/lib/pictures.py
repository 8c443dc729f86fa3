"""Grids of images, as arrays and as PNG files."""

import numpy as np

from genrep_jax.lib import files, images as images_lib


def grid(images, *, gap_px: int = 2, scale: int = 1) -> np.ndarray:
  """Lays images out in rows and columns on a white ground.

  Args:
    images: [rows columns h w c], float in [-1, 1], c in {1, 3}.
    gap_px: white pixels between neighbors.
    scale: each pixel becomes scale x scale (small images on big screens).

  Returns:
    uint8 [height width 3].
  """
  images = np.asarray(images, np.float32)
  rows, columns, h, w, c = images.shape
  pixels = images_lib.to_uint8(images)
  pixels = (
    np.broadcast_to(pixels, (rows, columns, h, w, 3)) if c == 1 else pixels
  )
  pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
  h, w = h * scale, w * scale
  canvas = np.full(
    (rows * (h + gap_px) - gap_px, columns * (w + gap_px) - gap_px, 3),
    255,
    np.uint8,
  )
  for r in range(rows):
    for k in range(columns):
      top, left = r * (h + gap_px), k * (w + gap_px)
      canvas[top : top + h, left : left + w] = pixels[r, k]
  return canvas


def save_png(path, pixels) -> None:
  """Writes uint8 [h w 3] as a PNG, whole or not at all."""
  from PIL import Image

  with files.atomic(path) as partial:
    Image.fromarray(pixels).save(partial, format="PNG")

"""Images that are decoded when they are asked for (contracts.Split.images)."""

import hashlib
import json
from collections.abc import Callable

import numpy as np

from genrep_jax.lib import decoders, errors


class Images:
  """Encoded images that look like uint8 [N h w c].

  `images[rows]` decodes rows (an int, a slice, int [n] or bool [N]) by the
  processes of `decoders`, `numpy.asarray(images)` decodes all, and
  `images.at(rows)` none: it is a part of them, as lazy as they are.

  Attributes:
    shape: (N, h, w, c).
    dtype: uint8.
    ndim: 4.
    sizes: int [N 2], each image's own (height, width), as it is shown.
    digest: sha256 over the encoded images and how they are decoded; nothing is
      decoded for it.
  """

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __init__(
    self,
    source: Callable[[int], tuple],
    rows,
    sizes,
    digests,
    *,
    channels: int,
    image_px: int = 0,
    resize_px: int = 0,
  ):
    """Makes them.

    Args:
      source: row -> (source, name) of `decoding.decode`, for threads.
      rows: int [N], what `source` calls each image.
      sizes: int [N 2]; with image_px = 0, all equal.
      digests: uint8 [N k], of each image's bytes.
      channels: c.
      image_px: see `decoding.decode`; so is resize_px.
      resize_px: see `decoding.decode`.
    """
    self._source, self._rows = source, np.asarray(rows)
    self.sizes, self._digests = np.asarray(sizes), np.asarray(digests)
    self._how = {"image_px": image_px, "resize_px": resize_px}
    self._channels = channels
    side = (image_px, image_px) if image_px else tuple(self.sizes[0].tolist())
    self.shape = (len(self._rows), *side, channels)

  def __len__(self):
    return len(self._rows)

  def __getitem__(self, rows):
    if isinstance(rows, (int, np.integer)):
      return self[np.asarray([rows])][0]
    rows = np.arange(len(self))[rows]
    return self._filled(rows, self.shape[1:], lambda at: self._how)

  def __array__(self, dtype=None, copy=None):
    if copy is False:
      raise ValueError("images on disk become an array only by decoding them")
    images = self[:]
    return images if dtype is None else images.astype(dtype, copy=False)

  def crops(self, rows, boxes, side: int) -> np.ndarray:
    """Cuts boxes out of each image while it is decoded, once.

    Args:
      rows: int [n] or a slice.
      boxes: [n v 4], (top, left, height, width) in pixels, see `sizes`.
      side: of the results, in pixels.

    Returns:
      uint8 [n v side side c], resized (bilinear, antialiased).
    """
    rows = np.arange(len(self))[rows]
    boxes = np.asarray(boxes, np.float64)
    return self._filled(
      rows,
      (boxes.shape[1], side, side, self._channels),
      lambda at: {"image_px": side, "boxes": boxes[at].tolist()},
    )

  def at(self, rows) -> "Images":
    """Returns some of the images without decoding them."""
    rows = np.arange(len(self))[rows]
    how = {**self._how, "channels": self._channels}
    parts = (x[rows] for x in (self._rows, self.sizes, self._digests))
    return Images(self._source, *parts, **how)

  @property
  def digest(self) -> str:
    state = hashlib.sha256(json.dumps([self.shape, self._how]).encode())
    state.update(np.ascontiguousarray(self._digests).data)
    return state.hexdigest()

  def _filled(self, rows, shape, how):
    try:
      return decoders.decode(
        lambda at: self._source(self._rows[rows[at]]),
        len(rows),
        shape,
        self._channels,
        how,
      )
    except decoders.Changed as error:
      raise errors.UsageError(
        f"data: image {rows[error.at]} is {error.shape} and was {shape} when "
        "it was indexed; start anew"
      ) from error

"""Real images of any number, which the host feeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, mesh as mesh_lib, options, rng
from genrep_jax.sources import _draws

PREFETCH = options.integer(
  2, "batches that the host reads ahead", low=1, high=64
)


def whole(given: contracts.Given, prefetch: int) -> contracts.Feed:
  """Feeds the images of the training split, one of each anchor."""
  images = given.dataset.train.images
  rows_of = _rows(given, len(images))

  def read(number, positions):
    return {"images": images[rows_of(number)[positions]][:, None]}

  return feed(given, (1, *images.shape[1:]), read, prefetch)


def crops(given: contracts.Given, prefetch: int, side: int, boxes):
  """Feeds one crop for each view, cut out while its image is decoded.

  The boxes are those that T_x would draw on the devices.

  Args:
    given: with real images that can be cut.
    prefetch: batches that are read ahead.
    side: of the crops, in pixels.
    boxes: `PixelViews.boxes`.
  """
  images = given.dataset.train.images
  rows_of, box_of = _rows(given, len(images)), _boxes(given, boxes)

  def read(number, positions):
    rows = rows_of(number)[positions]
    drawn = box_of(number, positions, images.sizes[rows])
    return {"images": images.crops(rows, drawn.swapaxes(0, 1), side)}

  shape = (len(boxes), side, side, images.shape[-1])
  return feed(given, shape, read, prefetch)


def feed(given, shape, read, prefetch) -> contracts.Feed:
  """Makes the Feed of images uint8 [b *shape]."""
  one = jax.ShapeDtypeStruct((given.batch, *shape), np.uint8)
  return contracts.Feed({"images": one}, read, prefetch)


def _rows(given, size):
  """Returns a function: number of a batch -> its rows int32 [b], numpy."""

  @jax.jit
  def rows(number):
    return _draws.row_of(given, rng.indices(number, given.batch), size)

  return functools.partial(on_host, rows)


def _boxes(given, boxes):
  """Returns a function: (number, positions, sizes [p 2]) -> boxes [v p 4]."""

  @jax.jit
  def draw(number, sizes):
    key = rng.stream(given.seed, "pixel_view")
    index = rng.indices(number, given.batch)
    keys = jax.vmap(rng.view_key, (None, 0, None))
    return jnp.stack(
      [
        jax.vmap(box)(keys(key, index, jnp.uint32(view)), sizes)
        for view, box in enumerate(boxes)
      ]
    )

  def of(number, positions, sizes):
    # Always a whole batch, so that one program serves every process.
    whole = np.ones((given.batch, 2), np.float32)
    whole[positions] = sizes
    return on_host(draw, number, whole)[:, positions]

  return of


def on_host(function, number, *arguments):
  """Computes beside the program; returns numpy."""
  with jax.default_device(mesh_lib.host_device()):
    return np.asarray(jax.device_get(function(np.uint32(number), *arguments)))

"""Frozen features of real images, in padded, masked, sharded batches."""

import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax import data
from genrep_jax.lib import (
  contracts,
  errors,
  images as images_lib,
  mesh as mesh_lib,
  options,
)

# Options of every evaluation of features.
OPTIONS = {
  "data": options.Entry(
    "data", "", "real images to judge on; empty: the run's"
  ),
  "batch": options.integer(
    512,
    "at once; rounded up to a multiple of the devices",
    low=1,
    high=2**16,
    unit="images",
  ),
  "image_px": options.integer(
    0,
    "side to resize and center-crop to; 0: as they are",
    low=0,
    high=4096,
    only=("not 1, 2 or 3", lambda px: px not in (1, 2, 3)),
    unit="px",
  ),
  "train_limit": options.integer(
    0, "class-balanced part of the training set; 0: all", low=0, unit="images"
  ),
}


def load(cfg, model: contracts.Model) -> contracts.Dataset:
  """Loads the images to judge on.

  Args:
    cfg: an evaluation's entry, with `data`.
    model: has the channels.

  Raises:
    UsageError: no such data, or images of other channels than the model's.
  """
  path = "evaluations.data"
  dataset = data.load(cfg.data, path)
  given, wanted = dataset.test.images.shape[-1], model.channels
  if wanted is not None and given != wanted:
    options.refuse(
      path, f"{dataset.name}, c = {given}", f"images of {wanted} channel(s)"
    )
  return dataset


def train_size(cfg, dataset: contracts.Dataset) -> int:
  """Returns how many training images an entry with `OPTIONS` uses."""
  if 0 < cfg.train_limit < dataset.num_classes:
    options.refuse(
      "evaluations.train_limit",
      cfg.train_limit,
      f"0 or at least the {dataset.num_classes} classes of {dataset.name}",
    )
  size = len(dataset.train.labels)
  return min(size, cfg.train_limit or size)


def of_features(
  cfg, dataset, model: contracts.Model, mesh, measure, *, headline, about
) -> contracts.Evaluation:
  """Makes an evaluation of frozen features.

  Args:
    cfg: its entry, with `OPTIONS`.
    dataset: from `load`.
    model: has `encode`.
    mesh: the device mesh.
    measure: (train, test, num_classes) -> (metric, value) pairs, with the
      features float32 [N f] and labels int [N] of either split.
    headline: see contracts.Evaluation.
    about: the protocol; the data set is added.
  """

  def run(variables):
    return measure(*of_dataset(cfg, dataset, model.encode, variables, mesh))

  return contracts.Evaluation(
    run=run,
    headline=headline,
    about=f"{about}, on {dataset.name}",
  )


def extract(
  encode, variables, images: np.ndarray, mesh, batch: int, *, image_px: int = 0
) -> np.ndarray:
  """Encodes real images, each by itself, whatever batch and devices are.

  The program is compiled once per (encode, mesh, batch, image_px): the last
  batch is padded to the full size and the padding is masked out.

  Args:
    encode: (variables, images float32 [n h w c] in [-1, 1]) -> [n f], jit-able;
      a row of its result depends on that row's image only.
    variables: what `encode` wants; used where it lies.
    images: uint8 [N h w c], N >= 1, the same in every process.
    mesh: the device mesh; a batch is spread over it.
    batch: images per call, over all devices; rounded up to a multiple of their
      number, so that any value works on any machine.
    image_px: side of the square to resize and center-crop to; 0: as they are.

  Returns:
    float32 [N f], the same in every process.

  Raises:
    Diverged: a feature is not finite.
  """
  batch = -(-batch // mesh.size) * mesh.size
  program = _program(encode, mesh, image_px)
  sharding = mesh_lib.batch(mesh)
  pieces, pending = [], None
  for start in range(0, len(images), batch):
    rows = images[start : start + batch]
    mask = np.arange(batch) < len(rows)
    if len(rows) < batch:
      padding = np.zeros((batch - len(rows), *rows.shape[1:]), np.uint8)
      rows = np.concatenate([rows, padding])
    result = program(variables, place(rows, sharding), place(mask, sharding))
    if pending is not None:  # fetched while the devices work on the next one
      pieces.append(_collect(*pending))
    pending = result
  pieces.append(_collect(*pending))
  features = np.concatenate(pieces)
  if len(features) != len(images):
    raise AssertionError(
      f"features: {len(features)} images of {len(images)} encoded"
    )
  finite = np.isfinite(features).all(axis=1)
  if not finite.all():
    raise errors.Diverged(
      f"features: {int((~finite).sum())} of {len(images)} images have a "
      f"feature that is not finite, the first is image {finite.argmin()}"
    )
  return features


def place(array: np.ndarray, sharding) -> jax.Array:
  """Puts a host array that every process holds onto devices.

  Args:
    array: the same in every process.
    sharding: of the result; it may span processes.

  Returns:
    The global array. The transfers are explicit, so that a transfer guard lets
    them pass, and no process waits for another.
  """
  where = sharding.addressable_devices_indices_map(array.shape)
  pieces = [
    jax.device_put(array[part], device) for device, part in where.items()
  ]
  return jax.make_array_from_single_device_arrays(array.shape, sharding, pieces)


def of_dataset(cfg, dataset: contracts.Dataset, encode, variables, mesh):
  """Encodes the training (or its part) and test images of a data set.

  The last result is kept while `variables` live, so that evaluations which
  follow each other on the same weights encode once.

  Args:
    cfg: an evaluation's entry, with `OPTIONS`.
    dataset: from `load`.
    encode: see `extract`.
    variables: see `extract`.
    mesh: the device mesh.

  Returns:
    ((train features float32 [N f], labels int32 [N]), (test features, labels),
    number of classes).
  """
  global _last
  leaves, structure = jax.tree.flatten(variables)
  key = (dataset, encode, mesh, structure, cfg.image_px, cfg.train_limit)
  if _last is None or not _last.matches(key, leaves):
    train = dataset.train
    if 0 < cfg.train_limit < len(train.labels):
      chosen = data.balanced_indices(train.labels, cfg.train_limit)
      train = contracts.Split(*(array[chosen] for array in train))
    result = [
      (
        extract(
          encode, variables, images, mesh, cfg.batch, image_px=cfg.image_px
        ),
        labels,
      )
      for images, labels in (train, dataset.test)
    ]
    _last = _Kept(key, leaves, (*result, dataset.num_classes))
  return _last.result


class _Kept:
  """The last result of `of_dataset`; holds the weights only weakly."""

  def __init__(self, key, leaves, result):
    self.key, self.result = key, result
    # numpy arrays can change in place: only immutable weights are recognized.
    fixed = bool(leaves) and all(isinstance(x, jax.Array) for x in leaves)
    self.leaves = [weakref.ref(x) for x in leaves] if fixed else None

  def matches(self, key, leaves):
    return (
      self.leaves is not None
      and len(self.leaves) == len(leaves)
      and all(ref() is leaf for ref, leaf in zip(self.leaves, leaves))
      and self.key[0] is key[0]  # a data set is compared by identity
      and self.key[1:] == key[1:]
    )


_last: _Kept | None = None


@functools.lru_cache(maxsize=8)
def _program(encode, mesh, image_px):
  """Compiles uint8 [b h w c], mask [b] -> features [b f], the same mask."""

  def program(variables, images, mask):
    x = images_lib.from_uint8(images)
    if image_px:
      x = images_lib.resize_and_crop(x, (image_px, image_px))
    features = encode(variables, x).astype(jnp.float32)
    return features, mask  # they travel together: rows stay matched

  # Replicated, so that every process of a multi-process run holds every row.
  return jax.jit(program, out_shardings=mesh_lib.replicated(mesh))


def _collect(features, mask):
  """Fetches a batch and drops its padding."""
  return jax.device_get(features)[jax.device_get(mask)]

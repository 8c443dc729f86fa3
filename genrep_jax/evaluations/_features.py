"""Frozen features of real images, in padded, masked, sharded batches."""

import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax import data
from genrep_jax.evaluations import _splits
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
  "test_limit": options.integer(
    0,
    "likewise of the images that are judged: for a quick look",
    low=0,
    unit="images",
  ),
  "split": options.choice(
    "test",
    ("test", "selection"),
    "what is judged; selection: the set's own such split, else a part of the "
    "training images, which are then without it",
  ),
  "selection_share": options.number(
    0.1, "of every class, that part", above=0, below=1
  ),
}


def load(
  cfg, model: contracts.Model, *, several: bool | None = False
) -> contracts.Dataset:
  """Loads the images to judge on.

  Args:
    cfg: an evaluation's entry, with `data`.
    model: has the channels.
    several: whether an image has several classes, labels bool [N k]; None:
      either will do.

  Raises:
    UsageError: no such data, images of other channels than the model's, or
      labels of the other kind.
  """
  path = "evaluations.data"
  dataset = data.load(cfg.data, path)
  given, wanted = dataset.test.images.shape[-1], model.channels
  if wanted is not None and given != wanted:
    options.refuse(
      path, f"{dataset.name}, c = {given}", f"images of {wanted} channel(s)"
    )
  has = dataset.train.labels.ndim == 2
  if several is not None and has != several:
    kinds = "one class", "several classes"
    options.refuse(
      path,
      f"{dataset.name}, {kinds[has]} an image",
      f"data with {kinds[several]} an image",
    )
  return dataset


def splits(cfg, dataset) -> tuple[contracts.Split, contracts.Split]:
  """Returns what an entry with `OPTIONS` trains on, and what it judges on.

  The part of the training images that is held out where the data set has no
  selection split of its own is the same for every evaluation of a share.

  Raises:
    UsageError: nothing can be held out, or fewer images than classes are asked
      for.
  """
  train, judged = dataset.train, dataset.test
  if cfg.split == "selection" and dataset.selection is not None:
    judged = dataset.selection
  elif cfg.split == "selection":
    held_out = _splits.hold_out(train.labels, cfg.selection_share, 0)
    if not held_out.any():
      options.refuse(
        "evaluations.split",
        cfg.split,
        f"test: {dataset.name} has one training image of each class",
      )
    train, judged = (
      _splits.take(train, ~held_out),
      _splits.take(train, held_out),
    )
  for key in ("train_limit", "test_limit"):
    if 0 < cfg[key] < dataset.num_classes:
      options.refuse(
        f"evaluations.{key}",
        cfg[key],
        f"0 or at least the {dataset.num_classes} classes of {dataset.name}",
      )
  return _part(train, cfg.train_limit), _part(judged, cfg.test_limit)


def _part(split, limit: int) -> contracts.Split:
  """Returns a class-balanced part of a split; all of it with limit 0."""
  if not 0 < limit < len(split.labels):
    return split
  rows = np.arange(limit)
  if split.labels.ndim == 1:
    rows = data.balanced_indices(split.labels, limit)
  return _splits.take(split, rows)


def train_size(cfg, dataset: contracts.Dataset) -> int:
  """Returns how many training images an entry with `OPTIONS` uses."""
  return len(splits(cfg, dataset)[0].labels)


def said(cfg, dataset, protocol: str) -> str:
  """Returns `about` of an entry with `OPTIONS`: protocol and images."""
  part = "the selection split of " if cfg.split == "selection" else ""
  return f"{protocol}, on {part}{dataset.name}"


def of_features(
  cfg,
  dataset,
  model: contracts.Model,
  mesh,
  measure,
  *,
  headline,
  about,
  metrics=None,
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
    metrics: {metric: one sentence}.
  """

  def run(variables):
    return measure(*of_dataset(cfg, dataset, model.encode, variables, mesh))

  return contracts.Evaluation(
    run=run,
    headline=headline,
    about=said(cfg, dataset, about),
    metrics=metrics or {},
  )


def extract(
  encode,
  variables,
  images,
  mesh,
  batch: int,
  *,
  image_px: int = 0,
  change=None,
  epoch: int = 0,
) -> np.ndarray:
  """Encodes real images, each by itself, whatever batch and devices are.

  The program is compiled once per (encode, mesh, batch, image_px, change): the
  last batch is padded to the full size, and the padding is dropped.

  Args:
    encode: (variables, images float32 [n h w c] in [-1, 1]) -> [n f], jit-able;
      a row of its result depends on that row's image only.
    variables: what `encode` wants; used where it lies.
    images: uint8 [N h w c], N >= 1, the same in every process; see
      `contracts.Split`: decoded batch by batch.
    mesh: the device mesh; a batch is spread over it.
    batch: images per call, over all devices; rounded up to a multiple of their
      number, so that any value works on any machine.
    image_px: side of the square to resize and center-crop to; 0: as they are.
    change: (images float32 [n h w c] in [-1, 1], index int32 [n], epoch) ->
      images, jit-able and a function of these alone: how they are augmented.
    epoch: for `change`.

  Returns:
    float32 [N f], the same in every process.

  Raises:
    Diverged: a feature is not finite.
  """
  batch = -(-batch // mesh.size) * mesh.size
  program = _program(encode, mesh, image_px, change)
  sharding = mesh_lib.batch(mesh)
  if change is not None:
    epoch = place(np.asarray(epoch, np.int32), mesh_lib.replicated(mesh))
  pieces, pending = [], None
  for start in range(0, len(images), batch):
    rows = np.asarray(images[start : start + batch])
    index = np.full(batch, -1, np.int32)
    index[: len(rows)] = np.arange(start, start + len(rows))
    if len(rows) < batch:
      padding = np.zeros((batch - len(rows), *rows.shape[1:]), np.uint8)
      rows = np.concatenate([rows, padding])
    given = place(rows, sharding), place(index, sharding)
    result = program(variables, *given, epoch if change else None)
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
  """Encodes the images that an entry trains on and those it judges on.

  See `of_split`.

  Returns:
    ((train features float32 [N f], labels int32 [N]), (judged features,
    labels), number of classes).
  """
  train, judged = (
    of_split(cfg, dataset, encode, variables, mesh, judged=judged)
    for judged in (False, True)
  )
  return train, judged, dataset.num_classes


def of_split(cfg, dataset, encode, variables, mesh, *, judged: bool):
  """Encodes what `splits` returns first or, if `judged`, second.

  The last result of either is kept while `variables` live, so that evaluations
  which follow each other on the same weights encode once.

  Args:
    cfg: an evaluation's entry, with `OPTIONS`.
    dataset: from `load`.
    encode: see `extract`.
    variables: see `extract`.
    mesh: the device mesh.
    judged: which of the two.

  Returns:
    (features float32 [N f], labels [N]).
  """
  global _last
  leaves, structure = jax.tree.flatten(variables)
  key = (dataset, encode, mesh, structure)
  if _last is None or not _last.matches(key, leaves):
    _last = _Kept(key, leaves)
  part = (cfg.image_px, cfg.split == "selection" and cfg.selection_share)
  part += (cfg.test_limit if judged else cfg.train_limit,)
  if _last.parts.get(judged, (None,))[0] != part:
    images, labels = splits(cfg, dataset)[judged]
    features = extract(
      encode, variables, images, mesh, cfg.batch, image_px=cfg.image_px
    )
    _last.parts[judged] = part, (features, labels)
  return _last.parts[judged][1]


class _Kept:
  """The last results of `of_split`; holds the weights only weakly."""

  def __init__(self, key, leaves):
    self.key, self.parts = key, {}
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
def _program(encode, mesh, image_px, change):
  """Compiles uint8 [b h w c], index [b] -> features [b f], the same index."""

  def program(variables, images, index, epoch):
    x = images_lib.from_uint8(images)
    if change is not None:
      x = change(x, index, epoch)
    if image_px:
      x = images_lib.resize_and_crop(x, (image_px, image_px))
    features = encode(variables, x).astype(jnp.float32)
    return features, index  # they travel together: rows stay matched

  # Replicated, so that every process of a multi-process run holds every row.
  return jax.jit(program, out_shardings=mesh_lib.replicated(mesh))


def _collect(features, index):
  """Fetches a batch and drops its padding, of the index -1."""
  return jax.device_get(features)[jax.device_get(index) >= 0]

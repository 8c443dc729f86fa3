"""Floor 1: real images, for evaluations and real-data baselines.

A plug-in is `data/<name>.py: make(cfg) -> contracts.Dataset`. It reads what is
on this machine, checks it against pinned digests where it can, and never
downloads.
"""

import hashlib
import json

import ml_collections
import numpy as np

from genrep_jax.lib import contracts, errors, options, plugins

_CACHE_SIZE = 2  # data sets kept; the runs we know use one or two
_SHOWN = 1000  # images of a split whose pixels are checked
_cache: dict[str, contracts.Dataset] = {}


def load(entry, path: str = "data") -> contracts.Dataset:
  """Makes the data set that an entry names, once per process and entry.

  Args:
    entry: `name` and any of the plug-in's options, of a config.
    path: of the entry in the config, for messages.

  Returns:
    The data set; the same object for an equal entry. Do not write into it.

  Raises:
    UsageError: no name, or what `plugins.make` refuses.
    PluginError: see `check`.
  """
  entry = ml_collections.ConfigDict(entry).copy_and_resolve_references()
  if not entry.get("name"):
    known = ", ".join(plugins.names("data"))
    options.refuse(f"{path}.name", "", f"{known}, or a dotted module name")
  plugins.complete(entry, "data", path)
  key = json.dumps(entry.to_dict(), sort_keys=True, default=str)
  if key not in _cache:
    dataset = plugins.make("data", entry, path=path)
    check(dataset, plugins.label_of("data", entry.name))
    while len(_cache) >= _CACHE_SIZE:
      del _cache[next(iter(_cache))]
    _cache[key] = dataset
  return _cache[key]


def check(dataset: contracts.Dataset, label: str) -> None:
  """Checks once what a plug-in returned; nothing is converted.

  Args:
    dataset: from the plug-in's `make`.
    label: how messages call the plug-in.

  Raises:
    PluginError: "plug-in LABEL returned ...; allowed: ...".
  """

  def wrong(returned, allowed):
    raise errors.PluginError(
      f"plug-in {label} returned {returned}; allowed: {allowed}"
    )

  k, names = dataset.num_classes, dataset.class_names
  if k < 2:
    wrong(f"num_classes {k!r}", "an integer >= 2")
  if len(names) not in (0, k):
    wrong(f"class_names {names!r:.80}", f"{k} names, or ()")
  for split in ("train", "test"):
    images, labels = getattr(dataset, split)
    given = f"{split} images {_described(images)}"
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
      wrong(given, "numpy uint8 [N h w c]")
    if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3):
      wrong(given, "[N h w c], N h w >= 1 and c 1 or 3")
    some = images[:: -(-len(images) // _SHOWN)]
    if some.max() - some.min() < 2:
      wrong(f"{split} images of {some.min()}..{some.max()}", "pixels in 0..255")
    given = f"{split} labels {_described(labels)}"
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
      wrong(given, "numpy integers [N]")
    if labels.shape != images.shape[:1]:
      wrong(given, f"[{len(images)}], one for each image")
    if labels.min() < 0 or labels.max() >= k:
      wrong(f"{split} labels in {labels.min()}..{labels.max()}", f"0..{k - 1}")
  absent = np.setdiff1d(np.arange(k), dataset.train.labels)
  if len(absent):
    wrong(
      f"no train image of class {absent[0]}",
      f"images of every class 0..{k - 1}",
    )
  shapes = [split.images.shape[1:] for split in (dataset.train, dataset.test)]
  if shapes[0] != shapes[1]:
    wrong(
      f"test images {shapes[1]}", f"the shape of the train images, {shapes[0]}"
    )


def _described(array) -> str:
  """Says type and shape: "float32[5, 4]", or "list"."""
  if not isinstance(array, np.ndarray):
    return type(array).__name__
  return f"{array.dtype}{list(array.shape)}"


def digest(dataset: contracts.Dataset) -> str:
  """Fingerprints the content of a data set, for the record of a run.

  Args:
    dataset: any data set.

  Returns:
    sha256 (hexadecimal) over shape, type and bytes of the four arrays in the
    order train images, train labels, test images, test labels.
  """
  state = hashlib.sha256()
  for split in (dataset.train, dataset.test):
    for array in split:
      array = np.ascontiguousarray(array)
      state.update(f"{array.dtype.str}{array.shape}".encode())
      state.update(array.data)
  return state.hexdigest()


def balanced_indices(labels: np.ndarray, count: int) -> np.ndarray:
  """Chooses `count` examples, class by class in turn, lowest index first.

  The rule is deterministic and does not depend on how a data set is ordered:
  every class gives its first `count // k` examples (and the lowest classes one
  more, if `count` is not a multiple of k; a class that runs out is passed
  over).

  Args:
    labels: int [N].
    count: how many to choose; all when it is 0 or not below N.

  Returns:
    Ascending indices, int64 [count].
  """
  labels = np.asarray(labels)
  if count <= 0 or count >= len(labels):
    return np.arange(len(labels))
  rank = np.empty(len(labels), np.int64)  # how many of its class come before
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    rank[members] = np.arange(len(members))
  return np.sort(np.lexsort((labels, rank))[:count])

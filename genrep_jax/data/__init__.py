"""Floor 1: real images, for training and evaluations.

A plug-in is `data/<name>.py: make(cfg) -> contracts.Dataset`. It reads what is
on this machine, checks it against pinned digests where it can, and never
downloads. Images are arrays, or decoded on demand (`_lazy.Images`).
"""

import hashlib
import json

import ml_collections
import numpy as np

from genrep_jax.lib import contracts, errors, options, plugins

_CACHE_SIZE = 2  # data sets kept; the runs we know use one or two
_SHOWN = 1000  # images of a split whose pixels are checked
_DECODED = 8  # likewise where they have to be decoded
_SPLITS = ("train", "test", "selection")
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
  splits = splits_of(dataset)
  for split, (images, labels) in splits.items():
    _check_images(split, images, wrong)
    _check_labels(split, labels, len(images), k, wrong)
  train = dataset.train
  if train.labels.ndim == 2:
    absent = np.flatnonzero(~train.labels.any(axis=0))
  else:
    absent = np.setdiff1d(np.arange(k), train.labels)
  if len(absent):
    wrong(
      f"no train image of class {absent[0]}",
      f"images of every class 0..{k - 1}",
    )
  shape = tuple(train.images.shape[1:])
  for split, (images, labels) in splits.items():
    given = tuple(images.shape[1:])
    if given != shape:
      wrong(
        f"{split} images {given}", f"the shape of the train images, {shape}"
      )
    if labels.ndim != train.labels.ndim:
      wrong(f"{split} labels {_described(labels)}", "the kind of train labels")


def splits_of(dataset: contracts.Dataset) -> dict[str, contracts.Split]:
  """Returns the splits by name; "selection" only where there is one."""
  splits = {name: getattr(dataset, name) for name in _SPLITS}
  return {name: split for name, split in splits.items() if split is not None}


def _check_images(split, images, wrong):
  given = f"{split} images {_described(images)}"
  shape = getattr(images, "shape", None)
  lazy = not isinstance(images, np.ndarray)
  if shape is None or getattr(images, "dtype", None) != np.uint8:
    wrong(given, "numpy uint8 [N h w c], or images decoded to it")
  if len(shape) != 4 or 0 in shape or shape[3] not in (1, 3):
    wrong(given, "[N h w c], N h w >= 1 and c 1 or 3")
  if len(images) != shape[0]:
    wrong(f"{given} of length {len(images)}", f"{shape[0]}")
  some = images[:: -(-len(images) // (_DECODED if lazy else _SHOWN))]
  if not isinstance(some, np.ndarray) or some.shape[1:] != tuple(shape[1:]):
    wrong(
      f"{given} whose rows are {_described(some)}", "rows as its shape says"
    )
  if some.max() - some.min() < 2:
    wrong(f"{split} images of {some.min()}..{some.max()}", "pixels in 0..255")


def _check_labels(split, labels, count, k, wrong):
  given = f"{split} labels {_described(labels)}"
  kind = labels.dtype.kind if isinstance(labels, np.ndarray) else ""
  several = kind == "b" and labels.ndim == 2
  if not several and (not kind or kind not in "iu"):
    wrong(given, "numpy integers [N], or bool [N k] of several an image")
  if labels.shape != ((count, k) if several else (count,)):
    wrong(given, f"[{count}{f', {k}' * several}], one for each image")
  if not several and (labels.min() < 0 or labels.max() >= k):
    wrong(f"{split} labels in {labels.min()}..{labels.max()}", f"0..{k - 1}")


def _described(array) -> str:
  """Says type and shape: "float32[5, 4]", or "list"."""
  if not hasattr(array, "shape") or not hasattr(array, "dtype"):
    return type(array).__name__
  return f"{array.dtype}{list(array.shape)}"


def digest(dataset: contracts.Dataset) -> str:
  """Fingerprints the content of a data set, for the record of a run.

  Args:
    dataset: any data set.

  Returns:
    sha256 (hexadecimal) over shape, type and bytes of the arrays in the order
    train images, train labels, test images, test labels, and the selection
    split's, if there is one. Images that are decoded on demand count by their
    own `digest`, if they have one: of the encoded bytes.
  """
  state = hashlib.sha256()
  for split in splits_of(dataset).values():
    for array in split:
      if hasattr(array, "digest"):
        state.update(array.digest.encode())
        continue
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

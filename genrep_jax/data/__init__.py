"""Floor 1: real images, for evaluations and real-data baselines.

A plug-in is `data/<name>.py: make(cfg) -> contracts.Dataset`. It reads what is
on this machine, checks it against pinned digests where it can, and never
downloads.
"""

import hashlib
import json

import ml_collections
import numpy as np

from genrep_jax.lib import contracts, errors, plugins

_CACHE_SIZE = 2  # data sets kept; the runs we know use one or two
_cache: dict[str, contracts.Dataset] = {}


def load(cfg: ml_collections.ConfigDict) -> contracts.Dataset:
  """Makes the data set that `cfg` names, once per process and config.

  Args:
    cfg: an entry of this room: `name`, and any of the plug-in's options; the
      plug-in's defaults fill in the rest.

  Returns:
    The data set; the same object for an equal config. Do not write into it.

  Raises:
    UsageError: no name, unknown name, or what the plug-in's `make` raises.
  """
  if not cfg.get("name"):
    raise errors.UsageError(
      "data: no data set named (data.name is empty); known: "
      + ", ".join(plugins.names("data"))
    )
  module = plugins.resolve("data", cfg.name)
  options = {**getattr(module, "default_config", dict)(), **cfg.to_dict()}
  key = json.dumps(options, sort_keys=True, default=str)
  if key not in _cache:
    dataset = module.make(ml_collections.ConfigDict(options))
    while len(_cache) >= _CACHE_SIZE:
      del _cache[next(iter(_cache))]
    _cache[key] = dataset
  return _cache[key]


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

"""Published files, read only if they are those that were published."""

import hashlib
import io
import pickle
from collections.abc import Mapping

import numpy as np

from genrep_jax.data import _files
from genrep_jax.lib import errors, untrusted


def read(
  data_dir: str, folder: str, md5: Mapping[str, str]
) -> dict[str, bytes]:
  """Reads files and compares their digests.

  Args:
    data_dir: of the config; it, or `folder` within it, holds the files.
    folder: as the archive unpacks.
    md5: {name: digest as their publishers or torchvision give it}; it guards
      against accidents.

  Returns:
    {name: content}.

  Raises:
    UsageError: no such folder, files that are missing (all of them named),
      unreadable or others.
  """
  root = _files.root(data_dir, folder)
  missing = [name for name in md5 if not (root / name).is_file()]
  if missing:
    raise errors.UsageError(f"data: {root} lacks {', '.join(missing)}")
  contents = {}
  for name, expected in md5.items():
    with untrusted.opened(root / name, "data") as file:
      content = file.read()
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != expected:
      raise errors.UsageError(
        f"data: {root / name}: wrong md5: got {got}, expected {expected}"
      )
    contents[name] = content
  return contents


class _Arrays(pickle.Unpickler):
  """Reads arrays, lists and texts of Python 2, and nothing that runs code."""

  _ALLOWED = {
    "_reconstruct": np._core.multiarray._reconstruct,
    "ndarray": np.ndarray,
    "dtype": np.dtype,
  }

  def find_class(self, module, name):
    if module.split(".")[0] != "numpy" or name not in self._ALLOWED:
      raise pickle.UnpicklingError(f"{module}.{name} is no array")
    return self._ALLOWED[name]


def unpickled(content: bytes, name: str) -> dict:
  """Reads a pickled dictionary of arrays.

  Raises:
    UsageError: it is something else.
  """
  try:
    return dict(_Arrays(io.BytesIO(content), encoding="latin1").load())
  except Exception as error:  # whatever a strange pickle raises
    reason = " ".join(str(error).split())
    raise errors.UsageError(
      f"data: {name}: no dictionary of arrays: {reason}"
    ) from error

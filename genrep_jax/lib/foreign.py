"""Foreign checkpoints: read without running code, and checked strictly.

Formats are safetensors, npz, PyTorch and TensorFlow. Nested dictionaries of a
PyTorch file are flattened, `{"g_ema": {"a.weight": x}}` to `{"g_ema/a.weight":
x}`. A checkpoint has every key and every shape that is expected, and no NaN.
"""

import difflib
import hashlib
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from genrep_jax.lib import errors, weights
from genrep_jax.lib.contrib import tensor_bundle

FORMATS = (
  "safetensors, .npz, PyTorch (.pt .pth .bin .tar), a TensorFlow checkpoint "
  "(its prefix, its .index file or a TF-Hub folder)"
)
# Where training scripts keep the generator within a checkpoint.
_SUBTREES = ("g_ema", "G_ema", "netG_state_dict", "state_dict", "state")
# Belongs to a model but stands beside it: rosinality's average of w.
_BESIDE = ("latent_avg",)
_NAMED = 3  # of each fault; more are counted


def check(
  what: str,
  arrays: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
) -> None:
  """Refuses a checkpoint unless its keys and shapes are exactly the expected.

  Args:
    what: what it should be, for the message, e.g. "biggan_deep, 128 px".
    arrays: the checkpoint, key -> array.
    expected: key -> shape.

  Raises:
    UsageError: one line that names the first three missing, unexpected and
      mis-shaped keys, and those that hold a NaN or an infinity.
  """
  missing = [key for key in expected if key not in arrays]
  extra = [key for key in arrays if key not in expected]
  faults = [_list("missing", [_renamed(key, extra) for key in missing])]
  faults.append(_list("unexpected", extra))
  shapes = [
    f"{key} {tuple(arrays[key].shape)} instead of {tuple(shape)}"
    for key, shape in expected.items()
    if key in arrays and tuple(arrays[key].shape) != tuple(shape)
  ]
  faults.append(_list("mis-shaped", shapes))
  strange = [
    key
    for key, x in arrays.items()
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all()
  ]
  faults.append(_list("not finite", strange))
  faults = [fault for fault in faults if fault]
  if faults:
    raise errors.UsageError(f"source: not {what}: {'; '.join(faults)}")


def count(expected: Mapping[str, tuple[int, ...]], buffers: str) -> int:
  """Counts a checkpoint's parameters, as papers and `parameters()` do.

  Args:
    expected: key -> shape.
    buffers: regular expression of the keys that hold none: statistics, vectors
      of spectral norms, constant filters.
  """
  return sum(
    math.prod(shape)
    for key, shape in expected.items()
    if not re.search(buffers, key)
  )


def _renamed(key, candidates):
  near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.8)
  return f"{key} (is it {near[0]}?)" if near else key


def _list(fault, names):
  if not names:
    return ""
  more = len(names) - _NAMED
  rest = f" and {more} more" if more > 0 else ""
  return f"{fault} {', '.join(names[:_NAMED])}{rest}"


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
  """Reads every array of a checkpoint.

  Args:
    path: a file, or the prefix or folder of a TensorFlow checkpoint.

  Returns:
    ({key: array}, format: "safetensors", "npz", "torch" or "tensorflow").

  Raises:
    UsageError: no such file, an unknown format, a damaged file, or a pickle
      that would run code.
  """
  if is_tensorflow(path):
    return tensor_bundle.read(path), "tensorflow"
  if not path.is_file():
    raise errors.UsageError(
      f"source: no file {str(path)!r}; allowed: {FORMATS}"
    )
  with open(path, "rb") as file:
    start = file.read(64)
  if start[8:9] == b"{":
    return _read_safetensors(path), "safetensors"
  if start.startswith(b"PK\x03\x04") and not _is_torch_zip(path):
    return _read_npz(path), "npz"
  if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
    return _read_torch(path), "torch"
  if start[:8] == b"\x89HDF\r\n\x1a\n":
    raise errors.UsageError(f"source: {path} is HDF5; allowed: {FORMATS}")
  raise errors.UsageError(
    f"source: {path} ({path.stat().st_size} bytes) is truncated or of no known "
    f"format; allowed: {FORMATS}"
  )


def is_tensorflow(path: pathlib.Path) -> bool:
  """Says whether a path names a TensorFlow checkpoint."""
  return (
    path.suffix == ".index"
    or path.is_dir()
    or not path.exists()
    and path.with_name(path.name + ".index").exists()
  )


def sha256(path: pathlib.Path) -> str:
  """Hashes a checkpoint; of TensorFlow's several files, all in their order."""
  files = [path]
  if is_tensorflow(path):
    files = tensor_bundle.files(path)
  digest = hashlib.sha256()
  for one in files:
    with open(one, "rb") as file:
      while block := file.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()


def select(
  arrays: Mapping[str, np.ndarray], subtrees: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """Picks the generator out of a training checkpoint.

  Args:
    arrays: from `read`.
    subtrees: dictionaries of the file, merged; none: the first of the usual
      names that there is, with what belongs beside it, or else everything.

  Returns:
    {key within the dictionary: array}.

  Raises:
    UsageError: no such dictionary, or two hold the same key.
  """
  parts = [key.split("/") for key in arrays]
  groups = sorted(
    {"/".join(part[:n]) for part in parts for n in range(1, len(part))}
  )
  if not subtrees:
    usual = [name for name in _SUBTREES if name in groups]
    if not usual:
      return dict(arrays)
    beside = {key: arrays[key] for key in _BESIDE if key in arrays}
    return beside | select(_within(arrays, usual[0]))
  chosen = {}
  for name in subtrees:
    found = _within(arrays, name.rstrip("/"))
    if not found:
      raise errors.UsageError(
        f"--subtree: no dictionary {name!r} in the file; there are: "
        f"{', '.join(groups) or 'none'}"
      )
    twice = sorted(set(found) & set(chosen))
    if twice:
      raise errors.UsageError(f"--subtree: {twice[0]!r} is in two of them")
    chosen |= found
  return chosen


def _within(arrays, group):
  """Returns the arrays of one dictionary, by their keys in it."""
  start = group + "/"
  return {
    key.removeprefix(start): x
    for key, x in arrays.items()
    if key.startswith(start)
  }


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:300]


def _damaged(path, error):
  return errors.UsageError(
    f"source: {path} ({path.stat().st_size} bytes) is truncated or damaged: "
    f"{_one_line(error)}"
  )


def _read_safetensors(path):
  # numpy's own functions do not all know bfloat16
  return {
    key: x.astype(np.float32) if x.dtype.name == "bfloat16" else x
    for key, x in weights.read_arrays(path).items()
  }


def _read_npz(path):
  try:
    with open(path, "rb") as opened, np.load(opened) as file:
      return {
        key: file[key] for key in file.files if file[key].dtype.kind in "fiub"
      }
  except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
    raise _damaged(path, error) from error


def _is_torch_zip(path):
  try:
    with zipfile.ZipFile(path) as archive:
      return any(name.endswith("data.pkl") for name in archive.namelist())
  except (zipfile.BadZipFile, OSError) as error:
    raise _damaged(path, error) from error


def _read_torch(path):
  try:
    import torch
  except ImportError as error:
    raise errors.UsageError(
      f"source: {path} is a PyTorch file: reading it needs torch (pip install "
      "-e '.[torch]')"
    ) from error
  import pickle
  import warnings

  try:
    with warnings.catch_warnings():  # about pickle protocols
      warnings.simplefilter("ignore")
      tree = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:
    raise errors.UsageError(
      f"source: {path} is a pickle that would run code; refused. In an "
      "environment you trust, save its tensors by name as .npz or safetensors "
      "(docs/generators.md shows how)"
    ) from error
  except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
    raise _damaged(path, error) from error
  arrays = {}

  def walk(prefix, value):
    if isinstance(value, Mapping):
      for key, inner in value.items():
        walk([*prefix, str(key)], inner)
    elif isinstance(value, (list, tuple)):
      for i, inner in enumerate(value):
        walk([*prefix, str(i)], inner)
    elif isinstance(value, torch.Tensor):
      value = value.detach()
      if value.dtype == torch.bfloat16:
        value = value.float()
      arrays["/".join(prefix)] = value.numpy()

  walk([], tree)
  return arrays

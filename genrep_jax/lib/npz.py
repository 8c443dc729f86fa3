"""Arrays of .npz files, read without believing what a file claims."""

import math
import warnings
import zipfile
from collections.abc import Container

import numpy as np

from genrep_jax.lib import untrusted

NUMBERS = "fiub"  # kinds of arrays that are read: no object is ever unpickled
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


def read(
  path, what="source", keys: Container[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads the arrays of numbers.

  Args:
    path: of the file.
    what: the key or flag, for the message.
    keys: which to read; None: all.

  Returns:
    ({name: array, in the machine's byte order}, {name: why it was left out}).

  Raises:
    UsageError: no such file, no .npz, damaged, encrypted, or one that claims
      more than `untrusted` allows.
  """
  with untrusted.opened(path, what) as file:
    start = file.read(6)
  if start == b"\x93NUMPY":
    with untrusted.guard(path, what, ".npz"):
      raise ValueError("it is one array (.npy), not several by name (.npz)")
  arrays, left_out = {}, {}
  with untrusted.archive(path, what, ".npz") as archive:
    budget = untrusted.Budget(path)
    for member in archive.infolist():
      name = member.filename.removesuffix(".npy")
      if keys is not None and name not in keys:
        continue
      found = "no .npy file"
      if name != member.filename:
        found = _member(archive, member, name, budget)
      if isinstance(found, str):
        left_out[name] = found
      else:
        arrays[name] = found
  return arrays, left_out


def _member(archive, member: zipfile.ZipInfo, name, budget):
  """Returns an array, or why it is not read."""
  with archive.open(member) as file:
    if file.read(6) != b"\x93NUMPY":
      return "no .npy file"
    version = tuple(file.read(2))
    if version not in _HEADERS:
      return f"a .npy file of version {version}"
    with warnings.catch_warnings():  # about headers that Python 2 wrote
      warnings.simplefilter("ignore")
      shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
      return "an array of objects, which is never unpickled"
    if dtype.kind not in NUMBERS:
      return f"an array of {untrusted.shown(dtype)}"
    if min(shape, default=0) < 0:
      raise ValueError(f"{untrusted.shown(name)} has the shape {shape}")
    length = math.prod(shape) * dtype.itemsize
    if length != member.file_size - file.tell():
      raise ValueError(
        f"{untrusted.shown(name)}, {dtype} {untrusted.shown(shape)}, wants "
        f"{length} bytes and has {member.file_size - file.tell()}"
      )
    budget.take(length, name)
    data = np.empty(length, np.uint8)
    view, at = memoryview(data), 0
    while block := file.read(1 << 20):  # to the end: it checks the checksum
      view[at : at + len(block)] = block
      at += len(block)
  if at != length:
    raise ValueError(f"{untrusted.shown(name)} ends after {at} bytes")
  array = data.view(dtype).reshape(shape, order="F" if fortran else "C")
  return array.astype(dtype.newbyteorder("="), copy=False)

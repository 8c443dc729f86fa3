"""Reads the idx files in which MNIST and its successors are published.

Format (LeCun, yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8 =
uint8), the number of dimensions, each dimension as a big-endian uint32, data.
"""

import gzip
import hashlib
import math
import pathlib
import zlib
from collections.abc import Iterable

import numpy as np

from genrep_jax.lib import errors, files


def find(directory: str, names: Iterable[str]) -> dict[str, pathlib.Path]:
  """Finds every named file, plain or with ".gz".

  Args:
    directory: where to look.
    names: file names without ".gz".

  Returns:
    {name: path}; the plain file wins where both exist.

  Raises:
    UsageError: no such directory, or files missing (all of them named).
  """
  folder = files.folder(directory, "data.data_dir")
  if not directory or not folder.is_dir():
    raise errors.UsageError(f"data: data_dir: no such folder: {directory!r}")
  found, missing = {}, []
  for name in names:
    paths = [folder / name, folder / f"{name}.gz"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
      missing.append(f"{name}[.gz]")
    else:
      found[name] = path
  if missing:
    raise errors.UsageError(
      f"data: data_dir {directory!r} lacks {', '.join(missing)}"
    )
  return found


def read(path: pathlib.Path, sha256: str, ndim: int) -> np.ndarray:
  """Reads one idx file of bytes and checks its digest.

  Args:
    path: the file; gunzipped when its name ends in ".gz".
    sha256: expected digest of the decompressed content, hexadecimal. That of
      the .gz would depend on who compressed it.
    ndim: expected number of dimensions.

  Returns:
    uint8 array, read-only.

  Raises:
    UsageError: unreadable, truncated, not an idx file, or wrong digest.
  """
  content = _content(path)
  header = 4 + 4 * ndim
  if len(content) < header or content[:4] != bytes([0, 0, 8, ndim]):
    raise errors.UsageError(
      f"data: {path}: not an idx file of bytes with {ndim} dimensions "
      f"(starts with {content[:4].hex() or 'nothing'}, "
      f"expected {bytes([0, 0, 8, ndim]).hex()})"
    )
  shape = np.frombuffer(content, ">u4", ndim, 4).tolist()
  wanted = header + math.prod(shape)
  if len(content) != wanted:
    what = "truncated" if len(content) < wanted else "too long"
    raise errors.UsageError(
      f"data: {path}: {what}: {len(content)} bytes, "
      f"its header promises {wanted}"
    )
  got = hashlib.sha256(content).hexdigest()
  if got != sha256:
    raise errors.UsageError(
      f"data: {path}: wrong sha256 of the decompressed content: "
      f"got {got}, expected {sha256}"
    )
  return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path):
  try:
    if path.suffix != ".gz":
      return path.read_bytes()
    with gzip.open(path) as file:
      return file.read()
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise errors.UsageError(
      f"data: {path}: truncated or damaged gzip file: {error}"
    ) from error
  except OSError as error:
    raise errors.UsageError(
      f"data: {path}: unreadable: {error.strerror or error}"
    ) from error

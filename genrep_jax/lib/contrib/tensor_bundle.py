"""TensorFlow checkpoints (tensor bundles, "V2") read without TensorFlow.

`PREFIX.index` is a LevelDB table: data blocks of (key, value) with
prefix-compressed keys, an index block that says where they are, and a footer of
48 bytes. Its values are protocol buffers: of the key "" the header, of any
other, which is a variable's name, where that tensor's raw little-endian bytes
lie in `PREFIX.data-00000-of-0000N`. Blocks and tensors carry masked CRC-32C
sums; all that is read is checked, at some hundred MB/s.

Sources: leveldb's doc/table_format.md; TensorFlow's tensor_bundle.proto,
tensor_shape.proto, types.proto and versions.proto.
"""

import dataclasses
import math
import operator
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import errors, files as files_lib, untrusted
from genrep_jax.lib.contrib import crc32c

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes: two block handles, padding, the magic number
_TRAILER = 5  # bytes after a block: its compression, its checksum
_MAX_INDEX = 16 << 20  # bytes; a thousand variables take a tenth of one MiB
_MAX_AXES = 32
_VERSION = 1  # of the tensor bundles that are known
_STRING = "string"
_DTYPES = {  # types.proto's DataType
  1: np.dtype(np.float32),
  2: np.dtype(np.float64),
  3: np.dtype(np.int32),
  4: np.dtype(np.uint8),
  5: np.dtype(np.int16),
  6: np.dtype(np.int8),
  9: np.dtype(np.int64),
  10: np.dtype(np.bool_),
  14: np.dtype(jnp.bfloat16),
  17: np.dtype(np.uint16),
  19: np.dtype(np.float16),
  22: np.dtype(np.uint32),
  23: np.dtype(np.uint64),
}
_OTHERS = {
  7: _STRING,
  8: "complex64",
  18: "complex128",
  20: "resource",
  21: "variant",
}


def list_variables(
  path: str | os.PathLike,
) -> dict[str, tuple[tuple[int, ...], str]]:
  """Lists a checkpoint's variables; its data files are not touched.

  Args:
    path: the checkpoint's prefix, its .index file, or a folder that holds
      variables/variables.index (TF-Hub, SavedModel) or one .index file.

  Returns:
    {name: (shape, dtype's name)}, sorted by name.

  Raises:
    UsageError: no such checkpoint, or a damaged or foreign index.
  """
  _, entries = _read_index(_prefix(path))
  return {
    name: (entry.shape, entry.dtype_name) for name, entry in entries.items()
  }


def read(
  path: str | os.PathLike, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads variables, each checked against its checksum.

  Args:
    path: as in `list_variables`.
    names: which; None: all but those that hold strings, which belong to
      TensorFlow's own bookkeeping.

  Returns:
    {name: array}; bfloat16 as `jax.numpy.bfloat16`.

  Raises:
    UsageError: no such checkpoint or variable; a damaged, foreign or missing
      file; a variable whose type is no number, or which is stored in slices.
  """
  prefix = _prefix(path)
  shards, entries = _read_index(prefix)
  if names is None:
    names = [n for n, e in entries.items() if e.dtype_name != _STRING]
  names = list(names)
  index = _index_file(prefix)
  for name in names:
    if name not in entries:
      raise _fault(index, f"has no variable {name!r}")
    if entries[name].sliced:
      raise _fault(
        index,
        f"variable {name!r} is partitioned (stored in slices); save it whole",
      )
    if entries[name].dtype not in _DTYPES:
      raise _fault(
        index,
        f"variable {name!r} is of type {entries[name].dtype_name}, not numbers",
      )
  arrays, shard, end = {}, -1, 0
  # In the order of the file, one open file at a time.
  for name in sorted(
    names, key=lambda n: (entries[n].shard, entries[n].offset, entries[n].size)
  ):
    entry = entries[name]
    # Many variables may not become of the same few bytes.
    if entry.shard == shard and entry.offset < end:
      raise _fault(index, f"is damaged: {name!r} overlaps another variable")
    arrays[name] = _read_tensor(prefix, shards, name, entry)
    shard, end = entry.shard, entry.offset + entry.size
  return {name: arrays[name] for name in names}


def files(path: str | os.PathLike) -> list[pathlib.Path]:
  """Lists a checkpoint's files: the index, then the data files in order.

  Args:
    path: as in `list_variables`.

  Raises:
    UsageError: as `list_variables`, or a data file is missing.
  """
  prefix = _prefix(path)
  shards, _ = _read_index(prefix)
  found = []
  for shard in range(shards):  # it may claim 2**63
    file = _data_file(prefix, shard, shards)
    if not file.is_file():
      raise _fault(file, "is missing")
    found.append(file)
  return [_index_file(prefix), *found]


# --- files ---------------------------------------------------------------


def _fault(file, what: str) -> errors.UsageError:
  return errors.UsageError(f"source: TensorFlow checkpoint {file}: {what}")


def _index_file(prefix: pathlib.Path) -> pathlib.Path:
  return prefix.with_name(prefix.name + ".index")


def _data_file(prefix: pathlib.Path, shard: int, shards: int) -> pathlib.Path:
  return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


def _prefix(path) -> pathlib.Path:
  """Finds a checkpoint's prefix; its .index file exists."""
  path = pathlib.Path(path)
  index = path if path.suffix == ".index" else _index_file(path)
  if path.is_dir():
    index = path / "variables" / "variables.index"
    if not index.is_file():
      found = sorted(path.glob("*.index"))
      if len(found) != 1:
        raise _fault(
          path,
          "the folder holds neither variables/variables.index nor exactly one "
          f"*.index ({len(found)} found)",
        )
      index = found[0]
  if not index.is_file():
    raise _fault(index, "no such file")
  return index.with_name(index.name.removesuffix(".index"))


# --- the index ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Entry:
  """What a tensor is and where it lies: a BundleEntryProto."""

  dtype: int  # of types.proto
  shape: tuple[int, ...]
  shard: int
  offset: int  # bytes, as is
  size: int
  checksum: int  # masked
  sliced: bool

  @property
  def dtype_name(self) -> str:
    """As numpy calls it, or of another kind as TensorFlow does."""
    if self.dtype in _DTYPES:
      return _DTYPES[self.dtype].name
    return _OTHERS.get(self.dtype, f"number {self.dtype}")


def _read_index(prefix: pathlib.Path) -> tuple[int, dict[str, _Entry]]:
  """Returns (number of data files, {name: entry}, sorted)."""
  file = _index_file(prefix)
  try:
    with open(files_lib.regular(file), "rb") as opened:
      data = opened.read(_MAX_INDEX + 1)
    if len(data) > _MAX_INDEX:
      raise ValueError(f"it has over {_MAX_INDEX >> 20} MiB")
    return _parse_index(data)
  except OSError as error:
    raise _fault(file, error.strerror or str(error)) from error
  except Exception as error:  # see untrusted.guard
    said = " ".join(str(error).split())[:300]
    raise _fault(file, f"is damaged: {said}") from error


def _parse_index(data: bytes) -> tuple[int, dict[str, _Entry]]:
  if len(data) < _FOOTER:
    raise ValueError(f"{len(data)} bytes are too few for an index")
  (magic,) = struct.unpack("<Q", data[-8:])
  if magic != _MAGIC:
    raise ValueError(
      f"it ends in {magic:#018x}, not in an index's {_MAGIC:#018x}; truncated, "
      "or another kind of file"
    )
  footer = data[-_FOOTER:-8]
  meta, end = _handle(footer, 0)
  top, _ = _handle(footer, end)
  _block(data, *meta)  # holds nothing, but damage there is damage
  table, last = {}, -1
  room = untrusted.EXPANSION * len(data) + untrusted.SLACK
  for separator, handle in _entries(_block(data, *top)):
    (offset, size), _ = _handle(handle, 0)
    if offset <= last:  # else a file may name one block 20,000 times
      raise ValueError(f"its block at byte {offset} is out of order")
    last = offset + size
    room -= len(separator)
    for key, value in _entries(_block(data, offset, size)):
      room -= len(key)  # keys repeat each other's first bytes
      if room < 0:
        raise ValueError(
          f"its keys are longer than {untrusted.EXPANSION} times its own bytes"
        )
      if key in table or (table and key < next(reversed(table))):
        raise ValueError(f"key {key!r} is out of order")
      table[key] = value
  if b"" not in table:
    raise ValueError("it has no header")
  shards = _header(table.pop(b""))
  # Names that begin with a zero byte are slices of partitioned variables.
  entries = {
    key.decode(): _entry(value) for key, value in table.items() if key[0] != 0
  }
  for name, entry in entries.items():
    if not entry.sliced and not 0 <= entry.shard < shards:
      raise ValueError(f"{name!r} lies in data file {entry.shard} of {shards}")
  return shards, entries


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """Returns (number of 7 bits a byte, low ones first; where it ends)."""
  value = 0
  for shift in range(0, 70, 7):
    byte = data[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
  raise ValueError("a number is longer than ten bytes")


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
  """Returns ((offset, size) of a block, where the handle ends)."""
  offset, at = _varint(data, at)
  size, at = _varint(data, at)
  return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> bytes:
  """Cuts a block out of an index, checked."""
  end = offset + size
  if end + _TRAILER > len(data) - _FOOTER:
    raise ValueError(
      f"a block of {size} bytes at {offset} reaches beyond the file"
    )
  (stored,) = struct.unpack_from("<I", data, end + 1)
  if crc32c.masked(crc32c.crc32c(data[offset : end + 1])) != stored:
    raise ValueError(f"checksum of the block at byte {offset} is wrong")
  if data[end]:
    kind = {1: "Snappy"}.get(data[end], f"method {data[end]}")
    raise ValueError(
      f"the block at byte {offset} is compressed ({kind}); only uncompressed "
      "indices, as TensorFlow writes them, can be read"
    )
  return data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields a block's (key, value); keys repeat the last one's first bytes."""
  (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
  end = len(block) - 4 - 4 * restarts
  if end < 0:
    raise ValueError(f"a block of {len(block)} bytes has {restarts} restarts")
  at, key = 0, b""
  while at < end:
    shared, at = _varint(block, at)
    rest, at = _varint(block, at)
    length, at = _varint(block, at)
    if shared > len(key) or at + rest + length > end:
      raise ValueError("a block's entry reaches beyond it")
    key = key[:shared] + block[at : at + rest]
    at += rest
    yield key, block[at : at + length]
    at += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Yields a protocol buffer's (field number, value); bytes if nested."""
  at = 0
  while at < len(message):
    tag, at = _varint(message, at)
    number, wire = tag >> 3, tag & 7
    if wire == 0:
      value, at = _varint(message, at)
    elif wire in (1, 5):
      form = "<Q" if wire == 1 else "<I"
      (value,) = struct.unpack_from(form, message, at)
      at += struct.calcsize(form)
    elif wire == 2:
      length, at = _varint(message, at)
      value, at = message[at : at + length], at + length
      if at > len(message):
        raise ValueError("a field reaches beyond its message")
    else:
      raise ValueError(f"wire type {wire} of field {number} is unknown")
    yield number, value


def _header(message: bytes) -> int:
  """Returns the number of data files (BundleHeaderProto)."""
  fields = dict(_fields(message))
  shards = fields.get(1, 0)
  if shards < 1:
    raise ValueError(f"its header counts {shards} data files")
  if fields.get(2, 0):
    raise ValueError("its data are big-endian; only little-endian can be read")
  needed = dict(_fields(fields.get(3, b""))).get(2, 0)
  if needed > _VERSION:
    raise ValueError(f"it needs a reader of version {needed}, not {_VERSION}")
  return shards


def _entry(message: bytes) -> _Entry:
  fields = dict(_fields(message))
  dimensions = [
    dict(_fields(dimension)).get(1, 0)
    for number, dimension in _fields(fields.get(2, b""))
    if number == 2
  ]
  dtype, shard, offset, size, checksum = (
    operator.index(fields.get(number, 0)) for number in (1, 3, 4, 5, 6)
  )
  shape = tuple(map(operator.index, dimensions))
  if len(shape) > _MAX_AXES:
    raise ValueError(f"a variable has {len(shape)} axes")
  return _Entry(dtype, shape, shard, offset, size, checksum, 7 in fields)


# --- the data ----------------------------------------------------------------


def _read_tensor(prefix, shards: int, name: str, entry: _Entry) -> np.ndarray:
  file = _data_file(prefix, entry.shard, shards)
  dtype = _DTYPES[entry.dtype]
  count = math.prod(entry.shape)
  if count * dtype.itemsize != entry.size:
    raise _fault(
      _index_file(prefix),
      f"is damaged: {name!r}, {dtype.name} {entry.shape}, has {entry.size} "
      "bytes",
    )
  end = entry.offset + entry.size
  try:
    with open(files_lib.regular(file), "rb") as opened:
      length = os.fstat(opened.fileno()).st_size
      if end > length:
        raise _fault(
          file,
          f"is truncated: {name!r} ends at byte {end}, the file at {length}",
        )
      data = np.empty(entry.size, np.uint8)
      opened.seek(entry.offset)
      if opened.readinto(data) != entry.size:
        raise _fault(file, f"is truncated within {name!r}")
  except FileNotFoundError as error:
    raise _fault(file, f"is missing; it holds {name!r}") from error
  except OSError as error:
    raise _fault(file, error.strerror or str(error)) from error
  if crc32c.masked(crc32c.crc32c(data)) != entry.checksum:
    raise _fault(file, f"is damaged: checksum of {name!r} is wrong")
  return data.view(dtype).reshape(entry.shape)

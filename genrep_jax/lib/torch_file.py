"""Tensors of PyTorch files (torch.save), read without PyTorch or code.

A pickle is a program, whose instructions may call any function. Here it is
walked through by `pickletools`, nothing is imported and nothing is called: the
few names that build tensors and dictionaries have a meaning (`_CALLS`), and
whatever else a file would call or make becomes an inert mark with its name,
which is left out. So a training checkpoint with an `argparse.Namespace` beside
its weights is read, and one that runs `os.system` is not run.

Two layouts are known: a zip with `data.pkl` and one member per storage (since
PyTorch 1.6), and pickles one after the other with the storages behind them.

Source: torch/serialization.py, torch/_utils.py; Python's pickletools.
"""

import dataclasses
import io
import mmap
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import untrusted

_MAGIC = 0x1950A86A20F9469CFC6C
_START = _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001
_RETURNED = "the value of a call of "
_OBJECT = "an object of "
_MAX_OPERATIONS = 500_000  # a tensor takes some 35, its optimizer's twice that
_MAX_DEPTH = 64  # of dictionaries in dictionaries
_MAX_AXES = 32
_MAX_ARGUMENTS = 16  # of a call
_MAX_NAME = 200  # characters of a global's
_DTYPES = {
  "Double": np.float64,
  "Float": np.float32,
  "Half": np.float16,
  "BFloat16": jnp.bfloat16,
  "Long": np.int64,
  "Int": np.int32,
  "Short": np.int16,
  "Char": np.int8,
  "Byte": np.uint8,
  "Bool": np.bool_,
}
_OTHERS = {  # bytes of an item of storages that are not read
  "ComplexFloat": 8,
  "ComplexDouble": 16,
  "QInt8": 1,
  "QUInt8": 1,
  "QInt32": 4,
  "QUInt4x2": 1,
  "QUInt2x4": 1,
}
_NAMED = {  # torch.dtype, of storages without a type
  "float64": np.float64,
  "float32": np.float32,
  "float16": np.float16,
  "bfloat16": jnp.bfloat16,
  "int64": np.int64,
  "int32": np.int32,
  "int16": np.int16,
  "int8": np.int8,
  "uint8": np.uint8,
  "uint16": np.uint16,
  "uint32": np.uint32,
  "uint64": np.uint64,
  "bool": np.bool_,
}


@dataclasses.dataclass(frozen=True, eq=False)
class _Name:
  """A global that a pickle names, never looked up."""

  name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Foreign:
  """What a pickle would make, in words."""

  words: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
  """Where numbers lie; `dtype` is that of its type, None without one."""

  key: str
  dtype: np.dtype | None
  length: int  # bytes


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
  """A view of a storage; sizes in items."""

  storage: _Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path, what="source") -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads the tensors.

  Args:
    path: of the file.
    what: the key or flag, for the message.

  Returns:
    ({dictionaries' keys joined by "/": array}, {key: why it was left out});
    bfloat16 as float32.

  Raises:
    UsageError: no such file, damaged, or one that claims more than `untrusted`
      allows. A pickle that would run code is read like any other.
  """
  with untrusted.opened(path, what) as file:
    zipped = file.read(4) == b"PK\x03\x04"
  if zipped:
    with untrusted.archive(path, what) as archive:
      return _read_zip(path, archive)
  with (
    untrusted.opened(path, what) as file,
    untrusted.guard(path, what),
    # Unlike a file's, its `read` makes no room for more than there is.
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
  ):
    return _read_pickles(path, mapped)


def is_code(why: str) -> bool:
  """Says whether something was left out because code would make it."""
  return why.startswith((_RETURNED, _OBJECT))


def is_torch(start: bytes) -> bool:
  """Says whether torch.save wrote a file that starts so, if it is a pickle."""
  return start.startswith(b"PK\x03\x04") or _START in start


def _read_zip(path, archive):
  names = [
    name
    for name in archive.namelist()
    if name == "data.pkl" or name.endswith("/data.pkl")
  ]
  if len(names) != 1:
    raise ValueError(f"it has {len(names)} members data.pkl")
  folder = names[0].removesuffix("data.pkl")
  budget = untrusted.Budget(path)

  def member(name):
    budget.take(archive.getinfo(folder + name).file_size, name)
    return archive.read(folder + name)

  order = "<"
  if f"{folder}byteorder" in archive.namelist():
    order = {b"little": "<", b"big": ">"}[member("byteorder")]

  def load(storage):
    try:
      data = member(f"data/{storage.key}")
    except KeyError as error:
      raise ValueError(f"it has no storage {storage.key!r}") from error
    if len(data) < storage.length:
      raise ValueError(
        f"storage {storage.key!r} has {len(data)} bytes, not {storage.length}"
      )
    return data

  tree = _unpickled(io.BytesIO(member("data.pkl")))
  return _arrays(tree, load, order, budget)


def _read_pickles(path, file):
  budget = untrusted.Budget(path)
  first = _unpickled(file)
  if type(first) is not int or first != _MAGIC:
    _, left_out = _arrays(first, None, "<", budget)
    if not left_out:
      raise ValueError("it is a pickle, but none that torch.save wrote")
    return {}, left_out
  if _unpickled(file) != _PROTOCOL:
    raise ValueError("it is of an unknown version of torch.save")
  system = _unpickled(file)
  order = "<" if system["little_endian"] is True else ">"
  storages = {}
  tree = _unpickled(file, storages)
  data = {}
  for key in _unpickled(file):
    length = storages[key].length
    file.read(8)  # how many items, once more
    if length > file.size() - file.tell():
      raise ValueError(f"storage {key!r} reaches beyond the file")
    budget.take(length, key)
    data[key] = file.read(length)
  return _arrays(tree, lambda storage: data[storage.key], order, budget)


# --- pickles ------------------------------------------------------------------


_MARK = object()
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
# Operations whose argument is what they push.
_VALUES = frozenset(
  {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
  }
)


def _unpickled(file, storages: dict | None = None):
  """Walks through one pickle of a file, up to its end.

  Args:
    file: open for reading, at the pickle's first byte.
    storages: is given those that the pickle refers to, by their keys.

  Returns:
    What it makes, of None, bool, int, float, str, bytes, list, tuple, dict and
    this module's own marks.
  """
  stack, memo = [], {}

  def marked():
    """Takes what stands above the last mark, and the mark."""
    at = len(stack) - 1
    while stack[at] is not _MARK:
      at -= 1
      if at < 0:
        raise ValueError("its pickle has no mark")
    values = stack[at + 1 :]
    del stack[at:]
    return values

  def take(count):
    if len(stack) < count:
      raise ValueError("its pickle takes more than it has")
    values = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return values

  for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
    if number == _MAX_OPERATIONS:
      raise ValueError(f"its pickle has over {_MAX_OPERATIONS} operations")
    name = operation.name
    if name in _VALUES:
      stack.append(argument)
    elif name in _LITERALS:
      stack.append(_LITERALS[name])
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name in ("PROTO", "FRAME"):
      pass
    elif name == "STOP":
      return take(1)[0]
    elif name == "MARK":
      stack.append(_MARK)
    elif name == "POP":
      take(1)
    elif name == "POP_MARK":
      marked()
    elif name == "DUP":
      stack.append(stack[-1])
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
      memo[argument] = stack[-1]
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
      stack.append(memo[argument])
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
      stack.append(tuple(take(int(name[-1]))))
    elif name == "TUPLE":
      stack.append(tuple(marked()))
    elif name == "LIST":
      stack.append(marked())
    elif name == "DICT":
      stack.append(_filled({}, marked()))
    elif name == "APPEND":
      _extend(stack[-2], take(1))
    elif name == "APPENDS":
      values = marked()
      _extend(stack[-1], values)
    elif name == "SETITEM":
      _filled(stack[-3], take(2))
    elif name == "SETITEMS":
      values = marked()
      _filled(stack[-1], values)
    elif name in ("GLOBAL", "INST"):
      found = _Name(argument.replace(" ", "."))
      if name == "INST":
        marked()
        found = _of(found)
      stack.append(found)
    elif name == "STACK_GLOBAL":
      module, attribute = take(2)
      if not isinstance(module, str) or not isinstance(attribute, str):
        raise ValueError("its pickle names what is no name")
      stack.append(_Name(f"{module[:_MAX_NAME]}.{attribute[:_MAX_NAME]}"))
    elif name == "REDUCE":
      function, arguments = take(2)
      stack.append(_call(function, arguments))
    elif name in ("NEWOBJ", "NEWOBJ_EX"):
      kind, arguments = take(3 if name == "NEWOBJ_EX" else 2)[:2]
      stack.append(_new(kind, arguments))
    elif name == "OBJ":
      kind, *_ = marked()
      stack.append(_of(kind))
    elif name == "BUILD":  # attributes, which none of ours has
      take(1)
    elif name in ("EMPTY_SET", "FROZENSET"):
      if name == "FROZENSET":
        marked()
      stack.append(_Foreign("set"))
    elif name == "ADDITEMS":
      marked()
    elif name in ("EXT1", "EXT2", "EXT4"):
      stack.append(_Name(f"copyreg.extension{argument}"))
    elif name in ("PERSID", "BINPERSID") and storages is None:
      stack.append(_storage(take(1)[0] if name == "BINPERSID" else None))
    elif name in ("PERSID", "BINPERSID"):
      found = _storage(take(1)[0] if name == "BINPERSID" else None)
      stack.append(storages.setdefault(found.key, found))
    else:
      raise ValueError(f"its pickle has the operation {name}")
  raise ValueError("its pickle has no end")


def _extend(container, values) -> None:
  if isinstance(container, list):
    container.extend(values)


def _filled(container, values):
  """Sets items: key, value, key, value; those of a strange key get lost."""
  if isinstance(container, dict):
    for key, value in zip(values[::2], values[1::2], strict=True):
      # Others' hashes, of tuples in tuples in tuples, never end.
      if isinstance(key, (str, bool, int, float, bytes, type(None))):
        container[key] = value
  return container


def _of(kind, called=True) -> _Foreign:
  name = getattr(kind, "name", type(kind).__name__)
  name = untrusted.shown(name)
  if re.fullmatch(r"torch\._utils\._rebuild_\w+", name):
    return _Foreign(f"a tensor of another kind, {name}")
  words = f"{_RETURNED}{name}" if called else f"{_OBJECT}{name}"
  return _Foreign(words)


def _new(kind, arguments):
  if isinstance(kind, _Name) and kind.name in _DICTIONARIES:
    return {}
  return _of(kind, called=False)


def _call(function, arguments):
  """Returns what a call means here; a mark if it has no meaning."""
  meaning = None
  if isinstance(function, _Name) and isinstance(arguments, tuple):
    # One long tuple, in a million calls, is a million million arguments.
    if len(arguments) <= _MAX_ARGUMENTS:
      meaning = _CALLS.get(function.name)
  if meaning is None:
    return _of(function)
  return meaning(*arguments)


# --- what a few names mean ----------------------------------------------------


def _dictionary(pairs=(), *_):
  """OrderedDict(), or of a list of pairs, as Python 2 wrote it."""
  found = {}
  if isinstance(pairs, list):
    for pair in pairs:
      if isinstance(pair, (list, tuple)) and len(pair) == 2:
        _filled(found, pair)
    pairs.clear()  # so that no other call goes over them, too
  return found


def _storage(given) -> _Storage:
  """Reads a persistent id: ("storage", type, key, location, items, ...)."""
  if not isinstance(given, tuple) or len(given) not in (5, 6):
    raise ValueError("it refers to something that is no storage")
  if given[5:] not in ((), (None,)):
    raise ValueError("its storages are views of others (PyTorch before 0.4)")
  _, kind, key, _, count = given[:5]
  kind = kind.name.rpartition(".")[2].removesuffix("Storage")
  if type(count) is not int or count < 0 or not isinstance(key, str):
    raise ValueError("a storage has no number of items")
  if kind == "Untyped":
    return _Storage(key, None, count)
  if kind in _OTHERS:
    dtype = np.dtype((np.void, _OTHERS[kind]))
  else:
    dtype = np.dtype(_DTYPES[kind])
  return _Storage(key, dtype, count * dtype.itemsize)


def _tensor(storage, offset, shape, strides, *rest, dtype=None):
  """torch._utils._rebuild_tensor and _v2."""
  if not isinstance(storage, _Storage):
    return _Foreign("a tensor without a storage")
  dtype = dtype or storage.dtype
  if dtype is None or dtype.kind == "V" and dtype != jnp.bfloat16:
    return _Foreign("a tensor of complex or quantized numbers")
  if any(isinstance(one, Mapping) and one for one in rest[2:]):
    return _Foreign("a tensor with a negative bit or metadata")
  if len(shape) != len(strides) or len(shape) > _MAX_AXES:
    raise ValueError(f"a tensor has {len(shape)} axes, {len(strides)} strides")
  shape, strides = tuple(shape), tuple(strides)
  for number in (offset, *shape, *strides):
    if type(number) is not int or number < 0:
      raise ValueError("a tensor's sizes are no natural numbers")
  last = sum((n - 1) * stride for n, stride in zip(shape, strides))
  if 0 not in shape:
    if (offset + last + 1) * dtype.itemsize > storage.length:
      raise ValueError(
        f"a tensor of shape {untrusted.shown(shape)} reaches beyond its "
        f"storage of {storage.length} bytes"
      )
  return _Tensor(storage, dtype, offset, shape, strides)


def _tensor_of_dtype(storage, offset, shape, strides, *rest):
  """torch._utils._rebuild_tensor_v3: its dtype after the hooks."""
  name = getattr(rest[2], "name", "").removeprefix("torch.")
  if name not in _NAMED:
    return _Foreign(f"a tensor of {untrusted.shown(name)}")
  rest = [*rest[:2], *rest[3:]]
  dtype = np.dtype(_NAMED[name])
  return _tensor(storage, offset, shape, strides, *rest, dtype=dtype)


def _parameter(tensor, *_):
  return tensor


def _of_type(function, kind, arguments, *_):
  """torch._tensor._rebuild_from_type_v2: a subclass, as a plain tensor."""
  del kind
  return _call(function, arguments)


def _size(values=(), *_):
  return values


_DICTIONARIES = ("collections.OrderedDict", "builtins.dict")
_CALLS: dict[str, Callable] = {
  "collections.OrderedDict": _dictionary,
  "collections.defaultdict": lambda *_: {},
  "builtins.dict": _dictionary,
  "torch.Size": _size,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
  "torch._tensor._rebuild_from_type_v2": _of_type,
}


# --- arrays -------------------------------------------------------------------


_SHOWN = (Mapping, list, tuple, _Tensor, _Foreign, _Name)


def _leaves(tree, budget) -> Iterator[tuple[str, object]]:
  """Yields (path, tensor or mark) of a tree, which may be a net or a ring."""
  waiting, known = [("", tree, 0)], {}
  while waiting:
    path, value, depth = waiting.pop()
    if depth > _MAX_DEPTH:
      raise ValueError(f"its dictionaries are more than {_MAX_DEPTH} deep")
    if not isinstance(value, (Mapping, list, tuple)):
      yield path, value
      continue
    budget.take(256, "its dictionaries")
    if id(value) not in known:  # the same may be in many places
      mapped = isinstance(value, Mapping)
      known[id(value)] = [
        item
        for item in (value.items() if mapped else enumerate(value))
        if isinstance(item[1], _SHOWN)
      ]
    for key, inner in reversed(known[id(value)]):
      longer = f"{path}/{key}" if depth else str(key)
      budget.take(len(longer) + 256, "its dictionaries")
      waiting.append((longer, inner, depth + 1))


def _arrays(tree, load, order, budget):
  """Returns (arrays, what was left out).

  Args:
    tree: of `_unpickled`.
    load: storage -> its bytes.
    order: of the bytes, "<" or ">".
    budget: of the file.
  """
  arrays, left_out, loaded = {}, {}, {}
  for path, value in _leaves(tree, budget):
    if isinstance(value, _Name):
      left_out[path] = untrusted.shown(value.name)
    elif isinstance(value, _Foreign):
      left_out[path] = value.words
    elif isinstance(value, _Tensor):
      key = value.storage.key
      if key not in loaded:
        loaded[key] = np.frombuffer(bytearray(load(value.storage)), np.uint8)
      arrays[path] = _array(value, loaded[key], order, budget, path)
  return arrays, left_out


def _array(tensor, data, order, budget, path) -> np.ndarray:
  """Makes a contiguous array of a view."""
  dtype = tensor.dtype
  whole = data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype)
  if 0 in tensor.shape:
    whole = np.zeros(tensor.shape, dtype)
  else:
    whole = np.lib.stride_tricks.as_strided(
      whole[tensor.offset :],
      tensor.shape,
      [stride * dtype.itemsize for stride in tensor.strides],
    )
  # Also of one that costs nothing yet: a file may name the same many times.
  budget.take(whole.size * max(dtype.itemsize, 4), path)
  if order == ">":
    whole = whole.byteswap()
  if dtype == jnp.bfloat16:
    return whole.astype(np.float32)
  return np.ascontiguousarray(whole).reshape(tensor.shape)

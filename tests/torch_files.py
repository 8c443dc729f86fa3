"""PyTorch's files, written byte by byte: no PyTorch is needed."""

import dataclasses
import struct
import zipfile
from collections.abc import Sequence

import numpy as np

_STORAGES = {
  "float64": "Double",
  "float32": "Float",
  "float16": "Half",
  "bfloat16": "BFloat16",
  "int64": "Long",
  "int32": "Int",
  "uint8": "Byte",
  "bool": "Bool",
}


@dataclasses.dataclass
class Global:
  """A name that unpickling would look up."""

  name: str


@dataclasses.dataclass
class Call:
  """What unpickling would get by a call."""

  name: str
  arguments: Sequence


@dataclasses.dataclass
class Instance:
  """An object that unpickling would make, and give its state."""

  name: str
  state: object


@dataclasses.dataclass
class Tensor:
  """A tensor whose sizes may be anything; None: those of the array."""

  array: np.ndarray
  shape: object = None
  strides: object = None
  offset: object = 0
  count: object = None
  key: str | None = None


@dataclasses.dataclass
class Raw:
  """Operations as they are."""

  operations: bytes


class Writer:
  """Pickles trees, and keeps the storages of their tensors."""

  def __init__(self):
    self.storages = {}

  def dump(self, tree) -> bytes:
    """Returns a pickle of protocol 2."""
    return b"\x80\x02" + self.operations(tree) + b"."

  def operations(self, value) -> bytes:
    """Returns the operations that make a value."""
    match value:
      case None:
        return b"N"
      case bool():
        return b"\x88" if value else b"\x89"
      case int():
        data = value.to_bytes(
          value.bit_length() // 8 + 1, "little", signed=True
        )
        return b"\x8a" + bytes([len(data)]) + data
      case float():
        return b"G" + struct.pack(">d", value)
      case str():
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
      case tuple():
        return b"(" + b"".join(map(self.operations, value)) + b"t"
      case list():
        return b"](" + b"".join(map(self.operations, value)) + b"e"
      case dict():
        pairs = [one for pair in value.items() for one in pair]
        return b"}(" + b"".join(map(self.operations, pairs)) + b"u"
      case Raw():
        return value.operations
      case Global():
        module, _, name = value.name.rpartition(".")
        return b"c" + f"{module}\n{name}\n".encode()
      case Call():
        name = self.operations(Global(value.name))
        return name + self.operations(tuple(value.arguments)) + b"R"
      case Instance():
        name = self.operations(Global(value.name))
        return name + b")\x81" + self.operations(value.state) + b"b"
      case Tensor():
        return self._tensor(value)
    return self._tensor(Tensor(np.asarray(value)))

  def _tensor(self, tensor):
    array = tensor.array
    key = tensor.key or str(len(self.storages))
    self.storages[key] = array
    shape = array.shape if tensor.shape is None else tensor.shape
    strides = tensor.strides
    if strides is None:
      strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    kind = Global(f"torch.{_STORAGES[array.dtype.name]}Storage")
    count = array.size if tensor.count is None else tensor.count
    storage = ("storage", kind, key, "cpu", count)
    storage = Raw(self.operations(storage) + b"Q")
    hooks = Call("collections.OrderedDict", ())
    arguments = (storage, tensor.offset, shape, strides, False, hooks)
    return self.operations(Call("torch._utils._rebuild_tensor_v2", arguments))


def write(path, tree, *, compression=zipfile.ZIP_STORED, more=()):
  """Writes a file as torch.save does.

  Args:
    path: of the file.
    tree: dictionaries, lists and arrays, and this module's marks.
    compression: of the zip; PyTorch's own are stored.
    more: further (member, bytes).
  """
  writer = Writer()
  members = [("data.pkl", writer.dump(tree)), ("byteorder", b"little")]
  members += [("version", b"3\n"), *more]
  members += [(f"data/{k}", x.tobytes()) for k, x in writer.storages.items()]
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, data in members:
      archive.writestr(f"archive/{name}", data)
  return path


def write_old(path, tree):
  """Writes a file as torch.save did before PyTorch 1.6."""
  writer = Writer()
  head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
  data = b"".join(map(writer.dump, head))
  tree = Raw(writer.operations(tree).replace(b"tQ", b"NtQ"))  # no view
  data += writer.dump(tree) + writer.dump(list(writer.storages))
  for array in writer.storages.values():
    data += struct.pack("<q", array.size) + array.tobytes()
  path.write_bytes(data)
  return path

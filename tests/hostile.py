"""Weight files that lie, by format: what they are called -> their bytes.

Each is written from scratch, by struct, zipfile and pickle's operations.
"""

import io
import json
import os
import pickle
import socket
import struct
import zipfile

import numpy as np

from genrep_jax.lib.contrib import crc32c
from tests import torch_files
from tests.lib import test_tensor_bundle as bundles

FOUR_TB = 1 << 42
HUGE = 1 << 70
ONE = np.ones((2, 3), np.float32)
DATA = ONE.tobytes()
PADDED = b"padding" + DATA


def packed(members, method=zipfile.ZIP_STORED) -> bytes:
  """A zip of (name, bytes)."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", method) as archive:
    for name, data in members:
      archive.writestr(name, data)
  return buffer.getvalue()


def patched(data: bytes, *, offset_in_local, offset_in_central, form, value):
  """A zip whose every member says something else about itself."""
  changed = bytearray(data)
  for magic, offset in (
    (b"PK\x03\x04", offset_in_local),
    (b"PK\x01\x02", offset_in_central),
  ):
    at = changed.find(magic)
    while at >= 0:
      struct.pack_into(form, changed, at + offset, value)
      at = changed.find(magic, at + 4)
  return bytes(changed)


def sized(data: bytes, size: int) -> bytes:
  """Members that claim to hold so many bytes."""
  return patched(
    data, offset_in_local=22, offset_in_central=24, form="<I", value=size
  )


def encrypted(data: bytes) -> bytes:
  return patched(
    data, offset_in_local=6, offset_in_central=8, form="<H", value=1
  )


def method(data: bytes, number: int) -> bytes:
  return patched(
    data, offset_in_local=8, offset_in_central=10, form="<H", value=number
  )


# --- .npz ---------------------------------------------------------------------


def npy(shape="(2, 3)", descr="'<f4'", data=DATA, more="") -> bytes:
  """One array with any header."""
  header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{more}"
  header = (header + "}\n").encode()
  return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def objects() -> bytes:
  """An array of one object."""
  buffer = io.BytesIO()
  np.save(buffer, np.array([{}], object), allow_pickle=True)
  return buffer.getvalue()


def npz_files() -> dict[str, bytes]:
  good = packed([("a.npy", npy())])
  zeros = npy("(20000000,)", data=bytes(80_000_000))
  files = {
    "empty zip": packed([]),
    "npy": npy(),
    "objects": packed([("a.npy", objects())]),
    "encrypted": encrypted(good),
    "method 99": method(good, 99),
    "not deflated": method(good, 8),
    "lzma": packed([("a.npy", npy())], zipfile.ZIP_LZMA),
    "zip in zip": packed([("a.npz", good)]),
    "zip as npy": packed([("a.npy", good)]),
    "raw": packed([("a", b"\0" * 24), ("b.bin", b"\1")]),
    "raw as npy": packed([("a.npy", b"\0" * 24)]),
    "empty npy": packed([("a.npy", b"")]),
    "cut npy": packed([("a.npy", npy()[:-5])]),
    "4 TB": packed([("a.npy", npy(f"({FOUR_TB // 4},)"))]),
    "2**70": packed([("a.npy", npy(f"({HUGE},)"))]),
    "negative": packed([("a.npy", npy("(-1, -6)"))]),
    "many axes": packed([("a.npy", npy("(" + "1," * 70 + "6)"))]),
    "deep": packed([("a.npy", npy("(" * 150 + ")" * 150))]),
    "minus": packed([("a.npy", npy("-" * 5000 + "1"))]),
    "long header": packed([("a.npy", npy(more=", 'x': '" + "y" * 60000))]),
    "no shape": packed([("a.npy", npy("None"))]),
    "no dtype": packed([("a.npy", npy(descr="'<q9'"))]),
    "complex": packed([("a.npy", npy(descr="'<c8'", data=bytes(48)))]),
    "text": packed([("a.npy", npy(descr="'<U2'", data=bytes(48)))]),
    "void": packed([("a.npy", npy(descr="'|V2000000000'"))]),
    "record": packed([("a.npy", npy(descr="[('a', '<f4')]"))]),
    "record of objects": packed([("a.npy", npy(descr="[('a', '|O')]"))]),
    "code": packed([("a.npy", npy("__import__('os').system('true')"))]),
    "version 9": packed([("a.npy", npy().replace(b"Y\1\0", b"Y\x09\0"))]),
    "bomb": packed([("a.npy", zeros)], zipfile.ZIP_DEFLATED),
    "claims 4 GB": sized(good, 2**32 - 2),
    "claims 4 GB, deflated": sized(
      packed([("a.npy", npy())], zipfile.ZIP_DEFLATED), 2**32 - 2
    ),
    "cut": good[:-30],
    "head only": good[:40],
    "twice": _quiet_twice(),
    "new line": packed([("a\n\x1b[31m.npy", npy())]),
  }
  return files


def _quiet_twice():
  data = packed([("a.npy", npy()), ("b.npy", npy())])
  return data.replace(b"b.npy", b"a.npy")


# --- PyTorch ------------------------------------------------------------------


def ran(marker) -> list:
  """Calls that would leave a file: (name, arguments)."""
  touch = f"open({str(marker)!r}, 'w')"
  return [
    ("os.system", (f"touch '{marker}'",)),
    ("posix.system", (f"touch '{marker}'",)),
    ("subprocess.Popen", (["touch", str(marker)],)),
    ("builtins.eval", (touch,)),
    ("builtins.exec", (touch,)),
    ("builtins.open", (str(marker), "w")),
    ("builtins.getattr", (torch_files.Global("os"), "system")),
    ("torch.hub.load_state_dict_from_url", (f"file://{marker}",)),
    ("torch.load", (str(marker),)),
    ("runpy.run_path", (str(marker),)),
    ("functools.partial", (torch_files.Global("os.system"), "true")),
    ("torch._utils._rebuild_tensor_v2.__globals__", ()),
    ("pathlib.Path.touch", (torch_files.Call("pathlib.Path", (str(marker),)),)),
  ]


def pickles(marker) -> dict[str, bytes]:
  """Bare pickles of every protocol that would leave a file."""

  class Evil:
    def __reduce__(self):
      return exec, (f"open({str(marker)!r}, 'w')",)

  made = {f"protocol {i}": pickle.dumps({"g_ema": Evil()}, i) for i in range(6)}
  for i in (2, 4):
    made[f"bare {i}"] = pickle.dumps(Evil(), i)
  dump = torch_files.Writer().dump
  path = f"touch '{marker}'".encode()
  made["INST"] = b"\x80\x02(X" + struct.pack("<I", len(path)) + path
  made["INST"] += b"ios\nsystem\n."
  made["OBJ"] = made["INST"].replace(b"\x80\x02(", b"\x80\x02(cos\nsystem\n")
  made["OBJ"] = made["OBJ"].replace(b"ios\nsystem\n", b"o")
  made["plain"] = dump({"x": 1})
  return made


def laughs(depth: int, wide: int = 2) -> torch_files.Raw:
  """Lists of the same list, of the same list, ...; or dictionaries."""
  made = b"]"
  for i in range(depth):
    put = b"r" + struct.pack("<I", i)
    made += put + b"0](" + (b"j" + struct.pack("<I", i)) * wide + b"e"
  return torch_files.Raw(made)


def torch_trees(marker) -> dict[str, object]:
  """Trees that a PyTorch file may hold, beside nothing."""
  tensor, call = torch_files.Tensor, torch_files.Call
  raw, writer = torch_files.Raw, torch_files.Writer()
  deep = raw(b"}" * 3000 + b"X\1\0\0\0aN" + b"s" + b"X\1\0\0\0a\x86" * 0)
  nested = b"}"
  for _ in range(3000):
    nested = b"}X\1\0\0\0a" + nested + b"s"
  several = b"(" + writer.operations("a") * 1 + b"l"
  many = b"](" + b"K\1" * 5000 + b"eq\0"
  trees = {
    "cyclic": raw(b"}q\0X\1\0\0\0ah\0s"),
    "cyclic list": raw(b"]q\0h\0a"),
    "deep": raw(nested),
    "unbalanced": deep,
    "laughs": {"a": laughs(60)},
    "wide laughs": {"a": laughs(5, 200)},
    "laughing tuple as a key": raw(
      b"N" + b"".join(b"2\x86" for _ in range(100)) + b"q\0}h\0K\1s"
    ),
    "laughing name": raw(b"N" + b"2\x86" * 60 + b"2\x93"),
    "aliased list": raw(many + b"0](" + b"h\0" * 20000 + b"e"),
    "aliased pairs": raw(
      many + b"0(" + b"ccollections\nOrderedDict\nh\0\x85R" * 5000 + b"l"
    ),
    "aliased sizes": raw(
      many + b"0(" + b"ctorch\nSize\nh\0\x85R" * 5000 + b"l"
    ),
    "memo": raw(b"Kar\xff\xff\xff\xff"),
    "no memo": raw(b"h\7"),
    "no mark": raw(b"t"),
    "marks": raw(b"(" * 1000),
    "empty stack": raw(b"0"),
    "no end": raw(b"X\xff\xff\xff\xffa"),
    "long bytes": raw(b"\x8e" + struct.pack("<Q", 1 << 62) + b"a"),
    "long number": raw(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a"),
    "long text": raw(b"I" + b"1" * 100_000 + b"\n"),
    "extension": raw(b"\x82\1"),
    "buffer": raw(b"\x97"),
    "persistent": raw(b"X\1\0\0\0aQ"),
    "persistent text": raw(b"Pstorage\n"),
    "shared": raw(several),
    "million": raw(b"N0" * 300_000 + b"N"),
    "sparse": {"a": call("torch._utils._rebuild_sparse_tensor", (1, ()))},
    "quantized": {"a": call("torch._utils._rebuild_qtensor", (ONE, 1))},
    "nested": {"a": call("torch._utils._rebuild_nested_tensor", (ONE, ONE))},
    "meta": {
      "a": call("torch._utils._rebuild_meta_tensor_no_storage", (None, (9,)))
    },
    "wrapper": {"a": call("torch._utils._rebuild_wrapper_subclass", (ONE,))},
    "numpy": {"a": call("numpy._core.multiarray._reconstruct", (None, (0,)))},
    "huge shape": {"a": tensor(ONE, (HUGE,), (1,))},
    "expanded": {"a": tensor(ONE, (1 << 20, 1 << 20), (0, 0))},
    "expanded past": {"a": tensor(ONE, (1 << 40, 1 << 40), (0, 0))},
    "overlapping": {"a": tensor(ONE, (5, 2), (1, 1))},
    "huge strides": {"a": tensor(ONE, (2,), (HUGE,))},
    "negative": {"a": tensor(ONE, (2,), (-1,), 3)},
    "before": {"a": tensor(ONE, (2,), (1,), -1)},
    "beyond": {"a": tensor(ONE, (2, 3), offset=1)},
    "huge count": {"a": tensor(ONE, (1 << 40,), (1,), count=1 << 40)},
    "no number": {"a": tensor(ONE, ("2", 3), (1, 1))},
    "axes": {"a": tensor(ONE, (1,) * 70, (1,) * 70)},
    "few strides": {"a": tensor(ONE, (2, 3), (1,))},
    "empty but huge": {"a": tensor(ONE, (0, HUGE), (1, 1))},
    "key of a folder": {"a": tensor(ONE, key="../../etc/passwd")},
    "keys": {"a\n\x1b[31m": ONE, "\ud800": 1, "b" * 100_000: ONE},
    "nothing": {},
    "a number": 5,
  }
  for name, arguments in ran(marker):
    trees[f"runs {name}"] = {"g_ema": call(name, arguments)}
  trees["setstate"] = torch_files.Instance("tests.hostile.Namespace", {"a": 1})
  return trees


def torch_archives() -> dict[str, bytes]:
  """Zips as PyTorch writes them, that lie as zips."""
  pickled = torch_files.Writer().dump({"a": torch_files.Tensor(ONE)})
  members = [("x/data.pkl", pickled), ("x/data/0", ONE.tobytes())]
  good = packed(members)
  bomb = [("x/data.pkl", pickled[:-1] + b" " * 0 + b"0" * 0 + b".")]
  bomb += [("x/data/0", bytes(80_000_000))]
  return {
    "encrypted": encrypted(good),
    "method": method(good, 12),
    "deflated": packed(members, zipfile.ZIP_BZIP2),
    "two": packed([*members, ("y/data.pkl", pickled)]),
    "no storage": packed(members[:1]),
    "short storage": packed([members[0], ("x/data/0", b"\0")]),
    "bomb": packed(bomb, zipfile.ZIP_DEFLATED),
    "bomb of operations": packed(
      [("x/data.pkl", b"\x80\x02" + b"]" * 20_000_000 + b".")],
      zipfile.ZIP_DEFLATED,
    ),
    "byteorder": packed([*members, ("x/byteorder", b"middle")]),
    "claims": sized(good, 2**32 - 2),
    "empty pickle": packed([("x/data.pkl", b"")]),
    "text": packed([("x/data.pkl", b"no pickle")]),
    "cut": good[: len(good) // 2],
    "code": packed(
      [
        *members,
        ("x/code/__torch__.py", b"import os"),
        ("x/constants.pkl", b""),
      ]
    ),
  }


# --- safetensors --------------------------------------------------------------


def safetensors(header, data=DATA, length=None) -> bytes:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(text) if length is None else length
  return struct.pack("<Q", length) + text + data


def safetensors_files() -> dict[str, bytes]:
  tensor = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
  good = {"a": tensor}
  deep = b"[" * 100_000 + b"]" * 100_000
  files = {
    "deep header": safetensors(b'{"a":' + deep + b"}"),
    "unclosed": safetensors(b'{"a":' * 100_000),
    "length": safetensors(good, length=2**63),
    "length past": safetensors(good, length=1000),
    "short": safetensors(good, length=3),
    "no tensors": safetensors({}, b""),
    "twice": safetensors(
      b'{"a":'
      + (json.dumps(tensor).encode() + b',"a":') * 1
      + json.dumps(tensor).encode()
      + b"}"
    ),
    "cut": safetensors(good)[:-1],
    "too long": safetensors(good) + b"\0",
    "no text": safetensors(b'{"\xff\xfe": 1}'),
    "nan": safetensors(b'{"a": NaN}'),
  }
  for i, value in enumerate((5, [], None, "x", [[[]]], True)):
    text = json.dumps(value).encode()
    files[f"header {i}"] = safetensors(text)
    files[f"padded header {i}"] = safetensors(b"{" + text)
    files[f"metadata {i}"] = safetensors({"__metadata__": value, **good})
    files[f"metadata key {i}"] = safetensors(
      {"__metadata__": {"genrep_jax": value}, **good}
    )
    files[f"our metadata {i}"] = safetensors(
      {"__metadata__": {"genrep_jax": json.dumps(value)}, **good}
    )
    files[f"generator {i}"] = safetensors(
      {"__metadata__": {"genrep_jax": f'{{"generator": {text.decode()}}}'}}
      | good
    )
    files[f"name {i}"] = safetensors(
      {
        "__metadata__": {
          "genrep_jax": f'{{"generator": {{"name": {text.decode()}}}}}'
        }
      }
      | good
    )
    files[f"entry {i}"] = safetensors({"a": value})
    for key in tensor:
      files[f"{key} {i}"] = safetensors({"a": tensor | {key: value}})
  files["deep metadata"] = safetensors(
    b'{"__metadata__":{"genrep_jax":"' + deep + b'"}}'
  )
  files["rather deep metadata"] = safetensors(
    b'{"__metadata__":{"genrep_jax":"{\\"generator\\":{\\"widths\\":'
    + b"[" * 900
    + b"]" * 900
    + b'}}"},'
    + json.dumps(good).encode()[1:]
  )
  for name, change in {
    "4 TB": {"shape": [FOUR_TB], "data_offsets": [0, 4 * FOUR_TB]},
    "2**70": {"shape": [HUGE]},
    "empty but huge": {"shape": [0, 2**63], "data_offsets": [0, 0]},
    "overflow": {"shape": [2**32, 2**32]},
    "negative": {"shape": [-2, -3]},
    "backwards": {"data_offsets": [24, 0]},
    "float": {"shape": [2.0, 3]},
    "F8": {"dtype": "F8_E4M3"},
    "C64": {"dtype": "C64", "shape": [3]},
    "axes": {"shape": [1] * 70 + [6]},
  }.items():
    files[name] = safetensors({"a": tensor | change})
  return files


# --- TensorFlow ---------------------------------------------------------------


def sealed(content: bytes) -> bytes:
  """A block of an index, with its checksum."""
  content += b"\0"
  return content + struct.pack("<I", crc32c.masked(crc32c.crc32c(content)))


def index(blocks, handles) -> bytes:
  """A table of ready-made blocks; handles: indices of blocks, in any order."""
  file, places = b"", []
  for one in blocks:
    places.append(bundles.varint(len(file)) + bundles.varint(len(one) - 5))
    file += one
  top = b"".join(
    b"\0\1" + bundles.varint(len(places[i])) + b"k" + places[i] for i in handles
  )
  top = sealed(top + struct.pack("<2I", 0, 1))
  meta = sealed(struct.pack("<2I", 0, 1))
  footer = b""
  for one in (meta, top):
    footer += bundles.varint(len(file)) + bundles.varint(len(one) - 5)
    file += one
  return file + footer.ljust(40, b"\0") + bundles._MAGIC


def pairs(*entries) -> bytes:
  """A block of (shared bytes, rest of the key, value)."""
  content = b"".join(
    bundles.varint(shared)
    + bundles.varint(len(key))
    + bundles.varint(len(value))
    + key
    + value
    for shared, key, value in entries
  )
  return sealed(content + struct.pack("<2I", 0, 1))


def bundle_files(folder) -> dict[str, str]:
  """Writes TensorFlow checkpoints that lie; returns their prefixes."""
  header = bundles.field(1, 1) + bundles.field(3, bundles.field(1, 1))
  one = bundles.entry(ONE, 1, 0, 7)
  made = {}

  def add(name, content, data=PADDED):
    prefix = folder / name.replace(" ", "_")
    prefix.with_name(prefix.name + ".index").write_bytes(content)
    if data is not None:
      shard = prefix.with_name(prefix.name + ".data-00000-of-00001")
      shard.write_bytes(data)
    made[name] = prefix
    return prefix

  def whole(*entries, head=header):
    return index([pairs((0, b"", head), *entries)], [0])

  add("2**63 shards", whole((0, b"a", one), head=bundles.field(1, 2**63)))
  block = pairs(*[(0, f"{i:05d}".encode(), one) for i in range(500)])
  add(
    "one block, 20,000 times",
    index([pairs((0, b"", header)), block], [0] + [1] * 20_000),
  )
  # Nothing but 100,000 restarts: no key is out of order.
  wide = sealed(bytes(400_000) + struct.pack("<I", 100_000))
  add(
    "empty block, 20,000 times",
    index([pairs((0, b"", header)), wide], [0] + [1] * 20_000),
  )
  long = b"k" * 30_000
  add(
    "long keys",
    whole((0, long, one), *[(len(long) + i, b"a", one) for i in range(8_000)]),
  )
  add(
    "one tensor, many names",
    whole(*[(0, f"{i:05d}".encode(), one) for i in range(3000)]),
  )
  for name, value in {
    "size 2**62": bundles.field(5, 2**62),
    "offset 2**63": bundles.field(4, 2**63),
    "shape 2**63": bundles.field(2, bundles.field(2, bundles.field(1, 2**63))),
    "4 TB": bundles.field(2, bundles.field(2, bundles.field(1, FOUR_TB)))
    + bundles.field(5, 4 * FOUR_TB),
    "axes": bundles.field(2, bundles.field(2, bundles.field(1, 3)) * 20_000),
    "dtype": bundles.field(1, 99),
    "shard": bundles.field(3, 2**40),
    "shape of text": bundles.field(2, b"\xff" * 30),
    "checksum": bundles.field(6, 7),
  }.items():
    add(name, whole((0, b"a", one + value)))
  add("name", whole((0, b"\xff\xfe", one)))
  add("line", whole((0, b"a\n\x1b[31m", one)))
  add("empty index", b"")
  add("footer only", bytes(40) + bundles._MAGIC)
  add("header of text", whole(head=bundles.field(1, b"?")))
  add("no data", whole((0, b"a", one)), None)
  for name in ("fifo", "socket", "folder", "link", "device"):
    prefix = add(f"{name} as data", whole((0, b"a", one)), None)
    special(prefix.with_name(prefix.name + ".data-00000-of-00001"), name)
    prefix = folder / f"{name}_as_index"
    special(prefix.with_name(prefix.name + ".index"), name)
    made[f"{name} as index"] = prefix
  return made


def special(path, kind: str):
  """Makes what is no file."""
  if kind == "fifo":
    os.mkfifo(path)
  elif kind == "socket":
    with socket.socket(socket.AF_UNIX) as one:
      here = os.getcwd()
      os.chdir(path.parent)  # a socket's path may be 100 characters long
      try:
        one.bind(path.name)
      finally:
        os.chdir(here)
  elif kind == "folder":
    path.mkdir()
  elif kind == "link":
    path.symlink_to(path.with_name("nowhere"))
  elif kind == "device":
    path.symlink_to("/dev/zero")
  elif kind == "empty":
    path.write_bytes(b"")
  elif kind == "ring":
    path.symlink_to(path)
  return path


SPECIAL = ("fifo", "socket", "folder", "link", "device", "empty", "ring")


def write(folder, marker) -> dict[str, object]:
  """Writes every file; returns {format and name: its path}."""
  made = {}

  def add(name, data, suffix):
    path = folder / f"{len(made)}{suffix}"
    path.write_bytes(data)
    made[name] = path

  for name, data in npz_files().items():
    add(f"npz: {name}", data, ".npz")
  for name, data in safetensors_files().items():
    add(f"safetensors: {name}", data, ".safetensors")
  for name, tree in torch_trees(marker).items():
    path = folder / f"{len(made)}.pt"
    made[f"torch: {name}"] = torch_files.write(path, tree)
    path = folder / f"{len(made)}.pth"
    if name != "million":  # once is long enough
      made[f"old torch: {name}"] = torch_files.write_old(path, tree)
  for name, data in torch_archives().items():
    add(f"torch zip: {name}", data, ".pt")
  for name, data in pickles(marker).items():
    add(f"pickle: {name}", data, ".pkl")
    add(f"pickle in a zip: {name}", packed([("x/data.pkl", data)]), ".pt")
  (folder / "tf").mkdir()
  for name, path in bundle_files(folder / "tf").items():
    made[f"tensorflow: {name}"] = path
  for kind in SPECIAL:
    for suffix in (".pt", ".npz", ".safetensors"):
      path = folder / f"{kind}{suffix}"
      made[f"{kind}{suffix}"] = special(path, kind)
  return made

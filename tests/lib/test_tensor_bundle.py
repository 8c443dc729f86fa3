"""TensorFlow checkpoints, written here, by TensorFlow, and damaged."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors
from genrep_jax.lib.contrib import crc32c, tensor_bundle
from tests import fixture_files

_RECORDED = fixture_files.path("tf_bundle")
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_DTYPES = {  # types.proto
  "float32": 1,
  "float64": 2,
  "int32": 3,
  "uint8": 4,
  "int64": 9,
  "bool": 10,
  "bfloat16": 14,
  "float16": 19,
}


# --- a writer -----------------------------------------------------------------


def slow_crc32c(data, crc=0):
  crc ^= 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def checksum(data):
  crc = slow_crc32c(data)
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
  return struct.pack("<I", masked)


def varint(value):
  encoded = b""
  while value >= 0x80:
    encoded += bytes([value & 0x7F | 0x80])
    value >>= 7
  return encoded + bytes([value])


def field(number, value):
  if isinstance(value, bytes):
    return varint(number << 3 | 2) + varint(len(value)) + value
  return varint(number << 3) + varint(value)


def entry(array, dtype, shard, offset, *, extra=b"", shape=None):
  dimensions = b"".join(
    field(2, field(1, size)) for size in (shape or array.shape)
  )
  data = array.tobytes()
  return (
    field(1, dtype)
    + field(2, dimensions)
    + field(3, shard)
    + field(4, offset)
    + field(5, len(data))
    + varint(6 << 3 | 5)
    + checksum(data)
    + extra
  )


def block(pairs, restart_every=3, compression=0):
  content, restarts, last = b"", [], b""
  for i, (key, value) in enumerate(pairs):
    shared = 0
    if i % restart_every:
      while shared < min(len(key), len(last)) and key[shared] == last[shared]:
        shared += 1
    else:
      restarts.append(len(content))
    content += varint(shared) + varint(len(key) - shared) + varint(len(value))
    content += key[shared:] + value
    last = key
  restarts = restarts or [0]
  content += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
  return sealed(content, compression)


def sealed(content, compression=0):
  content += bytes([compression])
  return content + checksum(content)


def table(pairs, per_block=4, blocks=(), **options):
  """A LevelDB table of sorted (key, value), after ready-made blocks."""
  file, handles = b"", []

  def append(one):
    nonlocal file
    handle = varint(len(file)) + varint(len(one) - 5)
    file += one
    return handle

  for one in blocks:
    handles.append((b"", append(one)))
  for i in range(0, len(pairs), per_block):
    some = pairs[i : i + per_block]
    handles.append((some[-1][0] + b"\0", append(block(some, **options))))
  footer = append(block([])) + append(block(handles, restart_every=1))
  return file + footer.ljust(40, b"\0") + _MAGIC


def write(prefix, arrays, shards=2, more=(), header=None, **options):
  """Writes a bundle; `more` are (key, value) pairs for the index."""
  data = [bytearray(b"padding") for _ in range(shards)]
  pairs = list(more)
  for i, (name, array) in enumerate(arrays.items()):
    shard = i % shards
    value = entry(array, _DTYPES[array.dtype.name], shard, len(data[shard]))
    pairs.append((name.encode(), value))
    data[shard] += array.tobytes()
  if header is None:
    header = field(1, shards) + field(3, field(1, 1))
  pairs.append((b"", header))
  prefix.parent.mkdir(parents=True, exist_ok=True)
  index = table(sorted(pairs), **options)
  prefix.with_name(prefix.name + ".index").write_bytes(index)
  for shard, one in enumerate(data):
    file = f"{prefix.name}.data-{shard:05d}-of-{shards:05d}"
    prefix.with_name(file).write_bytes(one)
  return prefix


def some_arrays():
  rng = np.random.default_rng(0)
  arrays = {
    f"Generator/GBlock_{i}/conv{j}/w": rng.normal(size=(3, i, j)).astype("f4")
    for i in range(1, 5)
    for j in range(1, 3)
  }
  return arrays | {
    "counter": np.int64(-7).reshape(()),
    "double": rng.normal(size=5),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False, True]),
    "half": rng.normal(size=4).astype(np.float16),
    "brain": rng.normal(size=(2, 3)).astype(jnp.bfloat16),
    "bytes": np.arange(256, dtype=np.uint8),
    "ints": np.array([[-1], [2**31 - 1]], np.int32),
  }


def same(got, want):
  assert got.keys() == want.keys()
  for name, array in want.items():
    assert got[name].dtype == array.dtype, name
    assert got[name].shape == array.shape, name
    assert got[name].tobytes() == array.tobytes(), name


# --- reading ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("data", "crc"),
  [  # RFC 3720, appendix B.4
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (b"123456789", 0xE3069283),
    (b"", 0),
  ],
)
def test_crc32c_of_the_standard(data, crc):
  assert slow_crc32c(data) == crc  # so the writer's own is right, too
  assert crc32c.crc32c(data) == crc


def test_crc32c_of_every_length_and_over_pieces(monkeypatch):
  monkeypatch.setattr(crc32c, "_PIECE", 8)  # words, 32 bytes
  data = np.random.default_rng(0).integers(0, 256, 140, np.uint8)
  for length in range(len(data)):
    part = data[length % 5 :][:length]
    assert crc32c.crc32c(part) == slow_crc32c(part.tobytes()), length


def test_a_bundle_comes_back_bit_for_bit(tmp_path):
  arrays = some_arrays()
  prefix = write(tmp_path / "model.ckpt-12", arrays)
  same(tensor_bundle.read(prefix), dict(sorted(arrays.items())))
  assert tensor_bundle.list_variables(prefix) == {
    name: (x.shape, x.dtype.name) for name, x in arrays.items()
  }
  picked = tensor_bundle.read(prefix, ["ints", "empty"])
  same(picked, {name: arrays[name] for name in ("ints", "empty")})
  picked["ints"] += 1  # one's own memory


@pytest.mark.parametrize("where", ["prefix", "index", "module", "folder"])
def test_a_path_is_a_prefix_an_index_or_a_folder(tmp_path, where):
  arrays = {"a": np.ones(3, np.float32)}
  prefix = write(tmp_path / "variables" / "variables", arrays, shards=1)
  index = prefix.with_name("variables.index")
  path = {
    "prefix": prefix,
    "index": index,
    "module": tmp_path,
    "folder": tmp_path / "variables",
  }[where]
  same(tensor_bundle.read(str(path)), arrays)
  data = prefix.with_name("variables.data-00000-of-00001")
  assert tensor_bundle.files(path) == [index, data]


# --- what TensorFlow wrote ----------------------------------------------------


def test_a_bundle_that_tensorflow_wrote():
  """Two merged calls of SaveV2 by TensorFlow 2.21; x is arange(12) / 7."""
  x = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
  want = {
    "Generator/accumulation_counter": np.int64(200).reshape(()),
    "Generator/linear/w": x + 1,
    "Generator/linear/w/ema_0.9999": x,
    "empty": np.zeros((0, 3)),
    "half": x[0].astype(jnp.bfloat16),
  }
  same(tensor_bundle.read(_RECORDED / "whole"), want)
  listed = tensor_bundle.list_variables(_RECORDED / "whole")
  assert set(listed) == {*want, "text"} and listed["text"] == ((2,), "string")
  assert len(tensor_bundle.files(_RECORDED / "whole")) == 3


def test_a_partitioned_variable_is_listed_and_refused():
  path = _RECORDED / "sliced"
  assert tensor_bundle.list_variables(path) == {"parts": ((3, 4), "float32")}
  with pytest.raises(errors.UsageError, match="'parts' is partitioned"):
    tensor_bundle.read(path)


def test_what_tensorflow_writes_now(tmp_path):
  tf = pytest.importorskip("tensorflow")
  arrays = some_arrays() | {f"many/{i}": np.full(i, i) for i in range(300)}
  tf.raw_ops.SaveV2(
    prefix=str(tmp_path / "variables" / "variables"),
    tensor_names=list(arrays),
    shape_and_slices=[""] * len(arrays),
    tensors=[tf.constant(x) for x in arrays.values()],
  )
  same(tensor_bundle.read(tmp_path), dict(sorted(arrays.items())))
  # And TensorFlow reads what the writer above wrote.
  prefix = write(tmp_path / "ours", some_arrays())
  reader = tf.train.load_checkpoint(str(prefix))
  same(
    {n: np.asarray(reader.get_tensor(n)) for n in some_arrays()}, some_arrays()
  )


# --- refusing -----------------------------------------------------------------


def refusal(path, names=None):
  with pytest.raises(errors.UsageError) as refused:
    tensor_bundle.read(path, names)
  assert "\n" not in str(refused.value)
  return str(refused.value)


@pytest.fixture
def bundle(tmp_path):
  return write(tmp_path / "b", some_arrays())


def flip(file, position):
  data = bytearray(file.read_bytes())
  data[position] ^= 4
  file.write_bytes(data)


def test_every_damaged_byte_of_an_index_is_seen(tmp_path):
  prefix = write(
    tmp_path / "b", {"aa": np.ones(2), "ab": np.zeros(1)}, per_block=2
  )
  index = tmp_path / "b.index"
  whole = index.read_bytes()
  padding = range(len(whole) - 44, len(whole) - 8)  # handles take four bytes
  for i in range(len(whole)):
    if i not in padding:
      flip(index, i)
      assert f"{index}: is damaged" in refusal(prefix), i
      index.write_bytes(whole)
  for length in range(len(whole)):
    index.write_bytes(whole[:length])
    assert f"{index}: is damaged" in refusal(prefix), length


def test_damage_names_the_file_and_what_it_hurts(bundle):
  index = bundle.with_name("b.index")
  second = bundle.with_name("b.data-00001-of-00002")
  whole = second.read_bytes()
  flip(second, -1)
  line = refusal(bundle)
  assert f"{second}: is damaged: checksum of 'ints' is wrong" in line
  # What is not asked for is not checked.
  assert tensor_bundle.read(bundle, ["double"]).keys() == {"double"}
  second.write_bytes(whole[:-3])
  assert f"{second}: is truncated: 'ints' ends at byte" in refusal(bundle)
  second.unlink()
  assert f"{second}: is missing; it holds" in refusal(bundle)
  with pytest.raises(errors.UsageError, match="00001-of-00002: is missing"):
    tensor_bundle.files(bundle)
  flip(index, 3)
  assert f"{index}: is damaged: checksum of the block at byte 0" in (
    refusal(bundle)
  )


def test_other_files_are_named(bundle, tmp_path):
  index = bundle.with_name("b.index")
  index.write_bytes(bytes(1000))
  assert "ends in 0x0000000000000000, not in an index's" in refusal(bundle)
  index.write_bytes(b"GIT LFS")
  assert "7 bytes are too few" in refusal(bundle)
  index.unlink()
  assert f"{index}: no such file" in refusal(bundle)
  assert "(0 found)" in refusal(tmp_path)


def test_a_variable_that_cannot_be_read_is_named(tmp_path):
  text = entry(np.zeros(4, np.uint8), 7, 0, 0)
  prefix = write(tmp_path / "b", some_arrays(), more=[(b"text", text)])
  # Of all variables, those of strings are left out.
  assert set(tensor_bundle.read(prefix)) == set(some_arrays())
  assert "'text' is of type string, not numbers" in refusal(prefix, ["text"])
  assert "has no variable 'intz'" in refusal(prefix, ["ints", "intz"])


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"compression": 1}, "is compressed (Snappy)"),
    ({"header": field(1, 2) + field(2, 1)}, "big-endian"),
    ({"header": field(1, 2) + field(3, field(2, 9))}, "reader of version 9"),
    ({"header": b""}, "counts 0 data files"),
    ({"header": field(1, b"?")}, "is damaged"),
    ({"more": [(b"a", entry(np.ones(2), 2, 5, 0))]}, "data file 5 of 2"),
    (
      {"more": [(b"a", entry(np.ones(2), 2, 0, 0, shape=(3,)))]},
      "'a', float64 (3,), has 16 bytes",
    ),
    ({"more": [(b"a", b"\x0b")]}, "wire type 3"),
    ({"more": [(b"double", b"")]}, "key b'double' is out of order"),
    # A shared key longer than the last; a value that runs into the restarts;
    # more restarts than the block has room for.
    ({"blocks": [sealed(b"\1\1\0b" + bytes(4) + b"\1\0\0\0")]}, "reaches bey"),
    ({"blocks": [sealed(b"\0\1\4b" + bytes(4) + b"\1\0\0\0")]}, "reaches bey"),
    ({"blocks": [sealed(b"\0\1\0b" + b"\3\0\0\0")]}, "has 3 restarts"),
    ({"blocks": [sealed(b"\xff" * 12 + bytes(4))]}, "longer than ten bytes"),
    ({"more": [(b"\xff", entry(np.ones(2), 2, 0, 0))]}, "can't decode"),
  ],
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path, options, words):
  prefix = write(tmp_path / "b", some_arrays(), **options)
  assert words in refusal(prefix)


def test_an_index_without_a_header_is_refused(tmp_path):
  (tmp_path / "b.index").write_bytes(table([(b"a", b"")]))
  assert "has no header" in refusal(tmp_path / "b")

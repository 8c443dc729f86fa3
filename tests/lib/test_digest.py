"""Leaf digests: what they see, and that nothing is gathered for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from genrep_jax.lib import digest, mesh as meshes

_DTYPES = [
  "float32", "bfloat16", "float16", "int32", "uint32", "int16", "int8",
  "uint8", "bool", "float8_e4m3fn",
]  # fmt: skip


def _scramble(x):
  x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
  x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
  return x ^ (x >> 16)


def _twin(words):
  """The digest of a sequence of words, in python integers."""
  sums = []
  for seed in (0, 0x9E3779B9):
    terms = (
      _scramble(int(w) ^ _scramble(i ^ seed)) for i, w in enumerate(words)
    )
    sums.append(sum(terms) % 2**32)
  return sums


def _random(shape, dtype, seed=0):
  raw = np.random.RandomState(seed).randint(0, 100, shape)
  return jnp.asarray(raw % 2 if dtype == "bool" else raw).astype(dtype)


def _digest(x):
  return np.asarray(digest.digests({"x": x})["x"])


@pytest.mark.parametrize("dtype", _DTYPES)
def test_equals_hand_written_twin(dtype):
  x = _random((3, 2, 5), dtype)
  size = np.dtype(x.dtype).itemsize
  words = np.asarray(x).reshape(-1).view(f"<u{size}")
  assert _digest(x).tolist() == _twin(words)
  assert digest.record({"x": x})["x"] == {
    "digest": "{:08x}{:08x}".format(*_twin(words)),
    "shape": [3, 2, 5],
    "dtype": dtype,
  }


def test_scalar_and_empty_leaves():
  assert _digest(jnp.int32(7)).tolist() == _twin([7])
  assert _digest(jnp.zeros((0, 4))).tolist() == [0, 0]
  assert digest.record({}) == {}


def test_64_bit_leaves_count_both_words():
  with jax.enable_x64(True):
    x = jnp.asarray([1.5, -2.25], jnp.float64)
    words = np.asarray(x).view("<u4")
    assert _digest(x).tolist() == _twin(words)


def test_every_flipped_bit_changes_both_sums():
  x = np.random.RandomState(0).randn(4).astype(np.float32)
  clean = _digest(jnp.asarray(x))
  for bit in range(8 * x.nbytes):
    raw = bytearray(x.tobytes())
    raw[bit // 8] ^= 1 << bit % 8
    flipped = np.frombuffer(bytes(raw), np.float32)
    assert np.all(_digest(jnp.asarray(flipped)) != clean)


@pytest.mark.parametrize("a, b", [(1.0, 2.0), (3.0, -3.0), (0.0, -0.0)])
def test_swap_of_two_elements_is_seen(a, b):
  # (x, -x) differ in the highest bit only: odd weights alone would miss it.
  x = np.arange(64, dtype=np.float32)
  for i, j in ((0, 1), (0, 32), (5, 63)):
    x[i], x[j] = a, b
    y = x.copy()
    y[i], y[j] = b, a
    assert np.all(_digest(jnp.asarray(x)) != _digest(jnp.asarray(y)))


def test_shape_and_dtype_are_part_of_the_record():
  x = jnp.zeros((2, 3))
  base = digest.record({"x": x})
  assert digest.differing(base, digest.record({"x": x.reshape(3, 2)})) == ["x"]
  assert digest.differing(base, digest.record({"x": x.view("i4")})) == ["x"]
  assert digest.differing(base, digest.record({"y": x})) == ["x", "y"]


@pytest.mark.parametrize("spec", [("data",), (None, "data"), ()])
def test_same_under_every_sharding(spec):
  mesh = meshes.make_mesh()
  for dtype in ("float32", "bfloat16", "bool"):
    x = _random((16, 8, 3), dtype)
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(*spec))
    y = jax.device_put(x, sharding)
    assert digest.record({"x": y}) == digest.record({"x": x})


def test_sharded_leaf_is_not_gathered():
  mesh = meshes.make_mesh()
  x = jax.device_put(jnp.zeros((64, 33)), meshes.batch(mesh))
  text = digest.leaf_program(x).lower(x).compile().as_text()
  reduces = [line for line in text.splitlines() if " all-reduce(" in line]
  assert reduces and all(" = u32[2]" in line for line in reduces)
  for gather in ("all-gather", "all-to-all", "collective-permute"):
    assert gather not in text
  assert "f32[64,33]" not in text  # nobody holds the whole leaf


def test_leaf_names_follow_the_path():
  tree = {"params": {"Dense_0": {"kernel": jnp.zeros(1)}}, "step": jnp.zeros(1)}
  assert list(digest.digests(tree)) == ["params/Dense_0/kernel", "step"]
  with pytest.raises(ValueError, match="same name"):
    digest.digests({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})


def test_unsupported_dtypes_are_refused():
  for leaf in (
    jax.random.key(0),
    jnp.zeros(2, "complex64"),
    jnp.zeros(2, "int4"),
  ):
    with pytest.raises(TypeError, match="no digest"):
      digest.digests({"x": leaf})


def test_allowed_under_transfer_guard():
  x = {"x": jnp.ones((8, 4))}
  jax.block_until_ready(x)
  with jax.transfer_guard("disallow"):
    assert digest.record(x)["x"]["shape"] == [8, 4]

"""A 64-bit digest of every leaf of a tree, computed where the leaf lies.

Orbax restores a flipped byte of a data file without a word, so a checkpoint
records these digests and restore compares them (`lib/checkpoint.py`).

Each word x_i of a leaf's bits (i: flat row-major index) is scrambled by a
bijection of the 32-bit words that depends on i, and the results are added
modulo 2**32; two such sums with different bijections make 64 bits.

- Integer addition commutes exactly, so the digest is the same under every
  sharding and device count, and needs one tiny all-reduce, never a gather.
- A bijection maps a changed word to a changed word, so a change within one
  word *always* changes both sums; other damage escapes with odds 2**-64.
  (Plain odd weights w_i would do for that too, but not for swaps: x and -x
  differ by 2**31 in bits, and (w_i - w_j) * 2**31 = 0 modulo 2**32.)
- It guards against accidents, not against someone who forges a checkpoint.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from genrep_jax.lib import trees

_WORDS = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint32}


def _scramble(x):
  """A bijection of uint32: the final mix of MurmurHash3."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def _words(x):
  """Returns the bits of x as uint32 words, one per element (two if 64-bit)."""
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  if jnp.issubdtype(x.dtype, jnp.floating):
    bits = jnp.finfo(x.dtype).bits
  elif jnp.issubdtype(x.dtype, jnp.integer):
    bits = jnp.iinfo(x.dtype).bits
  else:
    bits = None
  if bits not in _WORDS:
    raise TypeError(f"no digest for leaves of dtype {x.dtype}")
  return jax.lax.bitcast_convert_type(x, _WORDS[bits]).astype(jnp.uint32)


def checksum(x) -> jax.Array:
  """Digests one leaf; traceable.

  The flat index is taken modulo 2**32: in a leaf of more words a swap at
  exactly that distance would go unseen (a changed word never does).

  Args:
    x: array of any shape, also scalar or empty; bool, integer or real floating
      dtype of 8 to 64 bits.

  Returns:
    uint32 [2].

  Raises:
    TypeError: complex, sub-byte or key dtype.
  """
  x = jnp.asarray(x)
  if math.prod(x.shape) == 0:
    return jnp.zeros(2, jnp.uint32)
  words = _words(x)
  # The index is built from one iota per axis: unlike a reshape to [-1] this
  # leaves every device with its own part of the leaf.
  index = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    iota = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    index = index + iota * jnp.uint32(stride % 2**32)
    stride *= words.shape[axis]
  # Both sums in one reduction: half the compile time of two.
  lane = jax.lax.broadcasted_iota(jnp.uint32, (2,) + (1,) * words.ndim, 0)
  key = _scramble(index[None] ^ (lane * jnp.uint32(0x9E3779B9)))
  terms = _scramble(words[None] ^ key)
  return jnp.sum(terms, axis=range(1, terms.ndim), dtype=jnp.uint32)


@functools.lru_cache(maxsize=8)
def _program(out_sharding):
  """`checksum`, jitted. Leaves of one shape and sharding share a program.

  One program for a whole tree would be one call instead of hundreds, but a
  ResNet-50 with its optimizer took 14 s to trace and compile that way.
  """
  return jax.jit(checksum, out_shardings=out_sharding)


def leaf_program(leaf):
  """Returns the jitted `checksum` for one leaf.

  Its result is replicated, so that every process can read it.

  Args:
    leaf: a jax array, or an abstract one with a sharding.
  """
  sharding = getattr(leaf, "sharding", None)
  if isinstance(sharding, NamedSharding):
    return _program(NamedSharding(sharding.mesh, PartitionSpec()))
  return _program(None)


def digests(tree) -> dict[str, jax.Array]:
  """Digests every leaf on the devices that hold it.

  Nothing is gathered, and only the digests themselves are replicated. Calls
  are asynchronous, as all of JAX's.

  Args:
    tree: pytree of arrays (see `checksum` for the dtypes).

  Returns:
    {leaf name: uint32 [2]}.
  """
  return {
    name: leaf_program(leaf)(leaf) for name, leaf in trees.named(tree).items()
  }


def record(tree) -> dict[str, dict[str, Any]]:
  """Describes every leaf for a JSON file.

  Args:
    tree: pytree of jax arrays.

  Returns:
    {leaf name: {"digest": 16 hexadecimal digits, "shape": [...],
    "dtype": name}}.
  """
  sums = jax.device_get(digests(tree))
  return {
    name: {
      "digest": f"{int(sums[name][0]):08x}{int(sums[name][1]):08x}",
      **describe(leaf),
    }
    for name, leaf in trees.named(tree).items()
  }


def describe(leaf) -> dict[str, Any]:
  """Returns {"shape": [...], "dtype": name} of an array or its abstraction."""
  return {"shape": list(leaf.shape), "dtype": str(jnp.dtype(leaf.dtype))}


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
  """Names the leaves whose entries differ, or that only one record holds."""
  return [
    name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)
  ]

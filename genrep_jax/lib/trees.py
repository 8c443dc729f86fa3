"""Pytrees by the names of their leaves: "encoder/conv0/kernel"."""

import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree) -> dict[str, Any]:
  """Flattens a pytree into {"a/b/c": leaf}, in the tree's own order.

  Dataclass and named-tuple fields go by name, tuple and list entries by index,
  so an optax state becomes {"0/trace/encoder/conv0/kernel": ...}.

  Raises:
    ValueError: two leaves have one name (a key contains "/").
  """
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  flat = {_name(path): leaf for path, leaf in leaves}
  if len(flat) != len(leaves):
    raise ValueError("two leaves of the tree have the same name")
  return flat


def map_named(function, tree):
  """Maps `function(name, leaf)` over a tree, keeping its structure."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: function(_name(path), leaf), tree
  )


def mask(tree, patterns: Iterable[str]):
  """Marks the leaves whose name matches any of the regular expressions.

  Args:
    tree: a pytree.
    patterns: matched anywhere in the name (`re.search`).

  Returns:
    The tree's structure with a bool per leaf.
  """
  compiled = [re.compile(pattern) for pattern in patterns]
  return map_named(
    lambda name, _: any(pattern.search(name) for pattern in compiled), tree
  )


def parameter_count(tree) -> int:
  """Returns the number of entries in all leaves (arrays or their shapes)."""
  return sum(int(np.prod(np.shape(x))) for x in jax.tree.leaves(tree))


def first_mismatches(expected, got, limit: int = 3) -> list[str]:
  """Compares two trees' names and shapes, for a message.

  Args:
    expected: pytree, or {name: leaf}, of arrays or ShapeDtypeStructs.
    got: the same.
    limit: mismatches to spell out.

  Returns:
    One line per mismatch, missing names first, then unexpected ones, then
    wrong shapes; a last line counts those beyond `limit`. Empty: they agree.
  """
  expected, got = named(expected), named(got)
  lines = [
    f"missing {name} {np.shape(leaf)}"
    for name, leaf in expected.items()
    if name not in got
  ]
  lines += [
    f"unexpected {name} {np.shape(leaf)}"
    for name, leaf in got.items()
    if name not in expected
  ]
  lines += [
    f"{name} is {np.shape(got[name])}, expected {np.shape(leaf)}"
    for name, leaf in expected.items()
    if name in got and np.shape(got[name]) != np.shape(leaf)
  ]
  more = len(lines) - limit
  return lines[:limit] + ([f"and {more} more"] if more > 0 else [])

"""BigBiGAN's encoder among TensorFlow's variables, by an editable table.

The grammar of a table is explained at its top: see bigbigan_variables.TABLE.
"""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Mapping

import jax
import numpy as np

from genrep_jax.encoders.contrib import bigbigan_variables
from genrep_jax.lib import errors, files, foreign, trees

_AVERAGE = "/ema_0.9999"
_CONSTANTS = {"zeros": np.zeros, "ones": np.ones}


@dataclasses.dataclass(frozen=True)
class Table:
  """Which variable is which of our leaves.

  Attributes:
    file: what the table is called, for messages.
    prefix: what the names of the encoder's variables begin with.
    ignored: patterns of variables of no use, below the prefix.
    lines: (regular expression of our leaves, pattern of the variable).
  """

  file: str
  prefix: str
  ignored: tuple[str, ...]
  lines: tuple[tuple[re.Pattern, str], ...]

  def variable(self, leaf: str) -> str:
    """Returns the variable of a leaf, below the prefix, or a constant's name.

    Raises:
      UsageError: the table has no line for it.
    """
    for pattern, theirs in self.lines:
      if found := pattern.fullmatch(leaf):
        return _filled(theirs, found.groupdict())
    raise errors.UsageError(f"table: {self.file} has no line for {leaf}")


def read_table(path: str | os.PathLike | None) -> Table:
  """Reads a table.

  Args:
    path: a text file; None or "": the guesses of bigbigan_variables.

  Raises:
    UsageError: unreadable, or a line that makes no sense.
  """
  file, text = "the table of guesses", bigbigan_variables.TABLE
  if path:
    file = os.fspath(path)
    try:
      text = files.regular(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
      reason = getattr(error, "strerror", None) or "not a text file"
      raise errors.UsageError(f"table: {file}: {reason}") from error
  prefix, ignored, lines = "", [], []
  for number, line in enumerate(text.splitlines(), 1):
    line = line.partition("#")[0].strip()
    word, _, rest = line.partition(" ")
    if word == "prefix":
      prefix = rest.strip()
    elif word == "ignore":
      ignored.append(rest.strip())
    elif line:
      lines.append(_line(line, f"{file}, line {number}"))
  return Table(file, prefix, tuple(ignored), tuple(lines))


def _line(line: str, where: str) -> tuple[re.Pattern, str]:
  """Reads "OURS = THEIRS"."""
  ours, equals, theirs = (part.strip() for part in line.partition("="))
  pieces = re.split(r"\{(\w+)\}", ours)
  numbers = pieces[1::2]
  wanted = set(re.findall(r"\{_?([a-z]\w*)[^}]*\}", theirs))
  if not (ours and equals and theirs) or len(set(numbers)) != len(numbers):
    raise errors.UsageError(f"table: {where}: {line!r} is not OURS = THEIRS")
  if wanted - set(numbers):
    raise errors.UsageError(
      f"table: {where}: {{{min(wanted - set(numbers))}}} is not on the left"
    )
  for i, piece in enumerate(pieces):
    pieces[i] = rf"(?P<{piece}>\d+)" if i % 2 else re.escape(piece)
  return re.compile("".join(pieces)), theirs


def _filled(pattern: str, numbers: Mapping[str, str]) -> str:
  """Puts numbers in the place of {x}, {x-1}, {_x} and {_x-1}."""

  def number(found):
    value = int(numbers[found[2]]) + int(found[3] or 0)
    if found[1]:
      return f"_{value}" if value else ""
    return str(value)

  return re.sub(r"\{(_?)([a-z]\w*)([+-]\d+)?\}", number, pattern)


def size(arrays, table: Table, leaf: str, axis: int, default: int) -> int:
  """Reads one dimension of a leaf's variable; `default` where there is none."""
  shape = np.shape(arrays.get(table.prefix + table.variable(leaf)))
  return int(shape[axis]) if shape and shape[axis] else default


def fill(arrays: Mapping[str, np.ndarray], table: Table, template, what: str):
  """Finds every leaf of a template; every variable of the encoder is used.

  Args:
    arrays: variables, name -> array. Those outside the table's prefix are
      ignored.
    table: from `read_table`.
    template: pytree of ShapeDtypeStructs.
    what: what the file should be, for messages.

  Returns:
    The template's structure with float32 arrays.

  Raises:
    UsageError: a leaf without a line, two with one variable, or missing,
      left-over, mis-shaped variables and such with a NaN, by name.
  """
  inside = {
    name.removeprefix(table.prefix): np.asarray(x)
    for name, x in arrays.items()
    if name.startswith(table.prefix)
  }
  if not inside:
    raise errors.UsageError(
      f"source: not {what}: none of {len(arrays)} variables begins with "
      f"{table.prefix!r}, the prefix of {table.file}"
    )
  leaves = trees.named(template)
  variables = {leaf: table.variable(leaf) for leaf in leaves}
  shapes, taken = {}, {}
  for leaf, name in variables.items():
    if name in _CONSTANTS:
      continue
    if name in taken:
      raise errors.UsageError(
        f"table: {table.file} gives {name} to both {taken[name]} and {leaf}"
      )
    taken[name], shapes[name] = leaf, tuple(leaves[leaf].shape)
  found = {
    name: _fitted(x, shapes.get(name))
    for name, x in inside.items()
    if name in shapes or not _ignorable(name, inside, table)
  }
  what = f"{what} by {table.file}, below {table.prefix!r}"
  foreign.check(what, found, shapes)

  def value(leaf, expected):
    name = variables[leaf]
    if name in _CONSTANTS:
      return _CONSTANTS[name](expected.shape, np.float32)
    return np.array(found[name], np.float32, order="C")

  return trees.map_named(value, template)


def _ignorable(name, inside, table) -> bool:
  return name + _AVERAGE in inside or any(
    fnmatch.fnmatchcase(name, pattern) for pattern in table.ignored
  )


def _fitted(x: np.ndarray, shape) -> np.ndarray:
  """Reshapes x to a shape that differs in dimensions of size one only."""
  if shape is not None:
    if [n for n in x.shape if n != 1] == [n for n in shape if n != 1]:
      return x.reshape(shape)
  return x


def shift_epsilon(variables, difference: float):
  """Adds to every variance what an epsilon greater by `difference` would."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x + np.float32(difference) if path[-1].key == "var" else x,
    variables,
  )

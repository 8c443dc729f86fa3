"""Options that check themselves: each is declared once, where it is used.

A plug-in's `OPTIONS` maps the name of every option to an `Option`: its default,
what it may be, its unit, and one line of help.

  OPTIONS = {
    "k": options.integer(20, "neighbors that vote", low=1),
    "temperature": options.number(0.07, "T of exp(s / T)", above=0),
  }

From that alone a config is completed, checked before anything runs, read from
the command line, and described. A wrong value is one line in one dialect:
"evaluations.knn.k: given 0; allowed: an integer >= 1". No value is converted
silently: 3.0 and True are no integers, and "bias" is no tuple of texts.
"""

import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from genrep_jax.lib import errors

_LARGEST = 3.4028235e38  # of float32, in which every number is used
_SMALLEST = 1.1754944e-38  # below it, CPUs and accelerators see zero
_INT_MAX = 2**31 - 1
_SHOWN = 160  # characters of a wrong value


@dataclasses.dataclass(frozen=True)
class Option:
  """One option: what it is by default and what it may be.

  Attributes:
    default: used where a config says nothing.
    help: one line, without the range.
    allowed: what it may be, in words: "an integer >= 1".
    accepts: value -> bool.
    kind: how a word of the command line is read: "text", "flag", "integer",
      "number", or "literal", a Python literal.
    unit: e.g. "px" or "steps".
    bound: it belongs to the weights: a file of weights that was made with
      another value is refused.
  """

  default: Any
  help: str
  allowed: str
  accepts: Callable[[Any], bool]
  kind: str = "literal"
  unit: str = ""
  bound: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
  """An option that names a plug-in and holds its options.

  Attributes:
    room: of the plug-in, e.g. "data".
    default: its name; "" names none. Of `many`, unused.
    help: one line.
    many: it holds any number of such entries by a label of their own, each of
      which is called as its label is unless it has a `name`.
    shared: options that every entry has here beside its plug-in's own.
    settings: options of the plug-in that are given here, {option: value}.
  """

  room: str
  default: str
  help: str
  many: bool = False
  shared: Mapping[str, Option] = dataclasses.field(default_factory=dict)
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Options = Mapping[str, "Option | Entry | Options"]


def integer(
  default=None,
  help="",
  *,
  low=None,
  high=None,
  only: tuple[str, Callable] | None = None,
  unit="",
  bound=False,
) -> Option:
  """A whole number in [low, high].

  Args:
    default: see `Option`; so are help, unit and bound.
    help: see `Option`.
    low: the least; None: -2**31.
    high: the largest; None: 2**31 - 1.
    only: (in words, value -> bool), a further condition.
    unit: see `Option`.
    bound: see `Option`.
  """
  least = -_INT_MAX - 1 if low is None else low
  most = _INT_MAX if high is None else high
  words = f"an integer{_range(low, None, high, None)}"

  def accepts(value):
    return type(value) is int and least <= value <= most

  return _with(default, help, words, accepts, only, "integer", unit, bound)


def number(
  default=None,
  help="",
  *,
  low=None,
  above=None,
  high=None,
  below=None,
  only: tuple[str, Callable] | None = None,
  unit="",
  bound=False,
) -> Option:
  """A finite number that float32 can hold, in a range.

  Args:
    default: see `Option`; so are help, unit and bound.
    help: see `Option`.
    low: the least.
    above: it must be larger than this.
    high: the largest.
    below: it must be smaller than this.
    only: (in words, value -> bool), a further condition.
    unit: see `Option`.
    bound: see `Option`.
  """
  words = f"a finite number{_range(low, above, high, below)}"

  def accepts(value):
    return (
      type(value) in (int, float)
      and math.isfinite(value)
      and (not value or _SMALLEST <= abs(value) <= _LARGEST)
      and (low is None or value >= low)
      and (above is None or value > above)
      and (high is None or value <= high)
      and (below is None or value < below)
    )

  return _with(default, help, words, accepts, only, "number", unit, bound)


def flag(default=None, help="", *, bound=False) -> Option:
  """True or False."""
  return Option(
    default,
    help,
    "True or False",
    lambda value: type(value) is bool,
    "flag",
    bound=bound,
  )


def text(
  default="", help="", *, only: tuple[str, Callable] | None = None, bound=False
) -> Option:
  """A text of printable characters; `only`: see `integer`."""

  def accepts(value):
    return isinstance(value, str) and value.isprintable()

  return _with(default, help, "a text", accepts, only, "text", "", bound)


def choice(
  default=None, choices: Sequence[str] = (), help="", *, bound=False
) -> Option:
  """One of several words."""
  return Option(
    default,
    help,
    f"one of {', '.join(choices)}",
    lambda value: isinstance(value, str) and value in choices,
    "text",
    bound=bound,
  )


def one_of(default, values: Sequence, help="", *, unit="", bound=False):
  """One of several numbers."""
  return Option(
    default,
    help,
    f"one of {', '.join(map(str, values))}",
    lambda value: type(value) is type(values[0]) and value in values,
    "number" if isinstance(values[0], float) else "integer",
    unit,
    bound,
  )


def several(
  default=(),
  of: Option | None = None,
  help="",
  *,
  lengths: Iterable[int] | None = None,
  least=0,
  only: tuple[str, Callable] | None = None,
  unit="",
  bound=False,
) -> Option:
  """A tuple (or list) of values.

  Args:
    default: see `Option`; so are help, unit and bound.
    of: what each value may be; its default and help are not used.
    help: see `Option`.
    lengths: how many there may be; None: `least` or more.
    least: the fewest.
    only: (in words, tuple -> bool), a further condition.
    unit: see `Option`.
    bound: see `Option`.
  """
  counts = None if lengths is None else tuple(lengths)
  many = f" of {' or '.join(map(str, counts))}" if counts else ""
  many = many or (f" of at least {least}" if least else "")
  words = f"a tuple{many}, each {of.allowed}"

  def accepts(value):
    return (
      isinstance(value, (tuple, list))
      and (counts is None or len(value) in counts)
      and len(value) >= least
      and all(of.accepts(one) for one in value)
    )

  if only is not None:
    only = only[0], lambda value, test=only[1]: test(tuple(value))
  return _with(default, help, words, accepts, only, "literal", unit, bound)


def interval(default, help="", *, above=None, low=None, high=None, unit=""):
  """(minimum, maximum), both finite, minimum <= maximum, within a range."""
  return several(
    default,
    number(low=low, above=above, high=high),
    help,
    lengths=(2,),
    only=("the first not above the second", lambda pair: pair[0] <= pair[1]),
    unit=unit,
  )


def patterns(default=(), help="") -> Option:
  """A tuple of regular expressions."""

  def compiles(value):
    try:
      printable = isinstance(value, str) and value.isprintable()
      return printable and bool(re.compile(value))
    except re.error:
      return False

  one = Option("", "", "a regular expression", compiles)
  return several(default, one, help)


def anything(default, help, allowed: str, accepts: Callable) -> Option:
  """A value with a test of its own."""
  return Option(default, help, allowed, accepts)


def either(first: Option, *others: Option) -> Option:
  """What any of several options accepts; the first has default and help."""
  every = (first, *others)
  return dataclasses.replace(
    first,
    allowed=", or ".join(one.allowed for one in every),
    accepts=lambda value: any(one.accepts(value) for one in every),
    kind=first.kind if len({one.kind for one in every}) == 1 else "literal",
  )


def check(path: str, option: Option, value) -> None:
  """Raises UsageError "PATH: given VALUE; allowed: ..." for a wrong value."""
  try:
    right = option.accepts(value)
  except Exception:  # an `only` that a strange value breaks
    right = False
  if not right:
    refuse(path, value, option.allowed)


def refuse(path: str, value, allowed: str):
  """Raises UsageError "PATH: given VALUE; allowed: ALLOWED"."""
  raise errors.UsageError(f"{path}: given {_shown(value)}; allowed: {allowed}")


def unknown(path: str, key: str, known: Iterable[str], what="option"):
  """Raises UsageError for a key or name that does not exist.

  Args:
    path: where, e.g. "encoder"; "" at the top of a config.
    key: what was given.
    known: what there is.
    what: "option", "key", "name", ...
  """
  known = list(known)
  full = f"{path}.{key}" if path else str(key)
  raise errors.UsageError(
    f"{full}: unknown {what}; allowed: {', '.join(known) or 'none'}"
    f"{nearest(key, known)}"
  )


def nearest(given, known: Iterable[str]) -> str:
  """Returns "; nearest: 'x'", or "" where nothing known is near."""
  near = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.5)
  return f"; nearest: {near[0]!r}" if near else ""


def parse(path: str, option: Option, word: str):
  """Reads a word of the command line as a value of an option.

  Args:
    path: of the option, for messages.
    option: says what the word may be.
    word: as typed, e.g. "0.2", "(1, 2)", "true".

  Returns:
    The value, checked.

  Raises:
    UsageError: the word is none of what is allowed.
  """
  try:
    value = _READERS[option.kind](word)
  except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
    refuse(path, word, option.allowed)
  check(path, option, value)
  return value


def defaults(declared: Options) -> dict:
  """Returns {name: default}, nested as the declaration; entries by name."""
  values = {}
  for name, option in declared.items():
    if isinstance(option, Entry):
      values[name] = {} if option.many else {"name": option.default}
      values[name] |= dict(option.settings)
    elif isinstance(option, Option):
      values[name] = option.default
    else:
      values[name] = defaults(option)
  return values


def bound(declared: Options) -> tuple[str, ...]:
  """Names the options that belong to the weights."""
  return tuple(
    name for name, option in declared.items() if getattr(option, "bound", False)
  )


def _flag(word: str) -> bool:
  return {"true": True, "1": True, "false": False, "0": False}[word.lower()]


def _read_flag(word):
  try:
    return _flag(word)
  except KeyError as error:
    raise ValueError(word) from error


_READERS = {
  "text": str,
  "flag": _read_flag,
  "integer": int,
  "number": float,
  "literal": ast.literal_eval,
}


def _with(default, help, words, accepts, only, kind, unit, bound) -> Option:
  """Makes an option, with a further condition if there is one."""
  if only is not None:
    said, test = only
    words, first = f"{words}, {said}", accepts

    def accepts(value):
      return first(value) and bool(test(value))

  return Option(default, help, words, accepts, kind, unit, bound)


def _range(low, above, high, below) -> str:
  """Says a range in words: " in 1..8", " >= 0 and < 1"."""

  def show(x):
    return f"{x:g}" if isinstance(x, float) else str(x)

  if isinstance(low, int) and isinstance(high, int):
    return f" in {low}..{high}"
  bounds = (">=", low), (">", above), ("<=", high), ("<", below)
  given = [f"{sign} {show(x)}" for sign, x in bounds if x is not None]
  return f" {' and '.join(given)}" if given else ""


def _shown(value) -> str:
  """Returns a value as one short line of printable characters."""
  if hasattr(value, "to_dict"):
    value = value.to_dict()
  text = ascii(value) if not _printable(repr(value)) else repr(value)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _printable(text: str) -> bool:
  return text.isprintable()

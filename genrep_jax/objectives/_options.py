"""Checks of an objective's options: one line that names key and value."""

import math

from genrep_jax.lib import errors


def positive(cfg, key: str) -> float:
  """Returns the option as a float; UsageError if it is not > 0."""
  value = float(cfg[key])
  if not (value > 0 and math.isfinite(value)):
    raise errors.UsageError(f"objective.{key}: {cfg[key]} is not > 0")
  return value


def non_negative(cfg, key: str) -> float:
  """Returns the option as a float; UsageError if it is not >= 0."""
  value = float(cfg[key])
  if not (value >= 0 and math.isfinite(value)):
    raise errors.UsageError(f"objective.{key}: {cfg[key]} is not >= 0")
  return value


def count(cfg, key: str, minimum: int = 1, hint: str = "") -> int:
  """Returns the option as an int; UsageError if it is below the minimum."""
  value = int(cfg[key])
  if value < minimum or value != cfg[key]:
    raise errors.UsageError(
      f"objective.{key}: {cfg[key]} is not an integer >= {minimum}"
      + (f"; {hint}" if hint else "")
    )
  return value


def choice(cfg, key: str, known) -> str:
  """Returns the option; UsageError if it is none of the known ones."""
  return one_of(f"objective.{key}", cfg[key], known)


def one_of(what: str, value, known) -> str:
  """Returns the value; UsageError if it is none of the known ones."""
  if value not in known:
    raise errors.UsageError(
      f"{what}: unknown {value!r}; known: {', '.join(known)}"
    )
  return value


def some_weight(weights) -> None:
  """Raises UsageError if all weights {option: value} are zero."""
  if not any(weights.values()):
    raise errors.UsageError(
      f"objective: {' and '.join(weights)} sum to zero; one must be > 0"
    )


def check_rows(what: str, n: int) -> None:
  """Raises UsageError if a batch is too small to compare its rows."""
  if n < 2:
    raise errors.UsageError(f"{what}: {n} row in the global batch, at least 2")

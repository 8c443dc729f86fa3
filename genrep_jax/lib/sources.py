"""Foreign checkpoints, checked strictly: every key, every shape, no NaN."""

import difflib
import math
import re
from collections.abc import Mapping

import numpy as np

from genrep_jax.lib import errors

_NAMED = 3  # of each fault; more are counted


def check(
  what: str,
  arrays: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
) -> None:
  """Refuses a checkpoint unless its keys and shapes are exactly the expected.

  Args:
    what: what it should be, for the message, e.g. "biggan_deep, 128 px".
    arrays: the checkpoint, key -> array.
    expected: key -> shape.

  Raises:
    UsageError: one line that names the first three missing, unexpected and
      mis-shaped keys, and those that hold a NaN or an infinity.
  """
  missing = [key for key in expected if key not in arrays]
  extra = [key for key in arrays if key not in expected]
  faults = [_list("missing", [_renamed(key, extra) for key in missing])]
  faults.append(_list("unexpected", extra))
  shapes = [
    f"{key} {tuple(arrays[key].shape)} instead of {tuple(shape)}"
    for key, shape in expected.items()
    if key in arrays and tuple(arrays[key].shape) != tuple(shape)
  ]
  faults.append(_list("mis-shaped", shapes))
  strange = [
    key
    for key, x in arrays.items()
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all()
  ]
  faults.append(_list("not finite", strange))
  faults = [fault for fault in faults if fault]
  if faults:
    raise errors.UsageError(f"source: not {what}: {'; '.join(faults)}")


def count(expected: Mapping[str, tuple[int, ...]], buffers: str) -> int:
  """Counts a checkpoint's parameters, as papers and `parameters()` do.

  Args:
    expected: key -> shape.
    buffers: regular expression of the keys that hold none: statistics, vectors
      of spectral norms, constant filters.
  """
  return sum(
    math.prod(shape)
    for key, shape in expected.items()
    if not re.search(buffers, key)
  )


def _renamed(key, candidates):
  near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.8)
  return f"{key} (is it {near[0]}?)" if near else key


def _list(fault, names):
  if not names:
    return ""
  more = len(names) - _NAMED
  rest = f" and {more} more" if more > 0 else ""
  return f"{fault} {', '.join(names[:_NAMED])}{rest}"

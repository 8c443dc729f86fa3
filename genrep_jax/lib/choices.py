"""One error for a name that is not among the known ones."""

import difflib
from collections.abc import Iterable

from genrep_jax.lib import errors


def check(what: str, name: str, known: Iterable[str]) -> str:
  """Returns `name` if it is known.

  Args:
    what: config key of the choice, e.g. "optimizer.name".
    name: what was given.
    known: what is allowed.

  Raises:
    UsageError: it is not known; the line has the nearest and lists all.
  """
  known = list(known)
  if name in known:
    return name
  near = difflib.get_close_matches(str(name), known, n=1)
  hint = f"; nearest: {near[0]!r}" if near else ""
  raise errors.UsageError(
    f"{what}: unknown {name!r}{hint}; known: {', '.join(known)}"
  )

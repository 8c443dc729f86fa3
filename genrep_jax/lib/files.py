"""Files that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a path beside `path`; what is written there becomes `path`.

  The name keeps `path`'s and ends in ".partial". It is renamed once the block
  has ended, and removed if the block raises: whoever reads `path` sees the old
  file or the new one.

  Args:
    path: of the finished file; its folder exists.
  """
  path = pathlib.Path(path)
  partial = path.with_name(path.name + ".partial")
  try:
    yield partial
    partial.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text as UTF-8."""
  with atomic(path) as partial:
    partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value) -> None:
  """Writes a value as indented JSON; what JSON does not know is its `str`."""
  write_text(path, json.dumps(value, indent=1, default=str) + "\n")

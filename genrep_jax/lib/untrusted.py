"""Files that may lie: what reading one may cost, and how it is refused.

No file makes its reader run code, wait, or take more than `EXPANSION` times its
own bytes and `SLACK` for what it claims to hold; whatever a parser makes of a
damaged file is one line.
"""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator

from genrep_jax.lib import errors, files

EXPANSION = 16  # bytes that a byte of a file may become
SLACK = 64 << 20  # bytes that any file may become
_DEFLATE = 1032  # no byte of a zip's method 8 becomes more
_SHOWN = 80  # characters of a name


def shown(name) -> str:
  """Returns a name out of a file as printable characters, cut."""
  text = name if isinstance(name, str) else str(name)
  more = "..." if len(text) > _SHOWN else ""
  text = text[:_SHOWN]  # before anything goes over a text of megabytes
  return (text if text.isprintable() else ascii(text)) + more


def named(path) -> str:
  """Returns a path, whole, on one line."""
  text = str(path)
  return text if text.isprintable() else ascii(text)


def size(path: pathlib.Path) -> int:
  """Returns a file's bytes; 0 if it cannot be said."""
  try:
    return os.stat(path).st_size
  except (OSError, ValueError):
    return 0


def opened(path, what="source", allowed=""):
  """Opens a file for reading.

  Args:
    path: of the file.
    what: the key or flag, for the message.
    allowed: what may be given, for the message.

  Raises:
    UsageError: there is none, it cannot be read, or it is no regular file.
  """
  try:
    return open(files.regular(path), "rb")
  except OSError as error:
    said = f"no file {str(path)!r}"
    if not isinstance(error, FileNotFoundError):
      said = f"{str(path)!r}: {error.strerror or error}"
    allowed = f"; allowed: {allowed}" if allowed else ""
    raise errors.UsageError(f"{what}: {said}{allowed}") from error


@contextlib.contextmanager
def guard(path, what="source", kind="file") -> Iterator[None]:
  """Turns whatever a parser raises within the block into one line.

  Parsers raise nearly anything over a damaged file, MemoryError, RecursionError
  and AssertionError among them: no list of types was long enough.

  Args:
    path: of the file that is read.
    what: the key or flag, for the message.
    kind: what it should be.

  Raises:
    UsageError: in place of any Exception.
  """
  try:
    yield
  except errors.UsageError:
    raise
  except Exception as error:
    said = " ".join(str(error).split())[:300] or type(error).__name__
    said = said if said.isprintable() else ascii(said)
    raise errors.UsageError(
      f"{what}: {named(path)} ({size(path)} bytes) is truncated, damaged or no "
      f"readable {kind}: {said}"
    ) from error


class Budget:
  """How much a file may still become.

  Attributes:
    allowed: bytes in all.
    left: of them.
  """

  def __init__(self, path):
    self.allowed = self.left = EXPANSION * size(path) + SLACK

  def take(self, count: int, name) -> None:
    """Takes bytes before they are allocated.

    Raises:
      ValueError: there are not so many left; the name is what asks for them.
    """
    if count < 0 or count > self.left:
      raise ValueError(
        f"{shown(name)} claims {count} bytes; this file may become "
        f"{self.allowed} ({EXPANSION} times its own and {SLACK >> 20} MiB)"
      )
    self.left -= count


@contextlib.contextmanager
def archive(path, what="source", kind="file") -> Iterator[zipfile.ZipFile]:
  """Opens a zip whose members are no larger than they can be.

  Within the block, whatever goes wrong is a UsageError.

  Args:
    path: of the zip.
    what: the key or flag, for the message.
    kind: what it should be.

  Raises:
    UsageError: not a whole zip; a member is encrypted, given twice, or claims
      to hold more than its bytes can become.
  """
  with opened(path, what) as file, guard(path, what, kind):
    length = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as opened_zip:
      names = set()
      for member in opened_zip.infolist():
        name = shown(member.filename)
        if member.flag_bits & 1:
          raise ValueError(f"its member {name} is encrypted")
        if member.filename in names:
          raise ValueError(f"its member {name} is there twice")
        names.add(member.filename)
        ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE}.get(
          member.compress_type
        )
        if ratio is None:
          raise ValueError(
            f"its member {name} is compressed by method {member.compress_type}"
          )
        most = min(member.compress_size, length) * ratio
        if member.file_size > most:
          raise ValueError(
            f"its member {name} claims {member.file_size} bytes of at most "
            f"{most}"
          )
      yield opened_zip

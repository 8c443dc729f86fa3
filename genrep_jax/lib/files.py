"""Files that are written whole or not at all, and errors that name them."""

import contextlib
import errno
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator

from genrep_jax.lib import options

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def folder(text: str | os.PathLike, key: str = "--workdir") -> pathlib.Path:
  """Reads the path of a folder or file as a person writes it.

  Args:
    text: the path; `~` and `~user` are home folders. Spaces, colons and letters
      of any script stay what they are.
    key: of the option, for the message.

  Raises:
    UsageError: an address such as gs://, no path, or one in a home folder that
      is not known.
  """
  text = os.fspath(text)
  if _URL.match(text):
    options.refuse(
      key, text, "a path; mount the bucket first (launch/tpu_pod.sh mount)"
    )
  if "\0" in text:
    options.refuse(key, text, "a path, which holds no NUL byte")
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:  # Orbax and others take nothing else
    options.refuse(
      key, text, "a path in UTF-8 (PYTHONUTF8=1 where the locale is ASCII)"
    )
  path = os.path.expanduser(text)
  if path[:1] == "~":
    options.refuse(key, text, "a path; that home folder is not known")
  return pathlib.Path(path)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Makes the errors of writing a file name it, in one line.

  Python names the file where it cannot be opened, but not where the disk is
  full. An error about another file stays as it is.

  Args:
    path: of the file.

  Raises:
    OSError: "cannot write PATH: No space left on device".
  """
  path = os.fspath(path)
  try:
    yield
  except OSError as error:
    named = error.filename2 or error.filename
    if named is not None and os.fspath(named) not in (path, _partial(path)):
      raise
    reason = error.strerror or " ".join(str(error).split())
    raise type(error)(f"cannot write {path}: {reason}") from error


class Appender:
  """A file that grows at its end, each piece handed to the system at once.

  Nothing waits in a buffer: an error comes with the piece that caused it, not
  a second time when the file is closed.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens a file; makes its folder if that is missing.

    Raises:
      OSError: it cannot be written; names the file.
    """
    self.path = pathlib.Path(path)
    with writing(self.path):
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

  def write(self, data: bytes) -> None:
    """Appends bytes; raises an OSError that names the file."""
    left = memoryview(data)
    with writing(self.path):
      while left:  # a disk takes what still fits before it refuses
        left = left[self._file.write(left) :]

  def sync(self) -> None:
    """Waits until the disk has everything."""
    with writing(self.path):
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file; safe to call twice."""
    with writing(self.path):
      self._file.close()


def _partial(path: str) -> str:
  return path + ".partial"


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a path beside `path`; what is written there becomes `path`.

  The name keeps `path`'s and ends in ".partial". It is renamed once the block
  has ended, and removed if the block raises: whoever reads `path` sees the old
  file or the new one.

  Args:
    path: of the finished file; its folder exists.

  Raises:
    OSError: it cannot be written; names `path`.
  """
  partial = pathlib.Path(_partial(os.fspath(path)))
  try:
    with writing(path):
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


_OTHERS = (
  (stat.S_ISDIR, "is a folder"),
  (stat.S_ISFIFO, "is a fifo"),
  (stat.S_ISSOCK, "is a socket"),
  (stat.S_ISCHR, "is a device"),
  (stat.S_ISBLK, "is a device"),
)


def regular(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of a file that can be opened without waiting for ever.

  To open a fifo waits for a writer, to read some devices never ends.

  Raises:
    OSError: there is none, or what there is is a folder, a fifo, a socket or a
      device, which its strerror says.
  """
  try:
    mode = os.stat(path).st_mode
  except ValueError as error:  # a zero byte in the path
    raise FileNotFoundError(errno.ENOENT, str(error), path) from error
  for test, words in _OTHERS:
    if test(mode):
      raise OSError(errno.EINVAL, f"it {words}, not a file", path)
  return pathlib.Path(path)

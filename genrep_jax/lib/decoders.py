"""Decodes many images at once, by processes.

Threads that share an interpreter hinder each other where images are small: two
of them took longer for each image than one (docs/performance.md). So every
thread of `decoding.pool` has a process of its own. It ends when its connection
does, however this process came to its end, and takes no signals but the last.
"""

import multiprocessing.connection
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np

from genrep_jax.lib import decoding, errors

_FEW = 16  # images that are not worth a process
_CHUNK = 64  # images of one request, at most
_AHEAD = 64  # requests under way at once
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SERVE = (
  "import sys; sys.path.insert(0, sys.argv[1]); "
  "from genrep_jax.lib import decoders; decoders.serve(int(sys.argv[2]))"
)
_local = threading.local()


class Changed(errors.UsageError):
  """An image that is of another size than was said.

  Attributes:
    at: which one.
    shape: that it has.
  """

  def __init__(self, at: int, shape: tuple):
    super().__init__(f"image {at} is {shape}")
    self.at, self.shape = at, shape


def decode(
  source: Callable[[int], tuple],
  count: int,
  shape: Sequence[int],
  channels: int,
  how: Callable[[int], dict],
) -> np.ndarray:
  """Decodes images of one shape.

  Args:
    source: number of an image -> (source and name as of `decoding.decode`).
    count: of images.
    shape: of each result.
    channels: see `decoding.decode`.
    how: number of an image -> further arguments of `decoding.decode`.

  Returns:
    uint8 [count *shape], the same whatever number of processes there are.

  Raises:
    Unreadable: as `decoding.decode` does.
    Changed: an image has another shape.
  """
  images = np.empty((count, *shape), np.uint8)
  workers = decoding.cores()
  few = count < _FEW or workers == 1
  length = 1 if few else min(max(1, count // (4 * workers)), _CHUNK)
  work = _here if few else _there

  def fill(start):
    part = images[start : start + length]
    numbers = range(start, start + len(part))
    work([(*source(x), how(x)) for x in numbers], channels, part, start)

  starts = range(0, count, length)
  if workers == 1 or count == 1:
    for start in starts:
      fill(start)
    return images
  for first in range(0, len(starts), _AHEAD):
    for _ in decoding.pool().map(fill, starts[first : first + _AHEAD]):
      pass
  return images


def serve(number: int) -> None:
  """Answers requests until the connection, a file number, closes."""
  for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
  with multiprocessing.connection.Connection(number) as connection:
    try:
      while True:
        items, channels, shape = connection.recv()
        images, answer = np.empty(shape, np.uint8), None
        try:
          _here(items, channels, images, 0)
        except Changed as error:
          answer = error.at, error.shape
        except decoding.Unreadable as error:
          answer = str(error)
        connection.send(answer)
        if answer is None and images.size:
          connection.send_bytes(images.data.cast("B"))
    except (EOFError, OSError):
      return


def _here(items, channels, images, start):
  for at, (source, name, how) in enumerate(items):
    image = decoding.decode(source, channels, name=name, **how)
    if image.shape != images.shape[1:]:
      raise Changed(start + at, image.shape)
    images[at] = image


def _there(items, channels, images, start):
  for last in (False, True):
    if not hasattr(_local, "connection"):
      _local.process, _local.connection = _started()
    try:
      _local.connection.send((items, channels, images.shape))
      answer = _local.connection.recv()
      if answer is None and images.size:
        _local.connection.recv_bytes_into(images.data.cast("B"))
      break
    except (EOFError, OSError) as error:
      _local.connection.close()
      code = _local.process.wait()
      del _local.connection
      if last:
        names = f"{items[0][1]} .. {items[-1][1]}"
        raise errors.UsageError(
          f"data: a process ended ({code}), twice, while it decoded {names}"
        ) from error
  if isinstance(answer, str):
    raise decoding.Unreadable(answer)
  if answer is not None:
    raise Changed(start + answer[0], answer[1])


def _started():
  ours, theirs = multiprocessing.connection.Pipe()
  with theirs:
    process = subprocess.Popen(
      [sys.executable, "-c", _SERVE, str(_ROOT), str(theirs.fileno())],
      pass_fds=[theirs.fileno()],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
    )
  return process, ours

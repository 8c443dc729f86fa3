"""One run at a time in a folder, on one machine or on several.

The holder's name lies in a file. On one machine the system's lock on that file
says whether the holder lives, crashes included; a file system that does not
carry such locks from one machine to another is met with a heartbeat.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time

from genrep_jax.lib import errors, files, stopping

NAME = "run.lock"
_BEAT_SECONDS = 10.0
_DEAD_SECONDS = 25.0


def read(folder: str | os.PathLike) -> dict:
  """Returns what the holder has written, {} if nobody has."""
  try:
    return dict(json.loads((pathlib.Path(folder) / NAME).read_text("utf-8")))
  except (OSError, ValueError, TypeError):
    return {}


class Lock:
  """Holds a folder, from its making to `release`."""

  def __init__(self, folder: str | os.PathLike):
    """Takes the folder, which is made if missing.

    Raises:
      UsageError: a living process holds it; names pid and host.
      OSError: the folder cannot be made or written.
    """
    self._folder = pathlib.Path(folder).absolute()
    self._done, self._guard = threading.Event(), threading.Lock()
    self._about = {
      "pid": os.getpid(),
      "host": socket.gethostname(),
      "since": time.strftime("%Y-%m-%d %H:%M:%S"),
      "token": secrets.token_hex(8),
      "beat": 0,
    }
    holder = read(self._folder)
    if holder.get("host") not in (None, socket.gethostname()):
      self._listen(holder)
    with stopping.deferred():  # who makes a folder takes it away again
      above = [self._folder, *self._folder.parents]
      self._made = [one for one in above if not one.exists()]
      try:
        with files.writing(self._folder):
          self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._take()
      except BaseException:
        self._remove_folders()
        raise
      try:
        with files.writing(self._folder / NAME):
          self._write()
      except OSError:
        self.release()
        raise
      threading.Thread(target=self._beat, name="lock", daemon=True).start()
      stopping.at_exit(self.release)

  def _take(self) -> int:
    path = self._folder / NAME
    while True:
      with files.writing(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        os.close(file)
        self._refuse(read(self._folder))
      except OSError:
        pass  # no such locks here: the heartbeat must do
      with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file), os.stat(path)):
          return file
      os.close(file)  # its holder has removed it meanwhile

  def _listen(self, holder) -> None:
    """Waits until a holder on another machine can be taken for dead."""
    print(
      f"workdir: {self._folder} was held by process {holder.get('pid')} on "
      f"{holder['host']}; listening for {_DEAD_SECONDS:.0f} s whether it lives",
      file=sys.stderr,
      flush=True,
    )
    end = time.monotonic() + _DEAD_SECONDS
    while time.monotonic() < end:
      time.sleep(0.5)
      if (now := read(self._folder)) != holder:
        if now:
          self._refuse(now)
        return  # it has just finished

  def _refuse(self, holder):
    raise errors.UsageError(
      f"workdir: {str(self._folder)!r} is held by process "
      f"{holder.get('pid', '?')} on {holder.get('host', '?')} since "
      f"{holder.get('since', '?')}; allowed: one run at a time"
    )

  def _write(self) -> None:
    data = json.dumps(self._about).encode()
    os.pwrite(self._file, data, 0)
    os.ftruncate(self._file, len(data))
    os.fsync(self._file)

  def _beat(self) -> None:
    while not self._done.wait(_BEAT_SECONDS):
      with self._guard, contextlib.suppress(OSError):  # others tell a full disk
        if not self._done.is_set():
          self._about["beat"] += 1
          self._write()

  def release(self) -> None:
    """Gives the folder free; one that was made for nothing goes again."""
    with self._guard:
      if self._done.is_set():
        return
      self._done.set()
      with contextlib.suppress(OSError):
        (self._folder / NAME).unlink()
      os.close(self._file)
    self._remove_folders()

  def _remove_folders(self) -> None:
    with contextlib.suppress(OSError):  # they are not empty any more
      for one in self._made:
        one.rmdir()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.release()

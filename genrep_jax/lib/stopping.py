"""SIGTERM and Ctrl-C at any moment: leave soon, and lose nothing.

Python runs a signal's handler in the main thread, between two bytecodes: a
compilation or a collective keeps it waiting for minutes. So a thread watches
the signals' wakeup descriptor. Whenever nothing would be lost it ends the
process itself, at once, with exit code 75. Only inside `deferred()`, where
something is not saved yet, it takes a note, and whoever is inside leaves soon:
the loop saves, a study stops its runs.

The processes of one run tell each other through a `Board` (lib/processes.py):
what one leaves for, all leave for.

A library must not take a program's signals: nothing happens before `install`,
which the command lines call first.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from genrep_jax.lib import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The process that started this one, which then follows it into its end.
PARENT = "GENREP_JAX_PARENT"
_LINE = "preempted: nothing is lost; run the same command again to go on"
_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 20.0  # with what is not saved, once another has left
_AGAIN_SECONDS = 1.0  # a second Ctrl-C within is the same one, sent twice
_EXIT_INTERRUPTED = 130


class Word(NamedTuple):
  """Why all processes of a run leave.

  Attributes:
    code: exit code.
    line: for stderr.
    now: it is gone, without waiting for those who have something to save.
  """

  code: int
  line: str
  now: bool


class Board(Protocol):
  """Where the processes of one run leave word for each other."""

  def read(self) -> Word | None:
    """Returns the gravest word of all processes, or None."""

  def write(self, word: Word) -> None:
    """Leaves this process's word, in place of an earlier one."""

  def farewell(self) -> None:
    """Waits, if the others need this process, until they leave, too."""


class _State:
  """One for the process; its lock guards who may end it."""

  def __init__(self):
    self.lock = threading.RLock()
    self.deferring = False
    # By the main thread: the watcher neither ends it nor leaves another word.
    self.leaving = False
    self.asked_at: float | None = None
    self.callback: Callable[[], None] | None = None
    self.board: Board | None = None
    self.pipe: tuple[int, int] | None = None
    self.parent = 0
    self.cleanups: list[Callable[[], None]] = []


_state = _State()


def install() -> None:
  """Takes SIGTERM and SIGINT over; call it first, in the main thread."""
  if _state.pipe is None:
    _state.pipe = os.pipe()
    for end in _state.pipe:
      os.set_blocking(end, False)
    signal.set_wakeup_fd(_state.pipe[1], warn_on_full_buffer=False)
    parent = os.environ.pop(PARENT, "")
    _state.parent = int(parent) if parent.isdecimal() else 0
    threading.Thread(target=_watch, name="stopping", daemon=True).start()
    os.register_at_fork(
      before=_block, after_in_parent=_unblock, after_in_child=_forget
    )
  for number in _SIGNALS:
    # A handler of Python's, or the descriptor is not written to.
    signal.signal(number, lambda *_: None)


def _block() -> None:
  """Holds signals back while the process forks."""
  signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _forget() -> None:
  """A forked worker is ended by its signals: they are not this process's."""
  signal.set_wakeup_fd(-1)
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_DFL)
  _unblock()


def requested() -> bool:
  """Whether this process has been asked to stop."""
  return _state.asked_at is not None


def word() -> Word | None:
  """Returns why the processes of this run leave, if one of them has said it."""
  return None if _state.board is None else _state.board.read()


def at_exit(cleanup: Callable[[], None]) -> None:
  """Calls `cleanup` when a request ends the process, from any thread."""
  _state.cleanups.append(cleanup)


def share(board: Board) -> None:
  """Stops together with other processes from now on."""
  _state.board = board
  if _state.pipe is not None:
    install()  # again, should the runtime that joins processes have taken them
  _wake()


@contextlib.contextmanager
def deferred(callback: Callable[[], None] | None = None) -> Iterator[None]:
  """Inside, a request is only noted: something here is not saved yet.

  Args:
    callback: called once, from another thread, when the request comes.
  """
  with _state.lock:
    if not _state.deferring:
      _leave_if_asked()
    before = _state.deferring, _state.callback
    _state.deferring, _state.callback = True, callback or _state.callback
  try:
    yield
  except BaseException:
    with _state.lock:  # the main thread ends the process, in its own time
      _state.leaving = True
    _wake()
    raise
  with _state.lock:
    _state.deferring, _state.callback = before
    if not _state.deferring:
      _leave_if_asked()


@contextlib.contextmanager
def saved() -> Iterator[None]:
  """Inside `deferred`: nothing would be lost here; a request ends at once."""
  with _state.lock:
    before, _state.deferring = _state.deferring, False
    _leave_if_asked()
  try:
    yield
  finally:
    with _state.lock:
      _state.deferring = before


def leave(code: int, line: str) -> None:
  """Ends a process of several, and the others with it; else returns.

  Without it the others would wait in a collective for one that has failed.

  Args:
    code: exit code of all.
    line: what went wrong here; every process says it once.
  """
  if _state.board is None:
    return
  with _state.lock:  # before the watcher reads what is written below
    _state.leaving = True
  _exit(Word(code, line, now=True))


def _wake() -> None:
  """Lets the watcher look around."""
  if _state.pipe is not None:
    os.write(_state.pipe[1], b"\0")


def _leave_if_asked() -> None:
  if requested():
    _exit(Word(errors.EXIT_PREEMPTED, _LINE, now=True))


def _exit(why: Word) -> None:
  """Ends the process from any thread, the main one wherever it is."""
  _say(why.line)
  if _state.board is not None:
    _state.board.write(why)
    _state.board.farewell()
  for cleanup in _state.cleanups:
    with contextlib.suppress(Exception):
      cleanup()
  _flush()
  os._exit(why.code)


def _say(line: str) -> None:
  with contextlib.suppress(OSError):
    os.write(2, f"{line}\n".encode(errors="replace"))


def _flush() -> None:
  """Writes out what was printed, unless the main thread is at it."""
  thread = threading.Thread(target=_flush_both, daemon=True)
  thread.start()
  thread.join(1.0)


def _flush_both() -> None:
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()


def _watch() -> None:
  """The thread: waits for signals, the parent's end, and others' words."""
  patience = None
  while True:
    polls = _state.board is not None or _state.parent or patience
    readable, _, _ = select.select(
      [_state.pipe[0]], [], [], _POLL_SECONDS if polls else None
    )
    numbers = os.read(_state.pipe[0], 4096) if readable else b""
    if _state.parent and os.getppid() != _state.parent:
      numbers += bytes([signal.SIGTERM])
    said = word()
    failed = said is not None and said.code != errors.EXIT_PREEMPTED
    if failed and not _state.leaving:
      _exit(said)  # nothing can be saved without the one that failed
    alone = said is not None and said.now
    if patience is None and (alone or _state.leaving and requested()):
      patience = time.monotonic() + _PATIENCE_SECONDS
    if said is not None or any(number in numbers for number in _SIGNALS):
      _ask(again=signal.SIGINT in numbers)
    if patience is not None and time.monotonic() > patience:
      _exit(said or Word(errors.EXIT_PREEMPTED, _LINE, now=True))


def _ask(again: bool) -> None:
  now = time.monotonic()
  with _state.lock:
    if _state.asked_at is None:
      _state.asked_at = now
      if _state.board is not None and not _state.leaving:
        now_too = not _state.deferring
        _state.board.write(Word(errors.EXIT_PREEMPTED, _LINE, now=now_too))
      if _state.callback is not None:
        _state.callback()
    elif again and now - _state.asked_at > _AGAIN_SECONDS:
      line = "interrupted twice: what was not saved yet is lost"
      _exit(Word(_EXIT_INTERRUPTED, line, now=True))
    if not (_state.deferring or _state.leaving):
      _leave_if_asked()

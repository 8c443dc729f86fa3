"""SIGTERM and Ctrl-C, in real processes that do nothing but what is tested."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HEAD = """
import os, pathlib, signal, subprocess, sys, threading, time
from genrep_jax.lib import stopping
stopping.install()
def ready():
  print("ready", flush=True)
"""


def _start(body, **environment):
  """Starts a program; returns once it has said that it is ready."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HEAD + textwrap.dedent(body)],
    cwd=_ROOT,
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "ready\n", process.stderr.read()
  return process


def _end(process):
  out, err = process.communicate(timeout=30)
  return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
  "busy",
  [
    "while True: pass",
    # One call without a bytecode in between, as a compilation is.
    "import ctypes; ctypes.CDLL(None).pause(); ctypes.CDLL(None).sleep(60)",
  ],
  ids=["python", "c"],
)
def test_where_nothing_is_lost_it_ends_at_once(number, busy):
  process = _start(f"ready()\n{busy}")
  process.send_signal(number)
  code, _, err = _end(process)
  assert code == 75 and err.startswith("preempted: nothing is lost")
  assert err.count("\n") == 1


def test_what_is_not_saved_defers_it_and_sees_the_request():
  process = _start("""
    with stopping.deferred():
      ready()
      while not stopping.requested():
        time.sleep(0.01)
      print("saving", flush=True)
      time.sleep(0.3)
      print("saved", flush=True)
    print("too late")
  """)
  process.send_signal(signal.SIGTERM)
  process.send_signal(signal.SIGTERM)  # schedulers repeat themselves
  assert _end(process)[:2] == (75, "saving\nsaved\n")


def test_once_saved_it_ends_at_once_within_deferred():
  process = _start("""
    with stopping.deferred():
      with stopping.saved():
        ready()
        time.sleep(60)
  """)
  process.send_signal(signal.SIGTERM)
  assert _end(process)[0] == 75
  process = _start("""
    with stopping.deferred():
      ready()
      while not stopping.requested():
        time.sleep(0.01)
      with stopping.saved():
        print("too late")
  """)
  process.send_signal(signal.SIGTERM)
  assert _end(process)[:2] == (75, "")


def test_who_is_leaving_leaves_in_its_own_way():
  process = _start("""
    try:
      with stopping.deferred():
        ready()
        while not stopping.requested():
          time.sleep(0.01)
        raise RuntimeError("stop here")
    except RuntimeError:
      time.sleep(0.3)
      print("closed", flush=True)
      sys.exit(33)
  """)
  process.send_signal(signal.SIGTERM)
  assert _end(process)[:2] == (33, "closed\n")


def test_a_second_interrupt_does_not_wait():
  process = _start("""
    with stopping.deferred():
      ready()
      time.sleep(60)
  """)
  process.send_signal(signal.SIGINT)
  time.sleep(0.3)
  process.send_signal(signal.SIGINT)  # the terminal's and the launcher's: one
  time.sleep(1.3)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  code, _, err = _end(process)
  assert code == 130 and "not saved" in err


def test_a_callback_and_what_cleans_up():
  process = _start("""
    child = subprocess.Popen(["sleep", "600"])
    stopping.at_exit(lambda: print("cleaned", flush=True))
    with stopping.deferred(child.terminate):
      ready()
      print(child.wait(), flush=True)
  """)
  process.send_signal(signal.SIGTERM)
  assert _end(process)[:2] == (75, "-15\ncleaned\n")


def test_it_follows_its_parent_into_the_end():
  parent = _start("""
    child = '''
    import os, time
    from genrep_jax.lib import stopping
    stopping.install()
    assert stopping.PARENT not in os.environ
    print("ready", flush=True)
    time.sleep(60)
    '''.replace("\\n    ", "\\n")
    environment = {**os.environ, stopping.PARENT: str(os.getpid())}
    subprocess.Popen([sys.executable, "-c", child], env=environment)
    time.sleep(60)
  """)
  parent.kill()
  # The child holds the same pipes: they end with it.
  code, _, err = _end(parent)
  assert code == -9 and "preempted: nothing is lost" in err


def test_a_forked_worker_is_ended_alone():
  process = _start("""
    with stopping.deferred():
      worker = os.fork()
      if not worker:
        time.sleep(60)
      os.kill(worker, signal.SIGTERM)
      assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -15
      time.sleep(0.2)
      assert not stopping.requested()
      ready()
  """)
  assert _end(process)[0] == 0


_BOARD = """
class Board:
  def __init__(self, name):
    self.path = pathlib.Path(os.environ["BOARD"]) / name
  def read(self):
    words = [stopping.Word(*eval(p.read_text()))
             for p in self.path.parent.glob("?")]
    return max(words, key=lambda w: (w.code != 75, w.now), default=None)
  def write(self, word):
    new = self.path.with_suffix(".new")
    new.write_text(repr(tuple(word)))
    new.replace(self.path)
  def farewell(self):
    pass
"""


def test_one_process_is_asked_and_all_leave(tmp_path):
  body = (
    _BOARD
    + """
stopping.share(Board(sys.argv[1] if len(sys.argv) > 1 else os.environ["NAME"]))
with stopping.deferred():
  ready()
  while not stopping.requested():
    time.sleep(0.01)
  print("saved", flush=True)
"""
  )
  a, b = (_start(body, BOARD=str(tmp_path), NAME=name) for name in "ab")
  a.send_signal(signal.SIGTERM)
  assert _end(a)[:2] == (75, "saved\n")
  assert _end(b)[:2] == (75, "saved\n")


def test_a_failure_of_one_is_told_by_all(tmp_path):
  wait = _BOARD + 'stopping.share(Board("a"))\n'
  a = _start(
    wait + "with stopping.deferred():\n  ready()\n  time.sleep(60)",
    BOARD=str(tmp_path),
  )
  fail = _BOARD + 'stopping.share(Board("b"))\nready()\n'
  b = _start(fail + 'stopping.leave(2, "error: bad key")', BOARD=str(tmp_path))
  assert _end(b)[0] == 2
  code, _, err = _end(a)
  assert (code, err) == (2, "error: bad key\n")


def test_its_own_failure_is_not_taken_for_a_request(tmp_path):
  """The watcher looks around while the main thread waits for the others."""
  body = """
  class Slow(Board):
    def farewell(self):
      stopping._wake()
      time.sleep(1)
  stopping.share(Slow("a"))
  ready()
  stopping.leave(2, "error: bad key")
  """
  process = _start(_BOARD + textwrap.dedent(body), BOARD=str(tmp_path))
  code, _, err = _end(process)
  assert (code, err) == (2, "error: bad key\n")
  assert eval((tmp_path / "a").read_text())[0] == 2


def test_a_program_that_did_not_install_it_keeps_its_signals():
  code = """
    from genrep_jax.lib import stopping
    with stopping.deferred():
      try:
        import time
        print("ready", flush=True)
        time.sleep(60)
      except KeyboardInterrupt:
        print(stopping.requested())
  """
  process = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code)],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  process.stdout.readline()
  process.send_signal(signal.SIGINT)
  assert _end(process) == (0, "False\n", "")

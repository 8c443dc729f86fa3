"""A folder is held by one process at a time, and by no dead one."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from genrep_jax.lib import errors, lock

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HOLD = """
import sys, time
from genrep_jax.lib import lock
with lock.Lock(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


def _hold(folder):
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(folder)],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  return process


def _refusal(folder):
  with pytest.raises(errors.UsageError) as refused:
    lock.Lock(folder)
  return str(refused.value)


def test_the_second_is_refused_and_the_first_is_named(tmp_path):
  with _hold(tmp_path) as first:
    before = (tmp_path / lock.NAME).read_text()
    line = _refusal(tmp_path)
    assert f"process {first.pid} on {socket.gethostname()}" in line
    assert line.startswith(f"workdir: {str(tmp_path)!r} is held by")
    assert (tmp_path / lock.NAME).read_text() == before
    first.stdin.close()
    first.wait(30)
  assert os.listdir(tmp_path) == []
  with lock.Lock(tmp_path):
    assert f"process {os.getpid()} on" in _refusal(tmp_path)


def test_a_crash_frees_it(tmp_path):
  with _hold(tmp_path) as first:
    first.kill()
  assert lock.read(tmp_path)["pid"] == first.pid
  with lock.Lock(tmp_path):
    assert lock.read(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "\x00\xff", "{}"])
def test_a_damaged_file_holds_nothing(tmp_path, text):
  (tmp_path / lock.NAME).write_bytes(text.encode("latin1"))
  with lock.Lock(tmp_path):
    assert lock.read(tmp_path)["pid"] == os.getpid()


def test_folders_made_for_nothing_go_again(tmp_path):
  with lock.Lock(tmp_path / "a" / "b"):
    assert (tmp_path / "a" / "b" / lock.NAME).exists()
  assert os.listdir(tmp_path) == []
  with lock.Lock(tmp_path / "a" / "b"):
    (tmp_path / "a" / "x").touch()
  assert os.listdir(tmp_path / "a") == ["x"]


def _elsewhere(folder, beat=0):
  about = {"pid": 7, "host": "far", "since": "today", "beat": beat}
  (folder / lock.NAME).write_text(json.dumps(about))


def test_another_machine_is_listened_to(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(lock, "_DEAD_SECONDS", 1.5)
  _elsewhere(tmp_path)
  with lock.Lock(tmp_path):  # it is silent
    assert lock.read(tmp_path)["pid"] == os.getpid()
  assert "held by process 7 on far; listening" in capsys.readouterr().err

  monkeypatch.setattr(lock, "_DEAD_SECONDS", 30)
  _elsewhere(tmp_path)
  threading.Timer(0.3, _elsewhere, (tmp_path, 1)).start()
  start = time.monotonic()
  assert "held by process 7 on far since today" in _refusal(tmp_path)
  assert time.monotonic() - start < 20

  _elsewhere(tmp_path)
  threading.Timer(0.3, os.unlink, (tmp_path / lock.NAME,)).start()
  with lock.Lock(tmp_path):  # it has just finished
    pass


def test_it_shows_that_it_lives(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.05)
  with lock.Lock(tmp_path):
    first, limit = lock.read(tmp_path), time.monotonic() + 20
    while (now := lock.read(tmp_path)) == first or not now:
      assert time.monotonic() < limit
      time.sleep(0.02)
    assert now["token"] == first["token"]


def test_a_folder_that_cannot_be_is_an_error_that_names_it(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match="file"):
    lock.Lock(tmp_path / "file" / "run")

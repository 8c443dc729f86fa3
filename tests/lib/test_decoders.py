"""Images decoded by processes: as one decodes them, and no process is left."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from genrep_jax.lib import decoders, decoding, errors

COUNT = 70  # of images: several requests for each process


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp("images")
  random = np.random.default_rng(0)
  made = []
  for number in range(COUNT):
    pixels = random.integers(0, 255, (20 + number, 30, 3), np.uint8)
    made.append(str(folder / f"{number}.jpg"))
    Image.fromarray(pixels).save(made[-1])
  return made


def decode(paths, shape=(8, 8, 3), **how):
  how = how or {"image_px": 8}
  return decoders.decode(
    lambda at: (paths[at], paths[at]), len(paths), shape, 3, lambda at: how
  )


def children():
  """Returns the processes of `decoders` that this one has."""
  found = subprocess.run(
    ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(os.getpid())],
    capture_output=True,
    text=True,
    check=False,
  ).stdout.splitlines()
  return [int(x.split()[0]) for x in found if "decoders.serve" in x]


def test_processes_decode_what_one_does(paths):
  by_hand = [decoding.decode(path, 3, image_px=8) for path in paths]
  np.testing.assert_array_equal(decode(paths), by_hand)
  np.testing.assert_array_equal(decode(paths[:3]), by_hand[:3])
  assert decode([]).shape == (0, 8, 8, 3)
  boxes = [(0, 0, 9, 9), (3, 3, 12, 9)]
  cut = decode(paths, (2, 8, 8, 3), image_px=8, boxes=boxes)
  by_hand = [decoding.decode(x, 3, image_px=8, boxes=boxes) for x in paths]
  np.testing.assert_array_equal(cut, by_hand)


def test_pixels_and_contents_travel_too():
  pixels = np.arange(40 * 16 * 16 * 3, dtype=np.uint8).reshape(40, 16, 16, 3)
  made = decoders.decode(
    lambda at: (pixels[at], "pixels"), 40, (16, 16, 3), 3, lambda at: {}
  )
  np.testing.assert_array_equal(made, pixels)


@pytest.mark.parametrize("count", [3, COUNT])
def test_errors_are_those_of_one_process(paths, tmp_path, count):
  bad = tmp_path / "bad.png"
  bad.write_bytes(b"nothing")
  some = [*paths[: count - 1], str(bad)]
  with pytest.raises(decoding.Unreadable, match="bad.png: not a JPEG"):
    decode(some)
  odd = tmp_path / "odd.png"
  Image.new("RGB", (5, 4)).save(odd)
  same = tmp_path / "same.png"
  Image.new("RGB", (8, 8)).save(same)
  some = [*[str(same)] * (count - 1), str(odd)]
  with pytest.raises(decoders.Changed) as caught:
    decode(some, image_px=0)
  assert (caught.value.at, caught.value.shape) == (count - 1, (4, 5, 3))


@pytest.mark.skipif(decoding.cores() == 1, reason="one core decodes by itself")
def test_a_process_that_is_killed_is_started_again(paths):
  whole = decode(paths)
  before = children()
  assert before
  for pid in before:
    os.kill(pid, signal.SIGTERM)  # is not for them
  np.testing.assert_array_equal(decode(paths), whole)
  assert children() == before
  for pid in before:
    os.kill(pid, signal.SIGKILL)
  np.testing.assert_array_equal(decode(paths), whole)
  assert not set(children()) & set(before)


@pytest.mark.skipif(decoding.cores() == 1, reason="one core decodes by itself")
def test_one_that_cannot_be_started_is_told(paths, monkeypatch):
  for pid in children():
    os.kill(pid, signal.SIGKILL)
  monkeypatch.setattr(decoders, "_SERVE", "raise SystemExit(3)")
  with pytest.raises(errors.UsageError, match="ended .3., twice, while it dec"):
    decode(paths)


@pytest.mark.skipif(decoding.cores() == 1, reason="one core decodes by itself")
def test_none_outlives_a_killed_parent(paths):
  code = f"""
import os, time
from genrep_jax.lib import decoders
paths = {paths!r}
decoders.decode(
  lambda at: (paths[at], "x"), len(paths), (8, 8, 3), 3,
  lambda at: {{"image_px": 8}})
ps = f"ps -ww -o pid= -o args= --ppid {{os.getpid()}}"
print(os.popen(ps).read(), flush=True)
time.sleep(600)
"""
  with subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  ) as parent:
    lines = [parent.stdout.readline() for _ in range(decoding.cores())]
    pids = [int(x.split()[0]) for x in lines if "decoders.serve" in x]
    parent.kill()
  assert pids
  end = time.monotonic() + 60
  while any(os.path.exists(f"/proc/{pid}") for pid in pids):
    assert time.monotonic() < end, pids
    time.sleep(0.05)

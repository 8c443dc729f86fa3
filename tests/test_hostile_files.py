"""No file runs code, waits, or takes more than its share: one line refuses it.

The files are tests/hostile.py's; here they are read by all that reads a file of
a user's: conversion, weights, latents, recorded tables.
"""

import contextlib
import io
import pathlib
import random
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import safetensors.numpy

from genrep_jax.encoders.contrib import bigbigan_tf
from genrep_jax.lib import (
  errors,
  files,
  foreign,
  frozen,
  latents,
  report,
  results,
  study,
  weights,
)
from genrep_jax.tools import convert_weights
from tests import hostile, support, torch_files
from tests.lib import test_tensor_bundle as bundles

SEEDS = 60  # of damages, to every file


class Toy:
  """What `latents.read` needs of a generator."""

  sample_dim = 3
  num_classes = 0


def convert(path):
  convert_weights.main(
    ["--arch", "stylegan2", "--source", str(path), "--out", f"{path}.made"]
  )


def listed(path):
  with contextlib.redirect_stdout(io.StringIO()) as said:
    convert_weights.main(["--list", "--source", str(path)])
  assert said.getvalue().replace("\t", "").replace("\n", "").isprintable()


def load(path):
  weights.load(path, None, {"a": jax.ShapeDtypeStruct((9,), np.float32)})


def read_latents(path):
  latents.read("--latents", path, Toy, "toy")


READERS = {
  ".safetensors": (convert, listed, load, frozen.from_file, weights.sha256),
  ".npz": (convert, listed, read_latents, load),
  ".pt": (convert, load),
  "": (convert, listed),
}
# Such a file is what it says, and no more is asked of `--list`, of `load` that
# no metadata concern, and of a digest.
FINE = {listed: "", load: "safetensors", weights.sha256: ""}


def outcome(reader, path) -> str:
  """Returns the line that refuses a file, or "" if it is read."""
  try:
    reader(path)
  except errors.UsageError as error:
    line = str(error)
    assert type(error) is errors.UsageError, (reader, path, line)
    assert line.isprintable() and len(line) < 3000, (reader, path, line)
    return line
  return ""


@pytest.fixture(scope="module")
def lies(tmp_path_factory):
  """{name: path} of every hostile file, and what must never appear."""
  folder = tmp_path_factory.mktemp("lies")
  return hostile.write(folder, folder / "ran"), folder / "ran"


def group(made, *starts):
  return {name: path for name, path in made.items() if name.startswith(starts)}


@pytest.mark.parametrize(
  "starts",
  [
    ("npz",),
    ("safetensors",),
    ("torch:", "old torch"),
    ("torch zip", "pickle"),
    ("tensorflow",),
    hostile.SPECIAL,
  ],
  ids=lambda starts: starts[0].strip(":"),
)
def test_a_file_that_lies_is_refused_in_one_line(lies, starts):
  made, ran = lies
  some = group(made, *starts)
  assert len(some) > 20
  for name, path in some.items():
    for reader in READERS.get(path.suffix, READERS[""]):
      line = outcome(reader, path)
      assert line or reader in FINE and name.startswith(FINE[reader]), name
    assert not pathlib.Path(f"{path}.made").exists()
  assert not ran.exists()


def test_what_code_would_make_is_named_and_never_made(lies):
  made, ran = lies
  evil = group(made, "torch: runs", "old torch: runs", "pickle")
  for name, path in evil.items():
    line = outcome(listed, path)
    if name.endswith(("protocol 0", "protocol 1")) and path.suffix == ".pkl":
      assert "no known format" in line
    elif "plain" not in name:
      assert "would run code" in line and "python -c" in line, name
  line = outcome(listed, made["torch: runs os.system"])
  assert "g_ema (the value of a call of os.system)" in line
  assert not ran.exists()


def test_refusals_take_memory_by_the_file_not_by_its_claims(lies):
  """A process with little room reads those that claim or become much."""
  much = "bomb|TB|[*][*]|claims|huge|expanded|laugh|long|alias|times|many"
  worst = [str(path) for name, path in lies[0].items() if re.search(much, name)]
  assert len(worst) > 30
  code = """
    import pathlib, resource, sys
    import numpy
    from genrep_jax.lib import errors, foreign
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    room = used * resource.getpagesize() + (400 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for path in sys.argv[1:]:
      try:
        foreign.read(pathlib.Path(path))
      except errors.UsageError as error:
        assert not isinstance(error.__cause__, MemoryError), path
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), *worst],
    cwd=support.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def sound(folder):
  """One whole file of each format; returns {name: path}."""
  arrays = {f"a.{i}": np.arange(i + 4, dtype=np.float32) for i in range(9)}
  np.savez(folder / "a.npz", **arrays)
  np.savez_compressed(folder / "b.npz", z=np.ones((4, 3)), y=np.zeros(4, int))
  safetensors.numpy.save_file(arrays, folder / "a.safetensors", {"a": "b"})
  weights.save(folder / "b.safetensors", arrays, {"generator": {"name": "x"}})
  torch_files.write(folder / "a.pt", {"g_ema": arrays, "args": {"b": [1.5]}})
  torch_files.write_old(folder / "b.pt", {"g_ema": arrays, "n": 3})
  bundles.write(folder / "c", arrays)
  made = [p for p in folder.iterdir() if p.suffix != ".made"]
  return {p.name: p for p in made}


def damaged(data: bytes, seed: int) -> bytes:
  """Some bytes changed, cut, put in, or written over by others of it."""
  choose, data = random.Random(seed), bytearray(data)
  for _ in range(choose.choice((1, 1, 2, 8))):
    at = choose.randrange(len(data) + 1)
    kind = choose.randrange(5)
    if kind == 0 and at < len(data):
      data[at] = choose.randrange(256)
    elif kind == 1 and at < len(data):
      data[at] ^= 1 << choose.randrange(8)
    elif kind == 2:
      data[at:at] = choose.randbytes(choose.randrange(1, 9))
    elif kind == 3:
      del data[at : at + choose.choice((1, 4, 100, 10_000))]
    else:
      other = choose.randrange(len(data) + 1)
      data[at : at + 8] = data[other : other + 8]
  return bytes(data)


def test_damage_gives_a_line_or_an_array(tmp_path):
  for name, path in sound(tmp_path).items():
    whole, read = path.read_bytes(), path
    readers = READERS.get(path.suffix, READERS[""])
    if path.suffix not in READERS:
      read = tmp_path / "c"  # a checkpoint of several files
    for seed in range(SEEDS):
      path.write_bytes(damaged(whole, seed))
      for reader in readers:
        try:
          outcome(reader, read)
        except Exception as error:
          raise AssertionError(f"{name}, seed {seed}, {reader}") from error
    path.write_bytes(whole)


def test_only_regular_files_are_opened(tmp_path):
  (tmp_path / "file").write_bytes(b"x")
  assert "\\n" in outcome(foreign.read, tmp_path / "two\nlines")
  assert files.regular(tmp_path / "file") == tmp_path / "file"
  for kind in (*hostile.SPECIAL, "nothing", "zero\0byte"):
    path = tmp_path / kind
    if kind in hostile.SPECIAL:
      hostile.special(path, kind)
    if kind == "empty":
      assert files.regular(path) == path
      continue
    with pytest.raises(OSError):
      files.regular(path)
    if "\0" in kind:  # no command line holds one
      continue
    for reader in (
      weights.resolve,
      results.recorded,
      foreign.sha256,
      bigbigan_tf.read_table,
      lambda path: study.read(path, None),
    ):
      assert outcome(reader, path), (reader, kind)
  folder = tmp_path / "run"
  folder.mkdir()
  hostile.special(folder / "summary.json", "fifo")
  assert "fifo" in outcome(report.read, folder)

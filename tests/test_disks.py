"""Disks that are full: every writer ends in one line that names its file."""

import contextlib
import errno
import os
import pathlib
import resource
import shutil
import subprocess

import numpy as np
import pytest

from genrep_jax.lib import (
  errors,
  figures,
  files,
  pictures,
  report,
  weights,
  writers,
)
from tests import support

IMAGE = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)


@contextlib.contextmanager
def mounted(folder, *options):
  """Mounts a small file system, as root may."""
  if shutil.which("mount") is None or os.geteuid() != 0:
    pytest.skip("needs root to mount a small tmpfs")
  mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("tmpfs cannot be mounted here")
  try:
    yield
  finally:
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def limited(size):
  """No file may grow beyond so many bytes, for whoever is not root, too."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(params=["full disk", "size limit"])
def full(request, tmp_path):
  """(a folder, a context in which nothing more can be written to it, why)."""
  if request.param == "size limit":
    yield tmp_path, lambda: limited(0), os.strerror(errno.EFBIG)
    return
  folder = tmp_path / "disk"
  folder.mkdir()
  with mounted(folder, "size=300k"):

    @contextlib.contextmanager
    def filled():
      free = shutil.disk_usage(folder).free
      (folder / "ballast").write_bytes(bytes(free))
      yield
      (folder / "ballast").unlink()

    yield folder, filled, os.strerror(errno.ENOSPC)


def summary():
  return {
    "title": "x",
    "columns": [],
    "rows": [],
    "config": {},
    "versions": {},
    **{key: {} for key in ("pictures", "seconds", "about", "facts", "exports")},
  }


def panel():
  return figures.Panel("t", "x", "y", [("a", [(0, 1, 0), (1, 2, 0)])])


WRITE = {  # file -> writes it into a folder
  "a.png": lambda x: pictures.save_png(x / "a.png", IMAGE),
  "b.png": lambda x: figures.line_plot(x / "b.png", panel()),
  "b.svg": lambda x: figures.line_plot(x / "b.svg", panel()),
  "c.txt": lambda x: files.write_text(x / "c.txt", "text"),
  "summary.json": lambda x: files.write_json(x / "summary.json", summary()),
  "report.html": lambda x: report.write(x, summary()),
  "d.safetensors": lambda x: weights.save(
    x / "d.safetensors", {"w": np.ones(9, np.float32)}, {}
  ),
}


@pytest.mark.parametrize("name", WRITE)
def test_a_file_is_named_and_absent_or_what_it_was(full, name):
  folder, filled, why = full
  write = WRITE[name]
  write(folder)
  before = (folder / name).read_bytes()
  with filled():
    with pytest.raises(OSError) as caught:
      write(folder)
    line = str(caught.value)
    left = {path.name for path in folder.iterdir()} - {"ballast"}
  assert line == f"cannot write {folder / name}: {why}"
  assert left == {name}
  assert (folder / name).read_bytes() == before
  write(folder)


def test_a_log_names_itself_and_closes(full):
  """Of both logs; what was written before the disk was full can be read."""
  folder, filled, why = full
  for tensorboard in (False, True):
    run = folder / str(tensorboard)
    writer = writers.make_writer(run, tensorboard=tensorboard)
    writer.write_scalars(1, {"loss": 1.0})
    with filled():
      # A disk takes what fits into its last page, so there is more than that.
      with pytest.raises(OSError) as caught:
        for step in range(2, 300):
          writer.write_scalars(step, {"loss": 1.0})
      writer.close()
    assert str(caught.value) == f"cannot write {run / 'metrics.jsonl'}: {why}"
    assert writers.read_jsonl(run / "metrics.jsonl")[0]["loss"] == 1.0
  writer = writers.TensorBoardWriter(folder / "events")
  (file,) = (folder / "events").iterdir()
  with filled():
    with pytest.raises(OSError) as caught:
      writer.write_images(2, {"noise": IMAGE})
    writer.close()
    writer.close()
  assert str(caught.value) == f"cannot write {file}: {why}"
  # And a log that cannot be opened.
  (folder / "afile").write_text("x")
  with pytest.raises(OSError, match="afile"):
    writers.make_writer(folder / "afile")


def test_one_log_that_fails_leaves_none_open(tmp_path):
  closed = []

  class Log(writers.NoopWriter):
    def __init__(self, name):
      self._name = name

    def close(self):
      closed.append(self._name)
      raise OSError(self._name)

  with pytest.raises(OSError):
    writers.MultiWriter([Log("a"), Log("b")]).close()
  assert closed == ["a", "b"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
  with (
    pytest.raises(FileNotFoundError, match="other"),
    files.atomic(tmp_path / "a") as partial,
  ):
    partial.write_bytes((tmp_path / "other").read_bytes())
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kib", [60, 300, 1200])
def test_a_run_on_a_full_disk_ends_in_one_line(tmp_path, kib):
  with mounted(tmp_path, f"size={kib}k"):
    done = support.main(tmp_path / "run", timeout=120)
    assert done.returncode == errors.EXIT_USAGE, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and str(tmp_path) in line
    assert "No space left on device" in line


@pytest.mark.slow
def test_a_run_on_a_read_only_disk_ends_in_one_line(tmp_path):
  with mounted(tmp_path, "ro"):
    done = support.main(tmp_path / "run", timeout=120)
    assert done.returncode == errors.EXIT_USAGE, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert str(tmp_path) in line and "Read-only file system" in line
    assert not list(pathlib.Path(tmp_path).iterdir())

"""The idx files: read right, and every kind of damage named in one line."""

import gzip
import hashlib

import numpy as np
import pytest

from genrep_jax.data import fashion_mnist
from genrep_jax.lib import errors, plugins

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def idx(array):
  array = np.asarray(array, np.uint8)
  shape = np.asarray(array.shape, ">u4").tobytes()
  return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


@pytest.fixture
def files(monkeypatch):
  """The four files of a tiny set, {name: content}, and their digests pinned."""
  random = np.random.default_rng(0)
  contents = {}
  for prefix, count in (("train", 7), ("t10k", 5)):
    images = random.integers(0, 256, (count, 4, 3))
    contents[f"{prefix}-images-idx3-ubyte"] = idx(images)
    contents[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(count))
  pin(monkeypatch, contents)
  return contents


def pin(monkeypatch, contents):
  digests = {
    name: hashlib.sha256(content).hexdigest()
    for name, content in contents.items()
  }
  monkeypatch.setattr(fashion_mnist, "SHA256", digests)


def write(folder, contents, *, zipped=True):
  for name, content in contents.items():
    if zipped:
      (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
      (folder / name).write_bytes(content)
  return {"name": "fashion_mnist", "data_dir": str(folder)}


def refused(cfg):
  with pytest.raises(errors.UsageError) as caught:
    plugins.make("data", cfg)
  message = str(caught.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_was_written(files, tmp_path, zipped):
  dataset = plugins.make("data", write(tmp_path, files, zipped=zipped))
  for split, name in ((dataset.train, TRAIN), (dataset.test, TEST)):
    count = {TRAIN: 7, TEST: 5}[name]
    assert split.images.shape == (count, 4, 3, 1)
    assert split.images.dtype == np.uint8
    assert split.images.tobytes() == files[name][16:]
    np.testing.assert_array_equal(split.labels, np.arange(count))
    assert split.labels.dtype == np.int32


def test_names_every_missing_file_and_the_folder(files, tmp_path):
  cfg = write(tmp_path, files)
  (tmp_path / f"{TRAIN}.gz").unlink()
  (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
  message = refused(cfg)
  assert str(tmp_path) in message
  assert TRAIN in message and "t10k-labels-idx1-ubyte" in message
  assert "train-labels" not in message and TEST not in message


@pytest.mark.parametrize("data_dir", ["", "/nowhere"])
def test_no_such_folder(data_dir):
  message = refused({"name": "fashion_mnist", "data_dir": data_dir})
  assert f"no such folder: {data_dir!r}" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(files, tmp_path, zipped):
  files[TEST] = files[TEST][:-1]
  message = refused(write(tmp_path, files, zipped=zipped))
  assert TEST in message and "truncated: 75 bytes" in message
  assert "promises 76" in message


def test_truncated_gzip(files, tmp_path):
  cfg = write(tmp_path, files)
  path = tmp_path / f"{TRAIN}.gz"
  path.write_bytes(path.read_bytes()[:-20])
  assert f"{path}: truncated or damaged gzip" in refused(cfg)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_not_a_gzip_and_not_an_idx_file(files, tmp_path, content):
  cfg = write(tmp_path, files)
  zipped = tmp_path / f"{TRAIN}.gz"
  zipped.write_bytes(content or b"\0")
  assert f"{zipped}: truncated or damaged gzip" in refused(cfg)
  (tmp_path / TRAIN).write_bytes(content)  # the plain file has precedence
  message = refused(cfg)
  assert f"{tmp_path / TRAIN}: not an idx file" in message
  assert "00000803" in message


def test_labels_where_images_belong(files, tmp_path, monkeypatch):
  files[TRAIN] = files["train-labels-idx1-ubyte"]
  pin(monkeypatch, files)
  assert "with 3 dimensions" in refused(write(tmp_path, files))


def test_wrong_digest_names_got_and_expected(files, tmp_path):
  expected = fashion_mnist.SHA256[TRAIN]
  files[TRAIN] = files[TRAIN][:-1] + bytes([files[TRAIN][-1] ^ 1])
  message = refused(write(tmp_path, files))
  got = hashlib.sha256(files[TRAIN]).hexdigest()
  assert TRAIN in message and f"got {got}, expected {expected}" in message


def test_more_labels_than_images(files, tmp_path, monkeypatch):
  files["train-labels-idx1-ubyte"] = idx(np.zeros(8))
  pin(monkeypatch, files)
  message = refused(write(tmp_path, files))
  assert "7 images but 8 labels" in message

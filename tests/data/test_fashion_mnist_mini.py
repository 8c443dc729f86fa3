"""The embedded set: balanced, pinned, and what its tool would write again."""

import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.data import fashion_mnist, fashion_mnist_mini
from genrep_jax.lib import contracts, errors, plugins
from genrep_jax.tools import make_mini_set

NOTICE = fashion_mnist_mini.PATH.with_suffix(".md")
DEBIAN = pathlib.Path(plugins.defaults("data", "fashion_mnist")["data_dir"])


def make(name="fashion_mnist_mini"):
  return plugins.make("data", {"name": name})


def test_shapes_balance_and_size():
  dataset = make()
  for split, per_class in ((dataset.train, 500), (dataset.test, 1000)):
    assert split.images.shape == (10 * per_class, 28, 28, 1)
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(split.labels), [per_class] * 10)
  assert dataset.num_classes == len(dataset.class_names) == 10
  assert fashion_mnist_mini.PATH.stat().st_size <= 8_000_000


def test_no_test_image_is_a_training_image():
  dataset = make()
  train = {image.tobytes() for image in dataset.train.images}
  assert not any(image.tobytes() in train for image in dataset.test.images)


def test_notice_records_licence_and_digests():
  text = NOTICE.read_text()
  assert "2017 Zalando SE" in text and "Permission is hereby granted" in text
  assert fashion_mnist_mini.SHA256 in text
  assert data.digest(make()) in text


def test_another_file_is_refused(tmp_path, monkeypatch):
  content = bytearray(fashion_mnist_mini.PATH.read_bytes())
  content[1000] ^= 1
  path = tmp_path / "mini.npz"
  path.write_bytes(content)
  monkeypatch.setattr(fashion_mnist_mini, "PATH", path)
  with pytest.raises(errors.UsageError, match="wrong sha256: got .*expected"):
    make()
  path.unlink()
  with pytest.raises(errors.UsageError, match="unreadable: No such file"):
    make()


def full_set(per_class):
  random = np.random.default_rng(0)
  labels = random.permutation(np.repeat(np.arange(10), per_class))
  labels = labels.astype(np.int32)
  images = random.integers(0, 256, (len(labels), 3, 2, 1)).astype(np.uint8)
  split = contracts.Split(images, labels)
  return contracts.Dataset("full", 10, ("",) * 10, split, split)


def test_tool_takes_the_first_of_each_class():
  full = full_set(1001)
  mini = make_mini_set.choose(full)
  for split, per_class in ((mini.train, 500), (mini.test, 1000)):
    for label in range(10):
      np.testing.assert_array_equal(
        split.images[split.labels == label],
        full.train.images[full.train.labels == label][:per_class],
      )
  assert make_mini_set.encode(mini) == make_mini_set.encode(mini)
  with pytest.raises(errors.UsageError, match="not 500 images of every class"):
    make_mini_set.choose(full_set(499))
  with pytest.raises(errors.UsageError, match="test: not 1000 images of every"):
    make_mini_set.choose(full_set(999))


@pytest.mark.skipif(
  not DEBIAN.is_dir(), reason=f"no {DEBIAN}: Debian's dataset-fashion-mnist"
)
def test_embedded_set_follows_the_rule():
  full = make("fashion_mnist")
  mini = make_mini_set.choose(full)
  embedded = make()
  for split in ("train", "test"):
    for new, old in zip(getattr(mini, split), getattr(embedded, split)):
      np.testing.assert_array_equal(new, old)


def test_tool_writes_what_can_be_read(tmp_path, monkeypatch):
  full = full_set(1000)
  monkeypatch.setattr(fashion_mnist, "make", lambda cfg: full)
  out = tmp_path / "mini.npz"
  printed = "\n".join(make_mini_set.write("anywhere", str(out)))
  sha256 = hashlib.sha256(out.read_bytes()).hexdigest()
  monkeypatch.setattr(fashion_mnist_mini, "PATH", out)
  monkeypatch.setattr(fashion_mnist_mini, "SHA256", sha256)
  written = make()
  assert sha256 in printed and data.digest(written) in printed
  assert data.digest(written) == data.digest(make_mini_set.choose(full))
  with pytest.raises(errors.UsageError, match="cannot write .*No such file"):
    make_mini_set.write("anywhere", str(tmp_path / "no" / "mini.npz"))


def test_tool_refuses_in_one_line(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "genrep_jax.tools.make_mini_set"),
      *(f"--data_dir={tmp_path}", f"--out={tmp_path / 'out.npz'}"),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == errors.EXIT_USAGE
  assert len(done.stderr.strip().splitlines()) == 1
  assert "train-images-idx3-ubyte" in done.stderr
  assert not (tmp_path / "out.npz").exists()

"""Published sets: small ones of the same layout, and what they may lack."""

import hashlib
import io
import pickle

import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.data import cifar10, cifar100, imagenet100, stl10, voc07
from genrep_jax.lib import decoding, errors, plugins
from tests.data import image_files


def make(name, **changes):
  made = plugins.make("data", {"name": name, **changes})
  data.check(made, name)
  return made


def refused(name, **changes):
  with pytest.raises(errors.UsageError) as caught:
    make(name, **changes)
  assert not isinstance(caught.value, errors.PluginError), caught.value
  message = str(caught.value)
  assert "\n" not in message
  return message


def md5(content):
  return hashlib.md5(content).hexdigest()


# CIFAR


def batch(count, seed, **labels):
  random = np.random.default_rng(seed)
  rows = random.integers(0, 256, (count, 3072)).astype(np.uint8)
  return {"data": rows, "filenames": ["x.png"] * count, **labels}


def published(value):
  """Pickles as Python 2 and its NumPy did."""
  file = io.BytesIO()
  _Python2(file, protocol=2).dump(value)
  content = file.getvalue()
  return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class _Python2(pickle._Pickler):
  """Texts are bytes."""

  dispatch = dict(pickle._Pickler.dispatch)

  def save_bytes(self, value):
    self.write(b"T" + len(value).to_bytes(4, "little") + value)
    self.memoize(value)

  def save_text(self, value):
    self.save_bytes(value.encode())

  dispatch[bytes] = save_bytes
  dispatch[str] = save_text


@pytest.fixture
def cifar(tmp_path, monkeypatch):
  """Both sets in miniature: {plug-in's name: its batches}."""
  ten = {
    name: batch(3, seed, labels=[seed % 3, 1, 2])
    for seed, name in enumerate(cifar10.MD5)
    if name != "batches.meta"
  }
  ten["batches.meta"] = {"label_names": ["a", "b", "c"]}
  fine = {"fine_labels": [0, 1, 2, 3], "coarse_labels": [1, 0, 0, 1]}
  hundred = {
    "train": batch(4, 10, **fine),
    "test": batch(4, 11, **fine),
    "meta": {
      "fine_label_names": ["p", "q", "r", "s"],
      "coarse_label_names": ["y", "z"],
    },
  }
  for module, batches in ((cifar10, ten), (cifar100, hundred)):
    folder = tmp_path / module._FOLDER
    folder.mkdir()
    for name, one in batches.items():
      (folder / name).write_bytes(published(one))
      monkeypatch.setitem(module.MD5, name, md5(published(one)))
  return {"cifar10": ten, "cifar100": hundred}


def test_cifar_against_a_loop_over_pixels(cifar, tmp_path):
  made = make("cifar10", data_dir=str(tmp_path))
  assert made.class_names == ("a", "b", "c") and len(made.train.labels) == 15
  second = cifar["cifar10"]["data_batch_2"]
  image = made.train.images[4]  # the second of the second batch
  for y, x, c in ((0, 0, 0), (5, 7, 1), (31, 30, 2)):
    assert image[y, x, c] == second["data"][1][c * 1024 + y * 32 + x]
  assert made.train.labels[3:6].tolist() == second["labels"]
  made = make("cifar100", data_dir=str(tmp_path / "cifar-100-python"))
  assert made.class_names == ("p", "q", "r", "s")
  assert made.test.labels.tolist() == [0, 1, 2, 3]
  made = make("cifar100", data_dir=str(tmp_path), classes="coarse")
  assert made.class_names == ("y", "z")
  assert made.test.labels.tolist() == [1, 0, 0, 1]


def test_cifar_that_is_not_cifar(cifar, tmp_path, monkeypatch):
  path = tmp_path / "cifar-100-python/test"
  content = path.read_bytes()
  path.write_bytes(content[:-9] + bytes(9))
  message = refused("cifar100", data_dir=str(tmp_path))
  assert f"{path}: wrong md5: got {md5(path.read_bytes())}, expected" in message
  path.unlink()
  assert "lacks test" in refused("cifar100", data_dir=str(tmp_path))
  assert "data_dir: given ''" in refused("cifar10", data_dir="")
  code = pickle.dumps({"data": print}, protocol=2)
  path.write_bytes(code)
  monkeypatch.setitem(cifar100.MD5, "test", md5(code))
  assert "print is no array" in refused("cifar100", data_dir=str(tmp_path))


# STL-10


def test_stl10_against_a_loop_over_pixels(tmp_path, monkeypatch):
  random = np.random.default_rng(0)
  contents = {}
  for split in ("train", "test"):
    raw = random.integers(0, 256, (10, 3, 96, 96)).astype(np.uint8)
    contents[f"{split}_X.bin"] = raw.tobytes()
    contents[f"{split}_y.bin"] = bytes(range(1, 11))
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(stl10.MD5, name, md5(content))
  made = make("stl10", data_dir=str(tmp_path))
  assert made.train.labels.tolist() == list(range(10))
  flat = np.frombuffer(contents["test_X.bin"], np.uint8)
  for n, y, x, c in ((0, 0, 0, 0), (3, 10, 20, 2), (9, 95, 1, 1)):
    at = ((n * 3 + c) * 96 + x) * 96 + y  # column by column
    assert made.test.images[n, y, x, c] == flat[at]


# ImageNet-100


def test_the_synsets_are_cmcs():
  assert len(imagenet100.SYNSETS) == len(set(imagenet100.SYNSETS)) == 100
  assert imagenet100.SYNSETS == sorted(imagenet100.SYNSETS)
  # Of the authors' imagenet100.txt, sorted.
  digest = hashlib.sha256("\n".join(imagenet100.SYNSETS).encode()).hexdigest()
  assert digest.startswith("d61d354b64beb3ce")


def test_imagenet100_takes_its_classes_out_of_imagenet(tmp_path):
  wanted = imagenet100.SYNSETS
  every = sorted([*wanted, "n00000001", "n99999999"])
  image_files.write(
    tmp_path,
    [f"{split}/{one}/0.JPEG" for split in ("train", "val") for one in every],
  )
  how = {"data_dir": str(tmp_path), "image_px": 8, "resize_px": 9}
  made = make("imagenet100", **how)
  assert made.class_names == tuple(wanted) and made.selection is None
  assert made.train.labels.tolist() == made.test.labels.tolist()
  assert made.test.labels.tolist() == list(range(100))
  at = wanted.index("n02869837")
  np.testing.assert_array_equal(
    made.test.images[at],
    decoding.decode(
      tmp_path / "val/n02869837/0.JPEG", 3, image_px=8, resize_px=9
    ),
  )
  few = tmp_path / "few.txt"
  few.write_text("n99999999\nn02869837\n")
  made = make("imagenet100", classes=str(few), **how)
  assert made.class_names == ("n02869837", "n99999999")
  assert made.name == "ImageNet-2"
  few.write_text("n99999999\nn99999999\n")
  assert "2 names, 1 of them different" in refused(
    "imagenet100", classes=str(few), **how
  )
  few.write_text("n02869837 n12345678")
  assert "no folder of 1 of 2 classes, first 'n12345678'" in refused(
    "imagenet100", classes=str(few), **how
  )
  assert "data.classes: no file" in refused("imagenet100", classes="/no", **how)
  (tmp_path / "val").rename(tmp_path / "validation")
  assert "data.test: given 'val'" in refused("imagenet100", **how)


# Caltech-101


def test_caltech101_draws_so_many_of_every_class(tmp_path):
  root = tmp_path / "caltech101/101_ObjectCategories"
  counts = {"BACKGROUND_Google": 4, "Faces": 5, "ant": 6}
  image_files.write(
    root, [f"{one}/{n}.jpg" for one in counts for n in range(counts[one])]
  )
  (root / "BACKGROUND_Google/tmp").write_bytes(b"")
  how = {"data_dir": str(tmp_path), "per_class": 3, "image_px": 8}
  made = make("caltech101", **how)
  assert made.class_names == tuple(counts)
  assert np.bincount(made.train.labels).tolist() == [3, 3, 3]
  assert np.bincount(made.test.labels).tolist() == [1, 2, 3]
  pictures = [
    x.tobytes() for x in (*made.train.images[:], *made.test.images[:])
  ]
  assert len(set(pictures)) == 15  # nothing twice, nothing left out
  again = make("caltech101", **how)
  assert data.digest(again) == data.digest(made)
  assert data.digest(make("caltech101", split_seed=1, **how)) != data.digest(
    made
  )
  assert make("caltech101", background=False, **how).class_names == (
    "Faces",
    "ant",
  )
  message = refused("caltech101", **{**how, "per_class": 4})
  assert "data.per_class: given 4; allowed: less than the 4 images" in message


# VOC 2007


def voc(root, splits):
  lists = root / "ImageSets/Main"
  lists.mkdir(parents=True)
  image_files.write(
    root, [f"JPEGImages/{n}.jpg" for names in splits.values() for n in names]
  )
  for split, names in splits.items():
    for number, label in enumerate(voc07.CLASS_NAMES):
      lines = (
        f"{one} {(1, 0, -1)[(number + at) % 3]:2d}\n"
        for at, one in enumerate(names)
      )
      (lists / f"{label}_{split}.txt").write_text("".join(lines))


def test_voc07_reads_several_classes_of_an_image(tmp_path):
  root = tmp_path / "VOCdevkit/VOC2007"
  voc(
    root, {"train": ["000012", "000017", "000023"], "val": ["000005", "000007"]}
  )
  how = {"data_dir": str(tmp_path), "image_px": 8}
  made = make("voc07", **how)
  assert made.num_classes == 20 and made.train.labels.dtype == bool
  for at in range(3):
    for number in range(20):
      difficult = (number + at) % 3 == 1
      shown = difficult or (number + at) % 3 == 0
      assert made.train.labels[at, number] == shown
  assert made.test.images.shape == (2, 8, 8, 3)
  np.testing.assert_array_equal(
    made.test.images[1],
    decoding.decode(root / "JPEGImages/000007.jpg", 3, image_px=8),
  )
  plain = make("voc07", difficult=False, **how)
  assert plain.train.labels.sum() == 20 < made.train.labels.sum()
  assert "lacks 20 of 20 lists, first aeroplane_test.txt" in refused(
    "voc07", test="test", **how
  )
  path = root / "ImageSets/Main/dog_val.txt"
  for text in ("", "000005 2\n000007 1\n", "000005 1\n", "../../x 1\n000007 1"):
    path.write_text(text)
    assert f"{path}: not a list of images" in refused("voc07", **how)
  path.unlink()
  assert "lacks 1 of 20 lists, first dog_val.txt" in refused("voc07", **how)


def test_voc07_without_its_images(tmp_path):
  voc(tmp_path, {"train": ["1", "2", "3"], "val": ["4"]})
  (tmp_path / "JPEGImages/2.jpg").unlink()
  how = {"data_dir": str(tmp_path), "image_px": 8}
  assert "1 of 4 images, which cannot be decoded, first" in refused(
    "voc07", **how
  )
  made = make("voc07", on_error="skip", **how)
  assert made.train.labels.shape == (2, 20)


# .npz


def arrays(**changes):
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
  return {
    "train_images": images,
    "train_labels": np.arange(6) % 3,
    "test_images": images[::-1].copy(),
    "test_labels": np.arange(6) % 2,
  } | changes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_holds_what_was_saved(tmp_path, save):
  path = tmp_path / "mine.npz"
  given = arrays(
    selection_images=np.ones((2, 4, 5, 3), np.uint8) * [[[[0, 9, 99]]]],
    selection_labels=np.array([2, 0]),
  )
  given["selection_images"] = given["selection_images"].astype(np.uint8)
  save(path, **given)
  made = make("npz", file=str(path), class_names=("a", "b", "c"))
  assert made.num_classes == 3 and made.name == "mine"
  for name, split in data.splits_of(made).items():
    np.testing.assert_array_equal(split.images, given[f"{name}_images"])
    np.testing.assert_array_equal(split.labels, given[f"{name}_labels"])
    assert isinstance(split.images, np.memmap) == (save is np.savez)
  gray = arrays(**{k: v[..., 0] for k, v in arrays().items() if "images" in k})
  save(path, **gray)
  assert make("npz", file=str(path)).test.images.shape == (6, 4, 5, 1)
  several = np.eye(3, dtype=bool)[[0, 1, 2, 0, 1, 2]] | (np.arange(3) == 1)
  save(path, **arrays(train_labels=several, test_labels=several))
  assert make("npz", file=str(path)).num_classes == 3


@pytest.mark.parametrize(
  "changes, expected",
  [
    ({"train_labels": None}, "train_labels: missing; allowed: test_images"),
    ({"test_images": None}, "test_images: missing"),
    ({"selection_images": np.zeros(3)}, "selection_labels: missing"),
    (
      {"train_labels": np.array([None] * 6)},
      "array of objects, which is never",
    ),
  ],
)
def test_npz_without_its_arrays(tmp_path, changes, expected):
  path = tmp_path / "mine.npz"
  given = {k: v for k, v in arrays(**changes).items() if v is not None}
  np.savez(path, **given)
  assert expected in refused("npz", file=str(path))


@pytest.mark.parametrize(
  "changes, expected",
  [
    ({"train_labels": np.arange(6) - 1}, "train labels in -1..4; allowed: 0.."),
    ({"test_labels": np.full(6, 7)}, "test labels in 7..7; allowed: 0..2"),
    (
      {"train_images": np.zeros((6, 4, 5, 2), np.uint8)},
      "[6, 4, 5, 2]; allowed",
    ),
    (
      {"train_images": np.zeros((6, 4, 5, 3), np.float32)},
      "float32[6, 4, 5, 3]",
    ),
  ],
)
def test_npz_of_wrong_arrays(tmp_path, changes, expected):
  np.savez(tmp_path / "mine.npz", **arrays(**changes))
  with pytest.raises(errors.PluginError) as caught:
    make("npz", file=str(tmp_path / "mine.npz"))
  (line,) = str(caught.value).splitlines()
  assert expected in line


def test_files_that_are_no_npz(tmp_path):
  path = tmp_path / "mine.npz"
  np.savez(path, **arrays())
  path.write_bytes(path.read_bytes()[:-500])
  assert "is truncated, damaged or no readable .npz" in refused(
    "npz", file=str(path)
  )
  assert "data.file: no file" in refused("npz", file=str(tmp_path / "no"))
  assert "is a folder" in refused("npz", file=str(tmp_path))

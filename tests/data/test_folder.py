"""Folders of images: found, indexed, split, decoded when asked for."""

import io
import os
import pathlib
import threading

import numpy as np
import pytest
from PIL import Image

from genrep_jax import data
from genrep_jax.lib import decoding, errors, plugins
from tests.data.image_files import png, write

CHECKED = {"image_px": 8}


def names(*folders, count=3):
  return [f"{one}/{n}.png" for one in folders for n in range(count)]


def make(root, **changes):
  entry = {"name": "folder", "data_dir": str(root), **CHECKED, **changes}
  made = plugins.make("data", entry)
  data.check(made, "folder")
  return made


def refused(root, **changes):
  with pytest.raises(errors.UsageError) as caught:
    make(root, **changes)
  assert not isinstance(caught.value, errors.PluginError), caught.value
  message = str(caught.value)
  assert "\n" not in message
  return message


def by_hand(path, **how):
  return decoding.decode(path, 3, **{"image_px": 8, **how})


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
  return folder


def test_splits_that_are_folders(tmp_path):
  write(
    tmp_path,
    [
      *names("train/b", "train/a", "val/a", "val/b", "test/b"),
      "train/a/deeper/x.JPG",
      "train/README.png",
      "train/a/.hidden.png",
    ],
  )
  made = make(tmp_path)
  assert made.class_names == ("a", "b") and made.name == tmp_path.name
  order = [
    *names("train/a"),
    "train/a/deeper/x.JPG",
    *names("train/b"),
  ]
  np.testing.assert_array_equal(made.train.labels, [0] * 4 + [1] * 3)
  np.testing.assert_array_equal(
    made.train.images[:], [by_hand(tmp_path / one) for one in order]
  )
  np.testing.assert_array_equal(made.test.labels, [1] * 3)
  np.testing.assert_array_equal(made.selection.labels, [0] * 3 + [1] * 3)
  np.testing.assert_array_equal(
    made.selection.images[1], by_hand(tmp_path / "val/a/1.png")
  )


def test_val_is_the_test_split_where_there_is_no_other(tmp_path):
  write(tmp_path, names("train/a", "train/b", "val/a", "extra/b"))
  made = make(tmp_path)
  assert made.selection is None
  np.testing.assert_array_equal(made.test.labels, [0] * 3)
  made = make(tmp_path, train="train", test="extra", selection="val")
  np.testing.assert_array_equal(made.test.labels, [1] * 3)
  np.testing.assert_array_equal(made.selection.labels, [0] * 3)
  assert "data.test: given 'no'; allowed: a folder in" in refused(
    tmp_path, train="train", test="no"
  )
  assert "data.train: given ''" in refused(tmp_path, test="val")


def test_shares_of_every_class(tmp_path):
  write(tmp_path, [*names("a", count=10), *names("b", count=5), "c/0.png"])

  def parts(**changes):
    made = make(tmp_path, **changes)
    every = {image.tobytes() for image in make(tmp_path).train.images[:]}
    every |= {image.tobytes() for image in make(tmp_path).test.images[:]}
    seen = [
      image.tobytes()
      for split in data.splits_of(made).values()
      for image in split.images[:]
    ]
    assert len(seen) == len(set(seen)) == 16 and set(seen) == every
    return {
      name: np.bincount(split.labels, minlength=3).tolist()
      for name, split in data.splits_of(made).items()
    }, made

  counts, made = parts(test_share=0.3)
  assert counts == {"train": [7, 3, 1], "test": [3, 2, 0]}
  again = parts(test_share=0.3)[1]
  np.testing.assert_array_equal(made.test.images[:], again.test.images[:])
  other = parts(test_share=0.3, split_seed=1)[1]
  assert (made.test.images[:] != other.test.images[:]).any()
  counts, _ = parts(test_share=0.3, selection_share=0.5)
  assert counts["selection"] == [4, 2, 0] and counts["train"] == [3, 1, 1]
  # A further file takes at most one of the places.
  before = {image.tobytes() for image in made.test.images[:]}
  write(tmp_path, ["a/new.png"])
  after = {
    image.tobytes() for image in make(tmp_path, test_share=0.3).test.images[:]
  }
  assert len(before - after) <= 1


def test_lazy_images_are_indexed_as_arrays_are(tmp_path):
  write(tmp_path, names("a", "b", count=6))
  images = make(tmp_path).train.images
  whole = np.asarray(images)
  assert images.shape == whole.shape and len(images) == len(whole)
  assert whole.dtype == images.dtype == np.uint8
  for rows in (
    slice(2, 7, 2),
    [3, 0, 3],
    np.array([-1]),
    whole[:, 0, 0, 0] > 99,
  ):
    np.testing.assert_array_equal(images[rows], whole[rows])
    part = images.at(rows)
    np.testing.assert_array_equal(part, whole[rows])
    assert part.shape == whole[rows].shape
  np.testing.assert_array_equal(images[3], whole[3])
  assert images[[]].shape == (0, *whole.shape[1:])
  with pytest.raises(IndexError):
    images[len(whole)]
  with pytest.raises(ValueError, match="decoding"):
    np.asarray(images, copy=False)


def test_crops_are_cut_from_the_images_themselves(tmp_path):
  write(tmp_path, names("a", "b"))
  wide = Image.open(io.BytesIO(png(99, 30, 50)))
  wide.save(tmp_path / "a/0.png")
  images = make(tmp_path, test_share=0.34).train.images
  sizes = images.sizes.tolist()
  assert set(map(tuple, sizes)) <= {(12, 16), (30, 50)}
  boxes = [[[1, 2, h - 3, w - 5]] for h, w in sizes]
  cut = images.crops(np.arange(len(images)), boxes, 6)
  assert cut.shape == (len(images), 1, 6, 6, 3)
  chosen = [3, 1]
  np.testing.assert_array_equal(
    images.crops(chosen, np.array(boxes)[chosen], 6), cut[chosen]
  )
  # A box of the side's own size is cut out and nothing else.
  plain = images.crops([0], [[[2, 3, 6, 6]]], 6)[0, 0]
  resident = make(tmp_path, test_share=0.34, image_px=12).train.images
  if sizes[0] == [12, 16]:  # whose center crop is 12 wide, from column 2
    np.testing.assert_array_equal(plain, resident[0][2:8, 1:7])


def test_channels_and_one_size(tmp_path):
  write(tmp_path, names("a", "b"))
  made = make(tmp_path, image_px=0)
  assert made.train.images.shape[1:] == (12, 16, 3)
  gray = make(tmp_path, image_px=0, channels=1)
  assert gray.train.images.shape[1:] == (12, 16, 1)
  (tmp_path / "b/1.png").write_bytes(png(5, mode="L"))  # among colored ones
  colored = make(tmp_path, image_px=0, test_share=0.01)
  everything = np.concatenate([colored.train.images[:], colored.test.images[:]])
  assert (everything == everything[..., :1]).all((1, 2, 3)).sum() == 1
  (tmp_path / "b/1.png").write_bytes(png(5, 13, 16))
  message = refused(tmp_path, image_px=0)
  assert "of several sizes" in message and "set data.image_px" in message
  assert "resize_px: given 9" in refused(tmp_path, resize_px=9, image_px=10)
  made = make(tmp_path, image_px=8, resize_px=11)
  np.testing.assert_array_equal(
    make(tmp_path, resize_px=11).train.images[0], made.train.images[0]
  )
  assert (make(tmp_path).train.images[0] != made.train.images[0]).any()


def test_limit_is_balanced(tmp_path):
  write(tmp_path, names("a", "b", "c", count=5))
  made = make(tmp_path, limit=4)
  np.testing.assert_array_equal(made.train.labels, [0, 0, 1, 2])
  assert len(made.test.images) == 3


class Counted:
  """Counts the images that are examined."""

  def __init__(self, monkeypatch):
    self.names, real = [], decoding.examine

    def examine(content, name):
      self.names.append(name)
      return real(content, name)

    monkeypatch.setattr(decoding, "examine", examine)

  def take(self):
    taken, self.names = sorted(self.names), []
    return taken


def test_a_second_start_reads_what_changed(tmp_path, monkeypatch, capsys):
  every = names("a", "b")
  write(tmp_path, every)
  examined = Counted(monkeypatch)
  first = make(tmp_path)
  assert examined.take() == every and not capsys.readouterr().err
  again = make(tmp_path)
  assert examined.take() == [] and not capsys.readouterr().err
  assert data.digest(first) == data.digest(again)
  np.testing.assert_array_equal(first.train.images[:], again.train.images[:])

  (tmp_path / "a/1.png").write_bytes(png(77))
  (tmp_path / "b/2.png").unlink()
  write(tmp_path, ["b/3.png"])
  changed = make(tmp_path)
  assert examined.take() == ["a/1.png", "b/3.png"]
  note = capsys.readouterr().err
  assert "2 images new or changed, 1 gone since it was indexed" in note
  assert data.digest(changed) != data.digest(first)
  make(tmp_path)
  assert examined.take() == [] and not capsys.readouterr().err
  # Of the same size, at another time.
  path = tmp_path / "a/0.png"
  os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
  assert data.digest(make(tmp_path)) == data.digest(changed)
  assert examined.take() == ["a/0.png"]


def test_digest_is_of_content_labels_and_how_it_is_decoded(tmp_path):
  write(tmp_path / "x", names("a", "b"))
  write(tmp_path / "y", names("a", "b"))
  digest = data.digest(make(tmp_path / "x"))
  assert digest == data.digest(make(tmp_path / "y"))
  for changes in ({"image_px": 9}, {"channels": 1}, {"split_seed": 5}):
    assert digest != data.digest(make(tmp_path / "x", **changes)), changes
  (tmp_path / "y/a/0.png").write_bytes(png(50))
  assert digest != data.digest(make(tmp_path / "y"))


def test_where_the_index_lies(tmp_path, cache, monkeypatch, capsys):
  write(tmp_path / "set", names("a", "b"))
  beside = tmp_path / "set/.genrep_index.npz"
  make(tmp_path / "set")
  assert beside.is_file() and not list(cache.rglob("*.npz"))
  beside.unlink()
  mine = tmp_path / "mine"
  mine.mkdir()
  make(tmp_path / "set", index=str(mine))
  assert len(list(mine.rglob("*.npz"))) == 1 and not beside.exists()
  message = refused(tmp_path / "set", index=str(tmp_path / "no"))
  assert message.endswith("allowed: a folder that exists")
  message = refused(tmp_path / "set", index="/proc")
  assert message.startswith("data.index: cannot write /proc/")
  # Read-only folders: root may write anywhere, so the disk says no.
  real = os.replace

  def replace(source, target):
    if os.fspath(target) == os.fspath(beside):
      raise OSError(30, "Read-only file system", os.fspath(target))
    real(source, target)

  monkeypatch.setattr(os, "replace", replace)
  examined = Counted(monkeypatch)
  make(tmp_path / "set")
  assert len(examined.take()) == 6 and len(list(cache.rglob("*.npz"))) == 1
  make(tmp_path / "set")
  assert examined.take() == []
  assert list((tmp_path / "set").glob(".genrep*")) == []
  monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
  capsys.readouterr()
  make(tmp_path / "set")
  assert "the index is not kept: " in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"PK nonsense", None])
def test_a_damaged_index_is_made_anew(tmp_path, capsys, damage):
  write(tmp_path, names("a", "b"))
  digest = data.digest(make(tmp_path))
  index = tmp_path / ".genrep_index.npz"
  whole = index.read_bytes()
  index.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
  assert data.digest(make(tmp_path)) == digest
  assert "it is made anew" in capsys.readouterr().err
  assert index.read_bytes()[:2] == b"PK"


def test_several_processes_may_index_at_once(tmp_path):
  write(tmp_path, names("a", "b", count=8))
  digests, failed = [], []

  def start():
    try:
      digests.append(data.digest(make(tmp_path)))
    except Exception as error:
      failed.append(error)

  threads = [threading.Thread(target=start) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failed and len(digests) == 4 and len(set(digests)) == 1
  assert [x.name for x in tmp_path.iterdir() if x.name[0] == "."] == [
    ".genrep_index.npz"
  ]


@pytest.mark.parametrize(
  "content, reason",
  [
    (png(1)[:-200], "truncated"),
    (b"<html>", "not a JPEG, PNG, WebP or BMP image"),
    (None, "No such file or directory"),
  ],
)
def test_images_that_cannot_be_decoded(
  tmp_path, monkeypatch, capsys, content, reason
):
  write(tmp_path, names("a", "b"))
  bad = tmp_path / "a/1.png"
  bad.unlink()
  if content is None:
    bad.symlink_to("nowhere")
  else:
    bad.write_bytes(content)
  message = refused(tmp_path)
  assert "1 of 6 images, which cannot be decoded" in message
  assert "a/1.png" in message and reason in message
  assert "data.on_error=skip leaves them out" in message
  examined = Counted(monkeypatch)
  capsys.readouterr()
  made = make(tmp_path, on_error="skip", test_share=0.4)
  assert len(made.train.labels) + len(made.test.labels) == 5
  assert examined.take() == []  # known from the index
  assert "left out: 1 of 6 images" in capsys.readouterr().err
  write(tmp_path, ["b/note.txt"])
  make(tmp_path, on_error="skip")
  assert "; 1 files that are no images" in capsys.readouterr().err
  for one in ("a/0.png", "a/2.png"):
    (tmp_path / one).write_bytes(b"")
  assert "no training image of class 'a' is left" in refused(
    tmp_path, on_error="skip"
  )


def test_an_image_that_changes_while_it_is_used(tmp_path):
  write(tmp_path, names("a", "b"))
  made = make(tmp_path, image_px=0)
  for path in tmp_path.rglob("?.png"):
    path.write_bytes(png(3, 5, 5))
  with pytest.raises(errors.UsageError, match=r"is \(5, 5, 3\) and was"):
    made.train.images[:]
  for path in tmp_path.rglob("?.png"):
    path.unlink()
  with pytest.raises(errors.UsageError, match="png: No such file"):
    made.train.images[:]


def test_names_of_any_kind(tmp_path):
  long = "/".join(["ordner" * 9] * 6)
  rare = ["ж/日本 語\n.png", "ж/A.png", "ж/a.png", f"ж/{long}/x.png"]
  write(tmp_path, [*rare, *names("a b:c")])
  raw = os.fsencode(tmp_path) + b"/a b:c/\xff.png"  # not UTF-8
  with open(raw, "wb") as file:
    file.write(png(8))
  first = make(tmp_path)
  assert first.class_names == ("a b:c", "ж")
  assert len(first.train.labels) + len(first.test.labels) == 8
  again = make(tmp_path)
  assert data.digest(first) == data.digest(again)
  again.train.images[:]
  with open(raw, "wb") as file:
    file.write(b"damaged")
  assert "\\udcff.png" in refused(tmp_path)


def test_links(tmp_path):
  write(tmp_path / "set", names("a", "b"))
  write(tmp_path / "elsewhere", ["0.png", "1.png"])
  (tmp_path / "set/c").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "set/a/again.png").symlink_to("0.png")
  made = make(tmp_path / "set")
  assert made.class_names == ("a", "b", "c")
  ring = tmp_path / "set/b/ring"
  ring.symlink_to(tmp_path / "set/b")
  assert f"{ring} is a link to a folder above it" in refused(tmp_path / "set")
  ring.unlink()
  ring.symlink_to("ring")  # to itself: no folder and no image
  make(tmp_path / "set")


@pytest.mark.parametrize(
  "content, changes, expected",
  [
    ([], {}, "0 class folder(s); allowed: at least 2"),
    (names("a"), {}, "1 class folder(s); allowed: at least 2"),
    ([*names("a"), "b/"], {}, "b: no image; allowed: class folders with"),
    ([*names("a"), "b/x.gif"], {}, "b: no image; allowed"),
    (names("a", "A"), {}, "classes 'A' and 'a' differ by case only"),
    (names("a", "b", count=1), {}, "one image for each class; allowed: at"),
    (
      names("train/a", "train/b", "val/c"),
      {},
      "class 'c' is not in",
    ),
    (names("a", "b"), {"test_share": 1.0}, "data.test_share: given 1.0"),
    (
      names("a", "b"),
      {"data_dir": ""},
      "data.data_dir: given ''; allowed: a f",
    ),
    (names("a", "b"), {"data_dir": "/no"}, "allowed: a folder that exists"),
    (names("a", "b"), {"data_dir": __file__}, "allowed: a folder, not a file"),
    (names("a", "b"), {"data_dir": "gs://b/x"}, "mount the bucket first"),
    (names("a", "b"), {"channels": 4}, "data.channels: given 4; allowed: one"),
    (names("a", "b"), {"on_error": "no"}, "data.on_error: given 'no'"),
  ],
)
def test_bad_input(tmp_path, content, changes, expected):
  write(tmp_path, content)
  assert expected in refused(tmp_path, **changes)


def test_folders_that_may_not_be_read(tmp_path, monkeypatch):
  write(tmp_path, names("a", "b"))
  real = os.scandir

  def scandir(path):
    if pathlib.Path(path).name == "b":
      raise PermissionError(13, "Permission denied", path)
    return real(path)

  monkeypatch.setattr(os, "scandir", scandir)
  assert refused(tmp_path) == f"data: {tmp_path / 'b'}: Permission denied"

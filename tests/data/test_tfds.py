"""TFDS without TensorFlow: mocked official names, and a real tiny builder."""

import io
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.data import tfds as tfds_data
from genrep_jax.lib import decoding, errors, plugins

# Importing tensorflow_datasets and what it imports warns on its own account.
pytestmark = pytest.mark.filterwarnings("ignore")
COUNTS = {"train": 23, "test": 9}


def make(**changes):
  return plugins.make("data", {"name": "tfds", **changes})


def refused(**changes):
  with pytest.raises(errors.UsageError) as caught:
    make(**changes)
  message = str(caught.value)
  assert "\n" not in message
  return message


def images_of(split):
  random = np.random.default_rng(COUNTS[split])
  return random.integers(0, 256, (COUNTS[split], 6, 5, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A folder with the data set "tiny_shapes", prepared as array_record."""
  import tensorflow_datasets as tfds
  from PIL import Image

  class TinyShapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict(
          {
            "image": tfds.features.Image(shape=(6, 5, 3)),
            "label": tfds.features.ClassLabel(names=["round", "square"]),
          }
        )
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
      for index, image in enumerate(images_of(split)):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        yield index, {"image": png, "label": index % 2}

  folder = tmp_path_factory.mktemp("tfds")
  builder = TinyShapes(data_dir=folder, file_format="array_record")
  builder.download_and_prepare()
  return folder


def as_set(split):
  return {
    (image.tobytes(), int(label))
    for image, label in zip(split.images, split.labels)
  }


def test_content_equals_what_was_prepared(prepared):
  dataset = make(dataset="tiny_shapes", data_dir=str(prepared))
  assert dataset.num_classes == 2
  assert dataset.class_names == ("round", "square")
  for split, name in ((dataset.train, "train"), (dataset.test, "test")):
    assert split.images.shape == (COUNTS[name], 6, 5, 3)
    assert split.labels.dtype == np.int32
    # TFDS shuffles when it prepares: compare as sets.
    assert as_set(split) == {
      (image.tobytes(), index % 2)
      for index, image in enumerate(images_of(name))
    }


def test_limit_split_expressions_and_size(prepared):
  where = {"dataset": "tiny_shapes", "data_dir": str(prepared)}
  full = make(**where)
  part = make(**where, train_split="train[10:]", limit=4, image_px=4)
  assert part.train.images.shape == part.test.images.shape == (4, 4, 4, 3)
  np.testing.assert_array_equal(part.train.labels, full.train.labels[10:14])


def test_what_the_first_start_learned_is_kept(prepared, monkeypatch, tmp_path):
  where = {"dataset": "tiny_shapes", "data_dir": str(prepared)}
  index = str(tmp_path)
  more = {"selection_split": "test", "test_split": "train"}
  first = make(**where, **more, index=index)
  examined = []
  real = decoding.examine
  monkeypatch.setattr(
    decoding, "examine", lambda *one: examined.append(one) or real(*one)
  )
  again = make(**where, **more, index=index)
  data.check(again, "tfds")
  assert examined == [] and data.digest(first) == data.digest(again)
  assert len(again.selection.images) == 9 and len(again.test.labels) == 23
  np.testing.assert_array_equal(first.test.labels, again.test.labels)
  assert data.digest(first) != data.digest(make(**where, **more, channels=1))


def test_classes_are_taken_by_name(prepared):
  def read(*only):
    entry = plugins.defaults("data", "tfds")
    where = {"dataset": "tiny_shapes", "data_dir": str(prepared)}
    return tfds_data.read(ml_collections.ConfigDict(entry | where), only)

  swapped, whole = read("square", "round"), read("round", "square")
  assert swapped.class_names == ("square", "round")
  np.testing.assert_array_equal(swapped.test.labels, 1 - whole.test.labels)
  one = read("square").train
  assert len(one.images) == 11 and not one.labels.any()
  np.testing.assert_array_equal(
    one.images[:], whole.train.images[whole.train.labels == 1]
  )
  with pytest.raises(
    errors.UsageError, match="lacks 1 of 2 classes, first 'x'"
  ):
    read("x", "round")


def test_records_that_are_no_images_are_refused_or_skipped(
  prepared, monkeypatch, capsys
):
  where = {"dataset": "tiny_shapes", "data_dir": str(prepared), "limit": 5}
  real = tfds_data._Records.labeled

  def labeled(self, row):
    image, label = real(self, row)
    return (image[:-40] if int(row) == 3 else image), label

  monkeypatch.setattr(tfds_data._Records, "labeled", labeled)
  message = refused(**where)
  assert "1 of 5 images, which cannot be decoded, first record 3: " in message
  made = make(on_error="skip", **where)
  assert len(made.train.labels) == len(made.test.labels) == 4
  assert "left out: 1 of 5 images" in capsys.readouterr().err


def test_crops_and_digests_are_of_the_encoded_images(prepared):
  images = make(dataset="tiny_shapes", data_dir=str(prepared)).train.images
  assert images.sizes.tolist() == [[6, 5]] * 23
  cut = images.crops([3, 4], [[[1, 2, 3, 3]], [[0, 0, 3, 3]]], 3)[:, 0]
  np.testing.assert_array_equal(cut[0], images[3][1:4, 2:5])
  np.testing.assert_array_equal(cut[1], images[4][:3, :3])


def test_official_names_through_mock_data():
  import tensorflow_datasets as tfds

  with tfds.testing.mock_data(num_examples=11):
    dataset = make(dataset="cifar10")
    assert "set data.image_px" in refused(
      dataset="imagenet2012", test_split="validation"
    )
    crops = dataset.train.images.crops([2], [[[4, 5, 8, 8]]], 8)[:, 0]
    np.testing.assert_array_equal(crops[0], dataset.train.images[2][4:12, 5:13])
  assert dataset.train.images.shape == (11, 32, 32, 3)
  assert dataset.test.labels.shape == (11,)
  assert dataset.num_classes == 10


def test_unprepared_set_shows_the_command(tmp_path):
  message = refused(dataset="cifar10", data_dir=str(tmp_path / "my data"))
  assert "not prepared as array_record" in message
  assert "tfds build cifar10 --file_format=array_record" in message
  assert f"--data_dir='{tmp_path / 'my data'}'" in message


@pytest.mark.parametrize(
  "changes, expected",
  [
    ({}, "data.dataset: given ''; allowed: a TFDS name"),
    ({"dataset": "no_such_set"}, "no such data set: 'no_such_set'"),
    ({"dataset": "cifar10:9.9.9"}, "only: 3.0.2"),
    ({"dataset": "cifar10", "label_key": "y"}, "features: id, image, label"),
    ({"dataset": "cifar10", "label_key": "id"}, "'id' is not a class label"),
    ({"dataset": "cifar10", "image_px": -1}, "image_px: given -1; allowed"),
    ({"dataset": "cifar10", "limit": -1}, "limit: given -1; allowed"),
  ],
)
def test_bad_input(changes, expected, tmp_path):
  assert expected in refused(data_dir=str(tmp_path), **changes)


def test_bad_split(prepared):
  message = refused(
    dataset="tiny_shapes", data_dir=str(prepared), test_split="validation"
  )
  assert "'tiny_shapes' has no split 'validation'" in message


def test_damaged_record_is_named(prepared, tmp_path):
  import shutil

  shutil.copytree(prepared, tmp_path / "copy")
  (file,) = (tmp_path / "copy").rglob("*test.array_record*")
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  message = refused(dataset="tiny_shapes", data_dir=str(tmp_path / "copy"))
  assert "'tiny_shapes'" in message


def test_runs_where_tensorflow_cannot_be_imported(prepared):
  program = f"""
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def hiding(name, path=None, target=None):
  return None if name.startswith("tensorflow.") or name == "tensorflow" \\
    else find(name, path, target)
importlib.machinery.PathFinder.find_spec = hiding
from genrep_jax import data
cfg = dict(name="tfds", dataset="tiny_shapes", data_dir={str(prepared)!r})
print(data.load(cfg).train.images.shape)
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert done.stdout.strip() == "(23, 6, 5, 3)", done.stderr

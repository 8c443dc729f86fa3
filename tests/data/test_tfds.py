"""TFDS without TensorFlow: mocked official names, and a real tiny builder."""

import io
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from genrep_jax.data import tfds as tfds_data
from genrep_jax.lib import errors, plugins

# Importing tensorflow_datasets and what it imports warns on its own account.
pytestmark = pytest.mark.filterwarnings("ignore")
COUNTS = {"train": 23, "test": 9}


def config(**changes):
  return ml_collections.ConfigDict(plugins.defaults("data", "tfds") | changes)


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


def test_resize_crops_the_center():
  wide = np.zeros((8, 24, 3), np.uint8)
  wide[:4, 8:16] = 200  # the central square: bright above, darker below
  wide[4:, 8:16] = 100
  image = tfds_data._image(wide, config(image_px=4)).astype(int)
  assert image.shape == (4, 4, 3)
  assert (abs(image[0, 1:3] - 200) < 12).all()
  assert (abs(image[3, 1:3] - 100) < 12).all()
  square = wide[:, 8:16]
  same = tfds_data._image(square, config(image_px=8))
  np.testing.assert_array_equal(same, square)
  gray = tfds_data._image(square[..., 0], config(image_px=4))
  np.testing.assert_allclose(
    gray[..., 0], image[:, 1:3].mean((1, 2))[:, None].repeat(4, 1), atol=12
  )


def test_official_names_through_mock_data():
  import tensorflow_datasets as tfds

  with tfds.testing.mock_data(num_examples=11):
    dataset = make(dataset="cifar10")
    assert "set data.image_px" in refused(
      dataset="imagenet2012", test_split="validation"
    )
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

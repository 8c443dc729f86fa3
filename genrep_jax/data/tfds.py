"""Any image classification set of TensorFlow Datasets, without TensorFlow.

Reads sets that are prepared as array_record through `tfds.data_source`. Never
downloads: a set that is not prepared is an error that shows the command to
prepare it. Images are decoded once into memory, so this suits sets that fit.
"""

import contextlib
import logging
import shlex

import numpy as np

from genrep_jax.lib import contracts, errors, options

OPTIONS = {
  "dataset": options.text("", "TFDS name, set[/config][:version]"),
  "data_dir": options.text(
    "", "empty: $TFDS_DATA_DIR or ~/tensorflow_datasets"
  ),
  "train_split": options.text(
    "train", "TFDS split expression: train[:10%] works"
  ),
  "test_split": options.text("test", "likewise"),
  "image_key": options.text("image", "feature that holds the image"),
  "label_key": options.text("label", "feature that holds the class"),
  "image_px": options.integer(
    0,
    "side to resize and center-crop to; 0: all have one size already",
    low=0,
    high=4096,
    unit="px",
  ),
  "limit": options.integer(
    0, "first so many records of each split; 0: all", low=0
  ),
}


def make(cfg) -> contracts.Dataset:
  """Loads a prepared TFDS data set into memory.

  Args:
    cfg: `OPTIONS`.

  Returns:
    The data set; gray-scale images have one channel.

  Raises:
    UsageError: package missing, unknown or unprepared set, unknown split or
      key, another file format, images of several sizes with image_px = 0.
  """
  if not cfg.dataset:
    options.refuse("data.dataset", "", "a TFDS name, e.g. 'cifar10'")
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise errors.UsageError(
      f"data: tfds: cannot import tensorflow_datasets: {error}"
    ) from error
  with _quiet():
    builder = _builder(tfds, cfg)
    num_classes, class_names = _classes(builder, cfg)
    sources = [
      _source(tfds, builder, cfg, split)
      for split in (cfg.train_split, cfg.test_split)
    ]
    splits = [_read(source, cfg) for source in sources]
  shapes = [split.images.shape[1:] for split in splits]
  if shapes[0] != shapes[1]:
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r}: training images are {shapes[0]} but test "
      f"images {shapes[1]}; set data.image_px"
    )
  return contracts.Dataset(
    name=cfg.dataset,
    num_classes=num_classes,
    class_names=class_names,
    train=splits[0],
    test=splits[1],
  )


@contextlib.contextmanager
def _quiet():
  """Silences TFDS's warnings about unprepared variants: we say it better."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _first_line(error):
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0]


def _builder(tfds, cfg):
  try:
    return tfds.builder(cfg.dataset, data_dir=cfg.data_dir or None)
  except ImportError as error:
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r} needs a package that is not installed: "
      f"{_first_line(error)}"
    ) from error
  except (AssertionError, ValueError, TypeError, RuntimeError) as error:
    raise errors.UsageError(
      f"data: tfds: no such data set: {cfg.dataset!r}: {_first_line(error)}"
    ) from error


def _classes(builder, cfg):
  features = builder.info.features
  for key in (cfg.image_key, cfg.label_key):
    if key not in features:
      raise errors.UsageError(
        f"data: tfds: {cfg.dataset!r} has no feature {key!r}; "
        f"features: {', '.join(sorted(features))}"
      )
  label = features[cfg.label_key]
  if not getattr(label, "num_classes", None):
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r}: {cfg.label_key!r} is not a class label"
    )
  return label.num_classes, tuple(label.names)


def _source(tfds, builder, cfg, split):
  prepare = f"tfds build {cfg.dataset} --file_format=array_record"
  if cfg.data_dir:
    prepare += f" --data_dir={shlex.quote(cfg.data_dir)}"
  unprepared = (
    f"data: tfds: {cfg.dataset!r} is not prepared as array_record in "
    f"{builder.data_dir}; nothing is downloaded here; where TensorFlow and "
    f"the files are at hand run: {prepare}"
  )
  # TFDS 4.9 thins every parquet split over 100 examples without an error.
  if "parquet" in str(builder.info.file_format).lower():
    raise errors.UsageError(
      f"data: tfds: {builder.data_dir} is parquet, which TFDS writes "
      f"incompletely; prepare it as array_record: {prepare}"
    )
  try:
    source = tfds.data_source(
      cfg.dataset, split=split, data_dir=cfg.data_dir or None, download=False
    )
  except (NotImplementedError, AssertionError, OSError) as error:
    raise errors.UsageError(unprepared) from error
  except ImportError as error:
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r} cannot be read without a package that is "
      f"not installed: {_first_line(error)}"
    ) from error
  except (ValueError, KeyError) as error:
    if not builder.info.splits:
      raise errors.UsageError(unprepared) from error
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r} has no split {split!r}: "
      f"{_first_line(error)}"
    ) from error
  if not len(source):
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r}: split {split!r} is empty"
    )
  return source


def _read(source, cfg):
  count = min(len(source), cfg.limit or len(source))
  images, labels = None, np.empty(count, np.int32)
  for index in range(count):
    try:
      record = source[index]
    except ImportError as error:
      raise errors.UsageError(
        f"data: tfds: {cfg.dataset!r} cannot be decoded without a package "
        f"that is not installed: {_first_line(error)}"
      ) from error
    except (IndexError, OSError, RuntimeError, ValueError) as error:
      raise errors.UsageError(
        f"data: tfds: {cfg.dataset!r}: record {index} of {len(source)} is "
        f"damaged: {_first_line(error)}"
      ) from error
    image = _image(record[cfg.image_key], cfg)
    if images is None:
      images = np.empty((count, *image.shape), np.uint8)
    if image.shape != images.shape[1:]:
      raise errors.UsageError(
        f"data: tfds: {cfg.dataset!r} has images {images.shape[1:]} and "
        f"{image.shape}; set data.image_px"
      )
    images[index], labels[index] = image, record[cfg.label_key]
  return contracts.Split(images, labels)


def _image(image, cfg):
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., None]
  if image.dtype != np.uint8 or image.ndim != 3:
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r}: {cfg.image_key!r} is "
      f"{image.dtype}{list(image.shape)}, not uint8 [h w c]"
    )
  side = cfg.image_px
  if not side or image.shape[:2] == (side, side):
    return image
  from PIL import Image

  # Shorter side to `side` pixels, then the central square: ImageNet's habit.
  height, width, channels = image.shape
  scale = side / min(height, width)
  size = (max(side, round(width * scale)), max(side, round(height * scale)))
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  picture = picture.resize(size, Image.Resampling.BICUBIC)
  left, top = (size[0] - side) // 2, (size[1] - side) // 2
  picture = picture.crop((left, top, left + side, top + side))
  return np.asarray(picture).reshape(side, side, channels)

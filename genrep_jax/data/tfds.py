"""Any image classification set of TensorFlow Datasets, without TensorFlow.

Reads sets that are prepared as array_record through `tfds.data_source`. Never
downloads: a set that is not prepared is an error that shows the command to
prepare it. Images are decoded when they are asked for; the first start reads
all records once for their labels and keeps what it learned beside them (option
`index`).
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import shlex

import numpy as np

from genrep_jax.data import _files, _index
from genrep_jax.lib import contracts, decoding, environment, errors, options

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
  "selection_split": options.text(
    "", "split expression of the split to choose by; empty: none"
  ),
  **_files.options_of(),
  "channels": options.one_of(
    0, (0, 1, 3), "to decode to; 0: as the set declares them"
  ),
  "limit": options.integer(
    0, "first so many records of each split; 0: all", low=0
  ),
}


def make(cfg) -> contracts.Dataset:
  """Indexes a prepared TFDS data set.

  Args:
    cfg: `OPTIONS`.

  Returns:
    The data set.

  Raises:
    UsageError: package missing, unknown or unprepared set, unknown split or
      key, another file format, records that are damaged unless these are
      skipped, images of several sizes with image_px = 0.
  """
  return read(cfg)


def read(cfg, only=None, name: str = ""):
  """Makes the data set.

  Args:
    cfg: an entry with `OPTIONS`.
    only: names of the classes to take, which it must have; None: all.
    name: of the data set; "": its TFDS name.
  """
  if not cfg.dataset:
    options.refuse("data.dataset", "", "a TFDS name, e.g. 'cifar10'")
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise errors.UsageError(
      f"data: tfds: cannot import tensorflow_datasets: {error}"
    ) from error
  _files.check_sizes(cfg)
  splits = {"train": cfg.train_split, "test": cfg.test_split}
  if cfg.selection_split:
    splits["selection"] = cfg.selection_split
  made = {}
  with _quiet():
    builder = _builder(tfds, cfg)
    classes = _classes(builder, cfg)
    taken = _taken(cfg, classes, only)
    with cfg.unlocked():
      cfg.channels = cfg.channels or _channels(builder, cfg)
    records = {
      split: _Records(tfds, builder, cfg, text)
      for split, text in splits.items()
    }
    for split, one in records.items():
      facts = _facts(builder, cfg, one, splits[split])
      where = f"tfds: {cfg.dataset!r}: {split}"
      if told := _files.judge(cfg, where, facts):
        environment.note(f"data: {where}: left out: {told[0]}")
      labels = taken[facts.labels]
      rows = np.flatnonzero(labels >= 0)
      made[split] = _files.split_of(
        cfg, one.source, facts, rows, labels[rows], where
      )
  return _files.dataset(name or cfg.dataset, only or classes, made)


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
  return tuple(label.names)


def _taken(cfg, classes, only):
  """Returns each class's new number, int [k]; -1: it is left out."""
  if only is None:
    return np.arange(len(classes))
  absent = sorted(set(only).difference(classes))
  if absent:
    raise errors.UsageError(
      f"data: tfds: {cfg.dataset!r} lacks {len(absent)} of {len(only)} "
      f"classes, first {absent[0]!r}"
    )
  numbers = {name: number for number, name in enumerate(only)}
  return np.array([numbers.get(name, -1) for name in classes])


def _channels(builder, cfg) -> int:
  shape = builder.info.features[cfg.image_key].shape or ()
  return 1 if len(shape) < 3 or shape[-1] == 1 else 3


def _facts(builder, cfg, records, split) -> _index.Facts:
  """Reads every record once, or what is kept of that."""
  count = min(len(records), cfg.limit or len(records))
  text = repr((split, cfg.image_key, cfg.label_key, count))
  stamp = _stamp(builder, split)
  return _index.examine(
    cfg.index,
    None if stamp is None else pathlib.Path(builder.data_dir),
    hashlib.sha256(text.encode()).hexdigest()[:8],
    [f"record {number}" for number in range(count)],
    np.tile(np.array(stamp or (0, 0), np.int64), (count, 1)),
    records.labeled,
  )


def _stamp(builder, split) -> tuple[int, int] | None:
  """Returns (bytes, last change in ns) of the files; None: there are none."""
  try:
    files = builder.info.splits[split].file_instructions
    stats = [os.stat(one.filename) for one in files]
  except (OSError, ValueError, KeyError, AttributeError):
    return None
  if not stats:
    return None
  return sum(x.st_size for x in stats), max(x.st_mtime_ns for x in stats)


class _Records:
  """The records of a split: images, encoded if TFDS gives them so, labels."""

  def __init__(self, tfds, builder, cfg, split):
    self._cfg = cfg
    skip = {cfg.image_key: tfds.decode.SkipDecoding()}
    self._source = _source(tfds, builder, cfg, split, skip)
    try:
      self._source[0]
    except Exception:  # then TFDS decodes; what else is wrong comes up again
      self._source = _source(tfds, builder, cfg, split, None)

  def __len__(self):
    return len(self._source)

  def source(self, row):
    """See `_lazy.Images`."""
    return self.labeled(row)[0], f"record {row}"

  def labeled(self, row):
    """Returns (encoded image or its pixels, label)."""
    cfg, row = self._cfg, int(row)
    try:
      record = self._source[row]
      image, label = record[cfg.image_key], int(record[cfg.label_key])
    except ImportError as error:
      raise errors.UsageError(
        f"data: tfds: {cfg.dataset!r} cannot be decoded without a package "
        f"that is not installed: {_first_line(error)}"
      ) from error
    except Exception as error:  # of damaged files, nearly anything
      raise decoding.Unreadable(
        f"record {row} of {len(self)} is damaged: {_first_line(error)}"
      ) from error
    if isinstance(image, np.ndarray) and image.ndim == 2:
      image = image[..., None]
    return image, label


def _source(tfds, builder, cfg, split, decoders):
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
      cfg.dataset,
      split=split,
      data_dir=cfg.data_dir or None,
      download=False,
      decoders=decoders,
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

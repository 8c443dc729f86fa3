"""PASCAL VOC 2007 classification: 20 classes, several of them in an image.

Everingham et al. 2010. Which classes an image shows is read from the lists
ImageSets/Main/<class>_<split>.txt: 1, -1, or 0 where it shows only objects that
are marked difficult. GenRep trains on `train` and judges on `val`; VISSL and
others train on `trainval` and judge on `test`: their numbers do not compare.
"""

import re

import numpy as np

from genrep_jax.data import _files
from genrep_jax.lib import contracts, errors, options, untrusted

CLASS_NAMES = (
  "aeroplane",
  "bicycle",
  "bird",
  "boat",
  "bottle",
  "bus",
  "car",
  "cat",
  "chair",
  "cow",
  "diningtable",
  "dog",
  "horse",
  "motorbike",
  "person",
  "pottedplant",
  "sheep",
  "sofa",
  "train",
  "tvmonitor",
)
_SPLITS = ("train", "val", "trainval", "test")
_LINE = re.compile(r"(\w+)\s+(-1|0|1)")

OPTIONS = {
  "data_dir": options.text(
    "", "VOC2007, or a folder that holds it (VOCdevkit)"
  ),
  "train": options.choice("train", _SPLITS, "official split to train on"),
  "test": options.choice("val", _SPLITS, "official split to judge on"),
  "difficult": options.flag(
    True, "an image shows a class whose only objects are difficult, too"
  ),
  **_files.options_of(image_px=224),
}


def make(cfg) -> contracts.Dataset:
  """Reads the lists and indexes the images.

  Args:
    cfg: `OPTIONS`.

  Returns:
    The data set: labels bool [N 20].

  Raises:
    UsageError: no such folder, a list that is missing or no such list, images
      that are missing or cannot be decoded, unless they are skipped.
  """
  root = _files.root(cfg.data_dir, "VOCdevkit", "VOC2007")
  splits = {name: _split(cfg, root, cfg[name]) for name in ("train", "test")}
  return _files.load(
    cfg,
    root,
    splits,
    name=f"VOC07 {cfg.train} -> {cfg.test}",
    class_names=CLASS_NAMES,
    scope=f"{cfg.train}_{cfg.test}",
  )


def _split(cfg, root, split):
  """Returns (paths, labels bool [N 20])."""
  folder = root / "ImageSets" / "Main"
  lists = {name: folder / f"{name}_{split}.txt" for name in CLASS_NAMES}
  missing = [path.name for path in lists.values() if not path.is_file()]
  if missing:
    raise errors.UsageError(
      f"data: {folder} lacks {len(missing)} of 20 lists, first {missing[0]}"
    )
  names, shown = None, []
  for path in lists.values():
    with untrusted.opened(path, "data") as file:
      lines = file.read().decode("ascii", "replace").split("\n")
    found = [_LINE.fullmatch(line.strip()) for line in lines if line.strip()]
    mine = [match and match[1] for match in found]
    if not mine or None in mine or names not in (None, mine):
      raise errors.UsageError(
        f"data: {path}: not a list of images, each with -1, 0 or 1, the same "
        "as in the other lists"
      )
    names = mine
    shown.append([int(match[2]) >= (not cfg.difficult) for match in found])
  images = [f"JPEGImages/{name}.jpg" for name in names]
  return images, np.array(shown, bool).T

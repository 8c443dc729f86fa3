"""Data sets whose images are files: found, indexed, split, decoded lazily."""

import dataclasses
import errno
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from genrep_jax import data
from genrep_jax.data import _index, _lazy
from genrep_jax.lib import (
  contracts,
  decoding,
  environment,
  errors,
  files,
  options,
)

_OPTIONS = {
  "image_px": options.integer(
    0,
    "side to center-crop to; 0: all have one size already",
    low=0,
    high=4096,
    unit="px",
  ),
  "resize_px": options.integer(
    0,
    "shorter side before that crop (bicubic); 0: image_px",
    low=0,
    high=8192,
    unit="px",
  ),
  "channels": options.one_of(
    3, (1, 3), "to decode to: gray files are repeated, colored ones made gray"
  ),
  "on_error": options.choice(
    "refuse", ("refuse", "skip"), "images that cannot be decoded; skip: counted"
  ),
  "limit": options.integer(
    0, "class-balanced part of each split; 0: all", low=0, unit="images"
  ),
  "index": options.text(
    "",
    "folder that keeps sizes and digests between starts; empty: that of the "
    "images, or the user's cache where that is read-only",
  ),
}


def options_of(**changes) -> dict:
  """Declares the options of every set of image files, defaults changed."""
  return {
    name: dataclasses.replace(option, default=changes.get(name, option.default))
    for name, option in _OPTIONS.items()
  }


def root(data_dir: str, *inside: str, key: str = "data.data_dir"):
  """Returns the folder of a data set.

  Args:
    data_dir: of the config.
    *inside: folders that may stand between it and the images; the deepest one
      that is there counts.
    key: of the option.

  Raises:
    UsageError: no folder, or one that cannot be read.
  """
  folder = files.folder(data_dir, key)
  if not data_dir or not folder.is_dir():
    there = folder.exists() and data_dir
    what = "a folder, not a file" if there else "a folder that exists"
    options.refuse(key, data_dir, what)
  for name in inside:
    if (folder / name).is_dir():
      folder = folder / name
  return folder


def check_sizes(cfg) -> None:
  """Refuses a resize_px that has no crop, or is smaller than it."""
  if cfg.resize_px and not 0 < cfg.image_px <= cfg.resize_px:
    options.refuse(
      "data.resize_px",
      cfg.resize_px,
      f"0, or with an image_px in 1..{cfg.resize_px} (given {cfg.image_px})",
    )


def class_folders(folder: pathlib.Path) -> list[str]:
  """Returns the names of the class folders of a folder, sorted.

  Hidden ones are no classes; links to folders are.

  Raises:
    UsageError: names that differ only by case.
  """
  names = sorted(one.name for one in _entries(folder) if _is_folder(one))
  seen = {}
  for name in names:
    other = seen.setdefault(name.casefold(), name)
    if other != name:
      raise errors.UsageError(
        f"data: {folder}: classes {other!r} and {name!r} differ by case only"
      )
  return names


def images_of(
  top: pathlib.Path, classes: Sequence[str]
) -> tuple[list[tuple[str, int]], int]:
  """Lists the images of class folders, those of deeper folders, too.

  Args:
    top: holds the class folders.
    classes: their names.

  Returns:
    ([(path relative to `top`, number of the class)] sorted by class and path,
    how many other files there are, hidden ones not counted).

  Raises:
    UsageError: a class without images, a folder that cannot be read, or a link
      to a folder above it.
  """
  found, others = [], 0
  for number, name in enumerate(classes):
    names, more = _walk(top / name, name, ())
    if not names:
      raise errors.UsageError(
        f"data: {top / name}: no image; allowed: class folders with "
        f"{', '.join(decoding.EXTENSIONS)}"
      )
    found += [(one, number) for one in sorted(names)]
    others += more
  return found, others


def parted(
  found: Sequence[tuple[str, int]], count_of, seed: int
) -> tuple[list, list]:
  """Takes a share of every class, by a rule that further files hardly change.

  Args:
    found: (name, class) pairs.
    count_of: how many images a class has -> how many of them are taken: those
      whose sha256 of "seed/name" is least.
    seed: of the rule.

  Returns:
    (what is left, what was taken), both in the order of `found`.
  """
  ranked = {}
  for name, label in found:
    text = f"{seed}/{name}".encode("utf-8", "surrogateescape")
    ranked.setdefault(label, []).append((hashlib.sha256(text).digest(), name))
  taken = set()
  for members in ranked.values():
    taken.update(name for _, name in sorted(members)[: count_of(len(members))])
  return (
    [one for one in found if one[0] not in taken],
    [one for one in found if one[0] in taken],
  )


def load(
  cfg,
  folder: pathlib.Path,
  splits: Mapping[str, tuple[Sequence[str], np.ndarray]],
  *,
  name: str,
  class_names: Sequence[str],
  scope: str = "",
  others: int = 0,
) -> contracts.Dataset:
  """Makes a data set of image files.

  Args:
    cfg: an entry with `options_of`.
    folder: that the files lie in.
    splits: {"train", "test", perhaps "selection": (paths relative to `folder`,
      labels int [N] or bool [N k])}.
    name: of the data set.
    class_names: k names.
    scope: see `_index.examine`.
    others: files that are no images, to be told of.

  Raises:
    UsageError: unreadable images, unless they are skipped; a class that has no
      other; images of several sizes with image_px = 0.
  """
  check_sizes(cfg)
  keys = sorted({key for names, _ in splits.values() for key in names})
  facts = _index.examine(
    cfg.index,
    folder,
    scope,
    keys,
    [_stamp(f"{folder}/{key}") for key in keys],
    lambda number: (decoding.read(f"{folder}/{keys[number]}"), 0),
  )
  told = judge(cfg, folder, facts)
  if others:
    told.append(f"{others} files that are no images")
  if told:
    environment.note(f"data: {folder}: left out: {'; '.join(told)}")
  at = {key: number for number, key in enumerate(keys)}
  made = {}
  for split, (names, labels) in splits.items():
    rows = np.array([at[key] for key in names], np.int64)
    made[split] = split_of(
      cfg,
      functools.partial(_source, folder, keys),
      facts,
      rows,
      labels,
      f"{folder}: {split}",
    )
  labels = made["train"].labels
  if labels.ndim == 1:
    present = np.bincount(labels, minlength=len(class_names)) > 0
  else:
    present = labels.any(axis=0)
  if not present.all():
    raise errors.UsageError(
      f"data: {folder}: no training image of class "
      f"{class_names[present.argmin()]!r} is left"
    )
  return dataset(name, class_names, made)


def judge(cfg, where, facts: _index.Facts) -> list[str]:
  """Refuses unreadable images, or returns what to tell of them."""
  count = len(facts.reasons)
  if not count:
    return []
  first = facts.reasons[min(facts.reasons)]
  said = f"{count} of {len(facts.keys)} images, which cannot be decoded, first "
  if cfg.on_error == "refuse":
    raise errors.UsageError(
      f"data: {where}: {said}{first}; data.on_error=skip leaves them out"
    )
  return [said + first]


def split_of(cfg, source, facts, rows, labels, where) -> contracts.Split:
  """Makes a split of images that are known.

  Args:
    cfg: an entry with `options_of`.
    source: see `_lazy.Images`.
    facts: of images.
    rows: int [N], which of them.
    labels: int [N] or bool [N k].
    where: the split, for messages.
  """
  good = facts.sizes[rows].any(axis=1)
  rows, labels = rows[good], np.asarray(labels)[good]
  if cfg.limit and labels.ndim == 1:
    chosen = data.balanced_indices(labels, cfg.limit)
    rows, labels = rows[chosen], labels[chosen]
  elif cfg.limit:
    rows, labels = rows[: cfg.limit], labels[: cfg.limit]
  if not len(rows):
    raise errors.UsageError(f"data: {where}: no image can be decoded")
  sizes = facts.sizes[rows]
  if not cfg.image_px and (sizes != sizes[0]).any():
    other = (sizes != sizes[0]).any(axis=1).argmax()
    shown = (
      f"{facts.keys[rows[at]]} ({sizes[at][0]} x {sizes[at][1]})"
      for at in (0, other)
    )
    raise errors.UsageError(
      f"data: {where}: images of several sizes: {' and '.join(shown)}; set "
      "data.image_px"
    )
  images = _lazy.Images(
    source,
    rows,
    sizes,
    facts.digests[rows],
    channels=cfg.channels,
    image_px=cfg.image_px,
    resize_px=cfg.resize_px,
  )
  kind = np.int32 if labels.ndim == 1 else np.bool_
  return contracts.Split(images, labels.astype(kind))


def dataset(name, class_names, made) -> contracts.Dataset:
  """Makes a data set of splits by name.

  Raises:
    UsageError: splits of images of several sizes.
  """
  shapes = {split: one.images.shape[1:] for split, one in made.items()}
  if len(set(shapes.values())) > 1:
    raise errors.UsageError(
      f"data: {name}: images of several sizes: "
      f"{', '.join(f'{k} {v}' for k, v in shapes.items())}; set data.image_px"
    )
  return contracts.Dataset(
    name=name,
    num_classes=len(class_names),
    class_names=tuple(class_names),
    **made,
  )


def _source(folder, keys, row):
  path = f"{folder}/{keys[row]}"
  return path, path


def _stamp(path) -> tuple[int, int]:
  """Returns (bytes, time of change in ns); (-1, 0) of a link to nothing."""
  try:
    stat = os.stat(path)
  except OSError:
    return -1, 0
  return stat.st_size, stat.st_mtime_ns


def _entries(folder) -> list[os.DirEntry]:
  """Lists a folder without what is hidden."""
  try:
    with os.scandir(folder) as entries:
      return [one for one in entries if one.name[:1] != "."]
  except OSError as error:
    raise errors.UsageError(f"data: {folder}: {error.strerror}") from error


def _is_folder(entry) -> bool:
  try:
    return entry.is_dir()
  except OSError as error:
    if error.errno == errno.ELOOP:  # a link to itself
      return False
    raise errors.UsageError(f"data: {entry.path}: {error.strerror}") from error


def _walk(folder, prefix: str, above: tuple) -> tuple[list[str], int]:
  """Returns (paths of images, each below `prefix`, number of other files)."""
  try:
    stat = os.stat(folder)
  except OSError as error:
    raise errors.UsageError(f"data: {folder}: {error.strerror}") from error
  here = stat.st_dev, stat.st_ino
  if here in above:
    raise errors.UsageError(
      f"data: {folder} is a link to a folder above it; allowed: no rings"
    )
  names, others = [], 0
  for entry in _entries(folder):
    name = f"{prefix}/{entry.name}"
    if _is_folder(entry):
      inner, more = _walk(entry.path, name, (*above, here))
      names += inner
      others += more
    elif decoding.is_image(entry.name):
      names.append(name)
    else:
      others += 1
  return names, others

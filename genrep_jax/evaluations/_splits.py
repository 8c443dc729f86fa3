"""Which images are held out, drawn or dealt to folds: functions of a seed."""

import numpy as np

from genrep_jax.lib import contracts


class Rows:
  """Some rows of images, which are cut or decoded when they are asked for.

  Attributes:
    shape: [n h w c].
    dtype: uint8.
  """

  def __init__(self, images, rows):
    self._images, self._rows = images, np.asarray(rows)
    self.shape = (len(self._rows), *images.shape[1:])
    self.dtype = images.dtype

  def __len__(self):
    return len(self._rows)

  def __getitem__(self, rows):
    return self._images[self._rows[rows]]


def take(split: contracts.Split, rows) -> contracts.Split:
  """Returns the rows, int [n] or bool [N], of a split; decodes nothing."""
  rows = np.asarray(rows)
  rows = np.flatnonzero(rows) if rows.dtype == bool else rows
  return contracts.Split(Rows(split.images, rows), split.labels[rows])


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Chooses `share` of the rows of every class.

  Args:
    labels: int [N]; or bool [N k], several classes an image: then any rows.
    share: in (0, 1); of each class at least one row is held out and at least
      one is kept, except that a class with a single row keeps it.
    seed: of the choice.

  Returns:
    bool [N], True = held out.
  """
  random = np.random.default_rng(seed)
  held_out = np.zeros(len(labels), bool)
  classes = labels if labels.ndim == 1 else np.zeros(len(labels), int)
  for label in np.unique(classes):
    members = random.permutation(np.flatnonzero(classes == label))
    count = min(max(1, round(share * len(members))), len(members) - 1)
    held_out[members[:count]] = True
  return held_out


def per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Draws `count` rows of every class, as big_vision's few-shot probe does.

  Args:
    labels: int [N], of classes 0..k-1 with at least `count` rows each.
    count: rows of a class; those of a seed are among those of a larger count.
    seed: of the draw.

  Returns:
    int [k count], class by class.
  """
  random = np.random.default_rng(seed)
  drawn = [
    random.permutation(np.flatnonzero(labels == label))[:count]
    for label in range(labels.max() + 1)
  ]
  return np.concatenate(drawn)


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Deals the rows to folds, each class evenly.

  Args:
    labels: int [N].
    count: number of folds, at least 2.
    seed: of the order in which the rows of a class are dealt.

  Returns:
    int [N], the fold that tests a row; -1 for the only row of its class, which
    no fold may test: the others have nothing to learn the class from.
  """
  random = np.random.default_rng(seed)
  fold, dealt = np.full(len(labels), -1), 0
  for label in np.unique(labels):
    members = random.permutation(np.flatnonzero(labels == label))
    if len(members) > 1:
      fold[members] = (dealt + np.arange(len(members))) % count
      dealt += len(members)
  return fold

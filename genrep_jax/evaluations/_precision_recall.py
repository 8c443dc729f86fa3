"""Improved precision and recall (Kynkaanniemi et al. 2019, algorithm 1)."""

import numpy as np


def _squared_distances(a, b):
  """Squared Euclidean distances [n m] of rows of a [n f] and b [m f]."""
  cross = a @ b.T
  return np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * cross


def squared_radii(features, k: int, *, chunk: int = 1000) -> np.ndarray:
  """Squared distance of each row to its k-th nearest other row.

  Args:
    features: [n f], n > k.
    k: which neighbor, 1 is the nearest.
    chunk: rows at a time, to bound memory.

  Returns:
    [n], float64.
  """
  x = np.asarray(features, np.float64)
  radii = []
  for start in range(0, len(x), chunk):
    d = _squared_distances(x[start : start + chunk], x)
    # A row is not its own neighbor, even where rounding says so.
    d[np.arange(len(d)), start + np.arange(len(d))] = np.inf
    radii.append(np.partition(d, k - 1, axis=1)[:, k - 1])
  return np.concatenate(radii)


def coverage(manifold, points, k: int = 3, *, chunk: int = 1000) -> float:
  """Share of points inside the union of k-NN balls around `manifold`'s rows.

  Args:
    manifold: [n f], the rows the balls are around.
    points: [m f].
    k: the radius of a row's ball is the distance to its k-th neighbor.
    chunk: rows at a time.

  Returns:
    A number in [0, 1] (the paper's eq. 1 and 2).
  """
  x = np.asarray(manifold, np.float64)
  points = np.asarray(points, np.float64)
  radii = squared_radii(x, k, chunk=chunk)
  inside = 0
  for start in range(0, len(points), chunk):
    d = _squared_distances(points[start : start + chunk], x)
    inside += int(np.sum(np.any(d <= radii[None], axis=1)))
  return inside / len(points)


def precision_recall(real, generated, k: int = 3) -> tuple[float, float]:
  """Returns (precision, recall) of feature sets [n f] and [m f].

  Precision is the share of generated images that look real, recall the share
  of real images the generator could have made.
  """
  return coverage(real, generated, k), coverage(generated, real, k)

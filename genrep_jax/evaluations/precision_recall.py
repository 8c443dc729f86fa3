"""Fidelity and diversity apart, by balls around k-nearest neighbors.

Improved precision and recall (Kynkaanniemi et al. 2019, algorithm 1), density
and coverage (Naeem et al. 2020, eq. 4 and 5).
"""

import numpy as np

from genrep_jax.evaluations import _generated
from genrep_jax.lib import contracts, options

OPTIONS = {
  "k": options.integer(3, "neighbor that is a ball's radius", low=1, high=1000),
  **_generated.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes precision, recall, density and coverage.

  Args:
    cfg: `OPTIONS`.
    model: has `generate`.
    mesh: the device mesh.

  Returns:
    Yields precision<k>, recall<k>, density<k> and coverage<k>, each followed
    by "_<eyes>_<samples>".

  Raises:
    UsageError: fewer images than neighbors, or see `_generated.Judge`.
  """
  judge = _generated.Judge(cfg, model, mesh)
  fewest = min(cfg.samples, judge.real_count)
  if cfg.k >= fewest:
    options.refuse(
      "evaluations.k", cfg.k, f"below the {fewest} images that are compared"
    )

  def run(variables):
    real, fake = (view.features for view in judge.see(variables))
    values = (
      *precision_recall(real, fake, cfg.k),
      *density_coverage(real, fake, cfg.k),
    )
    names = "precision", "recall", "density", "coverage"
    for name, value in zip(names, values, strict=True):
      yield f"{name}{cfg.k}_{judge.protocol}", value

  return contracts.Evaluation(
    run=run,
    headline=f"precision{cfg.k}_{judge.protocol}",
    requires=frozenset({"generate"}),
    about=f"share within {cfg.k}-nearest-neighbor balls of real images, of "
    f"{judge.about}",
    metrics={
      "precision*": "Share of generated images that look real.",
      "recall*": "Share of real images that could have been generated.",
      "density*": "Real balls around a generated image, over k; may exceed 1.",
      "coverage*": "Share of real images with a generated one nearby.",
    },
  )


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


def _inside(centers, points, k, *, strict, chunk):
  """Yields whether points are in balls, [c n m] by chunks of the n centers."""
  compare = np.less if strict else np.less_equal
  radii = squared_radii(centers, k, chunk=chunk)
  for start in range(0, len(centers), chunk):
    rows = slice(start, start + chunk)
    d = _squared_distances(centers[rows], points)
    yield compare(d, radii[rows, None])


def coverage(
  manifold, points, k: int = 3, *, strict: bool = False, chunk: int = 1000
) -> float:
  """Share of points inside the union of k-NN balls around `manifold`'s rows.

  Args:
    manifold: [n f], the rows the balls are around.
    points: [m f].
    k: the radius of a row's ball is the distance to its k-th neighbor.
    strict: a point on the sphere is outside.
    chunk: rows at a time.

  Returns:
    A number in [0, 1] (Kynkaanniemi et al., eq. 1 and 2).
  """
  x, points = (np.asarray(a, np.float64) for a in (manifold, points))
  found = np.zeros(len(points), bool)
  for inside in _inside(x, points, k, strict=strict, chunk=chunk):
    found |= inside.any(axis=0)
  return float(found.mean())


def precision_recall(
  real, generated, k: int = 3, *, strict: bool = False, chunk: int = 1000
) -> tuple[float, float]:
  """Returns (precision, recall) of feature sets [n f] and [m f].

  Precision is the share of generated images that look real, recall the share
  of real images the generator could have made. A point on a ball's sphere is
  in it, as torch-fidelity has it, unless `strict`, as prdc.
  """
  how = {"strict": strict, "chunk": chunk}
  return (
    coverage(real, generated, k, **how),
    coverage(generated, real, k, **how),
  )


def density_coverage(
  real, generated, k: int = 5, *, strict: bool = True, chunk: int = 1000
) -> tuple[float, float]:
  """Returns (density, coverage) of feature sets [n f] and [m f].

  Density is how many real balls hold a generated image, on average, over k: it
  may exceed 1. Coverage is the share of real balls that hold one. `strict`, a
  point on the sphere is outside, is how the authors' prdc counts.
  """
  x, y = (np.asarray(a, np.float64) for a in (real, generated))
  hits = covered = 0
  for inside in _inside(x, y, k, strict=strict, chunk=chunk):
    hits += int(inside.sum())
    covered += int(inside.any(axis=1).sum())
  return hits / (k * len(y)), covered / len(x)

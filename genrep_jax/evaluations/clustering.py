"""k-means on unit features, compared with the classes.

k-means++ (Arthur & Vassilvitskii 2007) and Lloyd's iterations, the best of
several restarts; k is the number of classes. Clusters are matched with classes
one to one (Hungarian accuracy), and compared as partitions: normalized mutual
information with the arithmetic mean, adjusted Rand index.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from genrep_jax.evaluations import _features
from genrep_jax.evaluations.few_shot import unit
from genrep_jax.lib import contracts, options

OPTIONS = {
  "restarts": options.integer(5, "of which the best is kept", low=1, high=1000),
  "max_iterations": options.integer(
    300, "of Lloyd, for each", low=1, high=10**6
  ),
  "seed": options.integer(0, "of the first centers", low=0),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the clustering of the test images.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields "kmeans_accuracy" (Hungarian), "kmeans_nmi" and "kmeans_ari".

  Raises:
    UsageError: fewer images than classes, or see `_features`.
  """
  dataset = _features.load(cfg, model)
  k, size = dataset.num_classes, len(_features.splits(cfg, dataset)[1].labels)
  if size < k:
    options.refuse(
      "evaluations.data", f"{size} images to cluster", f"at least {k}: classes"
    )

  def run(variables):
    features, labels = _features.of_split(
      cfg, dataset, model.encode, variables, mesh, judged=True
    )
    found = kmeans(
      features,
      k,
      restarts=cfg.restarts,
      max_iterations=cfg.max_iterations,
      seed=cfg.seed,
    )
    yield "kmeans_accuracy", hungarian_accuracy(labels, found.assignment)
    yield "kmeans_nmi", nmi(labels, found.assignment)
    yield "kmeans_ari", ari(labels, found.assignment)

  return contracts.Evaluation(
    run=run,
    headline="kmeans_accuracy",
    metrics={
      "kmeans_accuracy": "Share of the images in the cluster that is matched "
      "with their class (Hungarian).",
      "kmeans_nmi": "Information that clusters and classes share, 0 to 1.",
      "kmeans_ari": "Pairs of images that both put together, beyond chance.",
    },
    about=_features.said(
      cfg,
      dataset,
      f"k-means on unit features, best of {cfg.restarts} k-means++ starts, "
      "matched with the classes",
    ),
  )


class Clusters(NamedTuple):
  """What `lloyd` found.

  Attributes:
    assignment: int [n], each row's cluster.
    centers: float64 [k f].
    objectives: float64 [iterations], of each assignment.
  """

  assignment: np.ndarray
  centers: np.ndarray
  objectives: np.ndarray


def kmeans(
  features, k: int, *, restarts: int = 5, max_iterations: int = 300, seed=0
) -> Clusters:
  """Returns the best of several k-means clusterings of unit features.

  Args:
    features: [n f], n >= k; normalized here.
    k: number of clusters.
    restarts: each from its own k-means++ centers.
    max_iterations: see `lloyd`.
    seed: of all of them.
  """
  x, random = unit(features), np.random.default_rng(seed)
  runs = (
    lloyd(x, _first_centers(x, k, random), max_iterations=max_iterations)
    for _ in range(restarts)
  )
  return min(runs, key=lambda run: run.objectives[-1])


def lloyd(
  features, centers, *, spherical: bool = False, max_iterations: int = 300
) -> Clusters:
  """Lloyd's iterations on unit features, until no row changes its cluster.

  Args:
    features: [n f]; normalized here.
    centers: [k f], the first ones.
    spherical: scale the centers to length 1 after every mean; the objective is
      then the mean distance, else the sum of squared distances.
    max_iterations: assignments at most.

  Returns:
    The clusters; one that has lost all its rows keeps its center. Of equally
    near centers the first has the row.
  """
  x, centers = unit(features), np.array(centers, np.float64)
  rows, objectives, assignment = np.arange(len(x)), [], None
  for _ in range(max_iterations):
    squares = _squared_distances(x, centers)
    nearest = squares.argmin(axis=1)
    near = squares[rows, nearest]
    objectives.append(np.sqrt(near).mean() if spherical else near.sum())
    if assignment is not None and (nearest == assignment).all():
      break
    assignment = nearest
    counts = np.bincount(assignment, minlength=len(centers))
    member = assignment == np.arange(len(centers))[:, None]
    means = member @ x / np.maximum(counts, 1)[:, None]
    means = unit(means) if spherical else means
    centers = np.where(counts[:, None] > 0, means, centers)
  return Clusters(assignment, centers, np.array(objectives))


def _squared_distances(x, centers):
  """Returns float64 [n k] of unit rows [n f] to centers [k f]."""
  squares = 1 - 2 * x @ centers.T + np.square(centers).sum(1)
  return np.maximum(squares, 0)


def _first_centers(x, k, random):
  """k-means++: each new center a row, drawn by its squared distance."""
  centers = x[random.integers(len(x))][None]
  while len(centers) < k:
    weights = _squared_distances(x, centers).min(axis=1)
    total = weights.sum()
    weights = weights / total if total > 0 else None  # all rows alike
    centers = np.concatenate([centers, x[[random.choice(len(x), p=weights)]]])
  return centers


def contingency(labels, clusters) -> np.ndarray:
  """Returns how many rows of a class are in a cluster, int [c k]."""
  table = np.zeros((np.max(labels) + 1, np.max(clusters) + 1), np.int64)
  np.add.at(table, (labels, clusters), 1)
  return table


def hungarian_accuracy(labels, clusters) -> float:
  """Share of rows whose cluster is matched, one to one, with their class."""
  table = contingency(labels, clusters)
  pairs = scipy.optimize.linear_sum_assignment(table, maximize=True)
  return float(table[pairs].sum() / len(labels))


def nmi(labels, clusters) -> float:
  """Mutual information over the mean of the two entropies; 1 if both are 0."""
  p = contingency(labels, clusters) / len(labels)
  rows, columns = p.sum(1), p.sum(0)
  mean = (_entropy(rows) + _entropy(columns)) / 2
  information = 2 * mean - _entropy(p.ravel())
  return float(information / mean) if mean > 0 else 1.0


def _entropy(p):
  p = p[p > 0]
  return -(p * np.log(p)).sum()


def ari(labels, clusters) -> float:
  """Adjusted Rand index (Hubert & Arabie 1985); 1 for equal partitions."""
  table = contingency(labels, clusters)

  def pairs(counts):
    counts = np.asarray(counts, np.float64)
    return (counts * (counts - 1) / 2).sum()

  both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
  expected = first * second / max(pairs(len(labels)), 1)
  largest = (first + second) / 2
  if largest == expected:
    return 1.0
  return float((both - expected) / (largest - expected))

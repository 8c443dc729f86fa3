"""Nearest-subspace classification: each class is a few directions of features.

LDR's test (Dai et al. 2022, arXiv:2111.06636): the first principal directions
of each class's training features; an image is of the class whose subspace
leaves the shortest residual. Both of its variants: around the class mean (pca)
and around zero (svd).
"""

import numpy as np
import scipy.linalg

from genrep_jax.evaluations import _features
from genrep_jax.lib import contracts, options

OPTIONS = {
  "components": options.integer(10, "directions of a class", low=1, high=2**16),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the nearest-subspace classification.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields "subspace<n>_pca_accuracy" and "subspace<n>_svd_accuracy".

  Raises:
    UsageError: more components than training images of a class, or see
      `_features`.
  """
  dataset = _features.load(cfg, model)
  labels = _features.splits(cfg, dataset)[0].labels
  fewest = np.bincount(labels, minlength=dataset.num_classes).min()
  if cfg.components > fewest:
    options.refuse(
      "evaluations.components",
      cfg.components,
      f"at most {fewest}, the training images of the rarest class",
    )

  def measure(train, test, num_classes):
    for kind in ("pca", "svd"):
      found = residuals(
        *train, test[0], components=cfg.components, centered=kind == "pca"
      )
      right = float(np.mean(found.argmin(axis=1) == test[1]))
      yield f"subspace{cfg.components}_{kind}_accuracy", right

  return _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline=f"subspace{cfg.components}_pca_accuracy",
    about=f"nearest subspace of {cfg.components} directions a class",
    metrics={
      "subspace*": "Accuracy of the class whose principal directions leave the "
      "least of a feature over."
    },
  )


def residuals(
  train, labels, queries, *, components: int, centered: bool
) -> np.ndarray:
  """Length of what each class's subspace leaves of the queries.

  Args:
    train: [n f].
    labels: int [n], every class of 0..k-1.
    queries: [m f].
    components: directions of a class; of fewer features all.
    centered: subtract each class's mean first.

  Returns:
    float64 [m k].
  """
  train, queries = (np.asarray(x, np.float64) for x in (train, queries))
  columns = []
  for label in range(labels.max() + 1):
    rows = train[labels == label]
    mean = rows.mean(0) if centered else 0.0
    rows, rest = rows - mean, queries - mean
    axes = _principal(rows, components)
    rest = rest - rest @ axes @ axes.T
    columns.append(np.linalg.norm(rest, axis=1))
  return np.stack(columns, axis=1)


def _principal(rows, count):
  """The first `count` right singular vectors [f count] of rows [n f].

  By the eigenvectors of the smaller of the two Gram matrices; those of a
  singular value that is zero may be zero: nothing lies along them.
  """
  wide = len(rows) < rows.shape[1]
  gram = rows @ rows.T if wide else rows.T @ rows
  some = max(0, len(gram) - count), len(gram) - 1  # eigenvalues rise
  values, vectors = scipy.linalg.eigh(gram, subset_by_index=some)
  if not wide:
    return vectors
  real = values > 1e-12 * values[-1]
  return rows.T @ vectors[:, real] / np.sqrt(values[real])

"""VOC07 classification: linear SVMs, one class against the rest, by mean AP.

The protocol of Goyal et al. 2019 (arXiv:1905.01235), as GenRep has it: features
scaled to length 1; an SVM of squared hinge loss for every class, whose
positives weigh twice; its C, one of 26, by 3-fold cross-validated AP; refitted
to all training images. Two averages of precision are reported, which must not
share a column: the area under the monotone envelope (GenRep, VISSL) and the
mean at 11 recalls (VOC 2007 itself).

The solver is LIBLINEAR's primal one, which finds the optimum; the original's
dual one stops before it at large C (max_iter 2000).
"""

import numpy as np

from genrep_jax.evaluations import _features
from genrep_jax.lib import contracts, errors, options

# As in transfer_classification of GenRep; of equal values the first is taken.
C_GRID = (*(10.0**i for i in range(-7, 3)), *(0.5**i for i in range(4, 20)))
FOLDS = 3

OPTIONS = dict(_features.OPTIONS)


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the VOC07 protocol.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields "svm_voc07_map_area" and "svm_voc07_map_11point".

  Raises:
    UsageError: scikit-learn is missing, images have one class each, a class
      has fewer than three training images (or all but two), or see
      `_features`.
  """
  need("svm")
  dataset = _features.load(cfg, model, several=True)
  labels = _features.splits(cfg, dataset)[0].labels
  positives = labels.sum(0)
  fewest = np.minimum(positives, len(labels) - positives)
  if fewest.min() < FOLDS:
    options.refuse(
      "evaluations.data",
      f"{dataset.name}: {positives[fewest.argmin()]} of {len(labels)} training "
      f"images in class {fewest.argmin()}",
      f"{FOLDS} or more in and out of each class",
    )

  def measure(train, test, num_classes):
    x, queries = scaled(train[0]), scaled(test[0])
    found = {"area": [], "11point": []}
    for label in range(num_classes):
      wanted = test[1][:, label]
      if not wanted.any():  # no precision is defined
        continue
      classifier, *_ = fit(x, train[1][:, label])
      scores = classifier.decision_function(queries)
      for kind, values in found.items():
        values.append(average_precision(scores, wanted, kind=kind))
    for kind, values in found.items():
      yield f"svm_voc07_map_{kind}", float(np.mean(values))

  return _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline="svm_voc07_map_area",
    about="linear SVMs of squared hinge loss, C of 26 by 3-fold AP, mean of "
    "the area under precision's envelope",
    metrics={
      "svm_voc07_map_area": "Mean over classes of the area under precision's "
      "envelope (VISSL, GenRep).",
      "svm_voc07_map_11point": "Mean over classes of precision at 11 recalls "
      "(VOC 2007's own); not comparable with the area.",
    },
  )


def need(evaluation: str) -> None:
  """Raises UsageError where scikit-learn is not installed."""
  try:
    import sklearn  # noqa: F401
  except ImportError as error:
    raise errors.UsageError(
      f"evaluations: {evaluation}: needs scikit-learn: pip install -e '.[eval]'"
    ) from error


def scaled(x) -> np.ndarray:
  """Divides rows by their length + 1e-5, in float64."""
  x = np.asarray(x, np.float64)
  return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)


def fit(train, positive, *, c_grid=C_GRID, tol: float = 1e-6):
  """Chooses C by cross-validated AP and fits one class's SVM to all rows.

  min_w,b (|w|^2 + b^2) / 2 + C sum_i a_i max(0, 1 - y_i f(x_i))^2, where a is 2
  for positives and 1 for the others. The bias is regularized, as LIBLINEAR's.

  Args:
    train: [n f], scaled.
    positive: bool [n]; at least three True and three False.
    c_grid: to choose from.
    tol: of the solver.

  Returns:
    (the fitted LinearSVC, the chosen C, mean AP of the folds float64 [C]).
  """
  from sklearn import model_selection, svm

  def solve(rows, c):
    # scikit-learn: coordinates of the dual are drawn, the primal has no draw.
    return svm.LinearSVC(
      C=c, class_weight={1: 2, 0: 1}, dual=False, tol=tol, max_iter=2000
    ).fit(train[rows], positive[rows])

  positive = np.asarray(positive, np.int64)
  parts = model_selection.StratifiedKFold(FOLDS).split(train, positive)
  table = np.array(
    [
      [
        average_precision(
          solve(rows, c).decision_function(train[held_out]), positive[held_out]
        )
        for c in c_grid
      ]
      for rows, held_out in parts
    ]
  ).mean(axis=0)
  best = c_grid[table.argmax()]
  return solve(slice(None), best), best, table


def average_precision(scores, labels, *, kind: str = "step") -> float:
  """Averages precision over recall.

  Args:
    scores: [n]; equal ones are taken together.
    labels: bool or 0/1 [n], one True at least.
    kind: "step", sum of (recall's step * precision), as scikit-learn; "area",
      the same of the envelope, the largest precision at this recall or more
      (VISSL, GenRep); "11point", the mean of the envelope at the recalls 0,
      .1, ..., 1 (VOC 2007).
  """
  scores, labels = np.asarray(scores), np.asarray(labels, np.int64)
  order = np.argsort(-scores, kind="stable")
  hits = labels[order].cumsum()
  last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores
  hits, seen = hits[last], np.arange(1, len(scores) + 1)[last]
  precision, total = hits / seen, hits[-1]
  envelope = np.maximum.accumulate(precision[::-1])[::-1]
  if kind == "11point":
    # In whole numbers: 3 / 10 is below a rounded 0.3.
    first = np.searchsorted(10 * hits, np.arange(11) * total)
    return float(envelope[first].mean())
  height = {"step": precision, "area": envelope}[kind]
  return float((np.diff(hits, prepend=0) * height).sum() / total)

"""Caltech-101's protocol: logistic regression, mean accuracy of the classes.

As GenRep has it (transfer_classification): features scaled to length 1, a
multinomial logistic regression of 100 iterations of L-BFGS, its C, one of 26,
by 3-fold cross-validated accuracy, and the mean over classes of the share of
their test images that are right. The data set says whether there is a
background class; 30 training images a class are `train_limit` = 30 k.
"""

import warnings

import numpy as np

from genrep_jax.evaluations import _features, svm
from genrep_jax.lib import contracts, options

OPTIONS = {
  "max_iterations": options.integer(100, "of L-BFGS", low=1, high=10**6),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the Caltech-101 protocol.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields "caltech101_mean_class_accuracy", "caltech101_accuracy" (of all test
    images) and "caltech101_c".

  Raises:
    UsageError: scikit-learn is missing, a class has fewer than three training
      images, or see `_features`.
  """
  svm.need("caltech101")
  dataset = _features.load(cfg, model)
  labels = _features.splits(cfg, dataset)[0].labels
  fewest = np.bincount(labels, minlength=dataset.num_classes).min()
  if fewest < svm.FOLDS:
    options.refuse(
      "evaluations.data",
      f"{dataset.name} with {fewest} training images of a class",
      f"{svm.FOLDS} or more, one for each fold",
    )

  def measure(train, test, num_classes):
    fitted, c, _ = fit(
      svm.scaled(train[0]), train[1], max_iterations=cfg.max_iterations
    )
    predicted = fitted.predict(svm.scaled(test[0]))
    yield (
      "caltech101_mean_class_accuracy",
      mean_class_accuracy(predicted, test[1]),
    )
    yield "caltech101_accuracy", float(np.mean(predicted == test[1]))
    yield "caltech101_c", c

  return _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline="caltech101_mean_class_accuracy",
    about="logistic regression on features of length 1, C of 26 by 3-fold "
    "accuracy, mean over classes",
    metrics={
      "caltech101_mean_class_accuracy": "Accuracy of each class, averaged.",
      "caltech101_accuracy": "Share of all images that are right.",
      "caltech101_c": "The inverse regularizer that was chosen.",
    },
  )


def fit(
  train, labels, *, c_grid=svm.C_GRID, max_iterations=100, tol: float = 1e-4
):
  """Chooses C by cross-validated accuracy and fits to all rows.

  min_W,b |W|^2 / 2 + C sum_i CE(x_i W + b, y_i); the bias is free.

  Args:
    train: [n f], scaled.
    labels: int [n], three of each class at least.
    c_grid: to choose from; of equal values the first.
    max_iterations: of L-BFGS; that it is stopped is the protocol.
    tol: of its gradient.

  Returns:
    (the fitted LogisticRegression, the chosen C, mean accuracy [C]).
  """
  from sklearn import exceptions, linear_model, model_selection

  def solve(rows, c):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
      return linear_model.LogisticRegression(
        C=c, max_iter=max_iterations, tol=tol
      ).fit(train[rows], labels[rows])

  parts = model_selection.StratifiedKFold(svm.FOLDS).split(train, labels)
  table = np.array(
    [
      [solve(rows, c).score(train[held], labels[held]) for c in c_grid]
      for rows, held in parts
    ]
  ).mean(axis=0)
  best = c_grid[table.argmax()]
  return solve(slice(None), best), float(best), table


def mean_class_accuracy(predicted, labels) -> float:
  """Mean, over the classes that `labels` have, of the share that is right."""
  right = predicted == labels
  return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))

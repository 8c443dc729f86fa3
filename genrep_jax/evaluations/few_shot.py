"""Few-shot probes: ridge regression and prototypes from a few labels a class.

Ridge as in big_vision's `fewshot_lsr`, with its regularizer fixed in advance;
prototypes as in Snell et al. 2017 (arXiv:1703.05175), by cosine.
"""

import numpy as np

from genrep_jax.evaluations import _features, _splits
from genrep_jax.lib import contracts, options

OPTIONS = {
  "shots": options.several(
    (1, 5, 10, 25),
    options.integer(low=1, high=10**6),
    "labeled images of a class; the last is the headline",
    least=1,
    only=("no two alike", lambda shots: len(set(shots)) == len(shots)),
  ),
  "draws": options.integer(
    3, "of these images, with the seeds 0, 1, ...", low=1, high=1000
  ),
  "l2": options.number(2.0**10, "of the ridge", above=0),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the few-shot probes.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields "few_shot_ridge<n>_accuracy" and "few_shot_prototype<n>_accuracy" of
    the test images for every number of shots n, means over the draws, and of
    several draws the sample deviation beside each, "..._std".

  Raises:
    UsageError: a class has fewer training images, or see `_features`.
  """
  dataset = _features.load(cfg, model)
  labels = _features.splits(cfg, dataset)[0].labels
  fewest = np.bincount(labels, minlength=dataset.num_classes).min()
  if max(cfg.shots) > fewest:
    options.refuse(
      "evaluations.shots",
      cfg.shots,
      f"at most {fewest}, the training images of the rarest class",
    )

  def measure(train, test, num_classes):
    features, labels = train
    for shots in cfg.shots:
      scores = {"ridge": [], "prototype": []}
      for seed in range(cfg.draws):
        rows = _splits.per_class(labels, shots, seed)
        drawn = features[rows], labels[rows], test[0]
        for name, found in (
          ("ridge", ridge(*drawn, l2=cfg.l2)),
          ("prototype", prototypes(*drawn)),
        ):
          scores[name].append(np.mean(found.argmax(axis=1) == test[1]))
      for name, values in scores.items():
        metric = f"few_shot_{name}{shots}_accuracy"
        yield metric, float(np.mean(values))
        if cfg.draws > 1:
          yield f"{metric}_std", float(np.std(values, ddof=1))

  return _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline=f"few_shot_ridge{cfg.shots[-1]}_accuracy",
    about=f"ridge (l2 = {cfg.l2:g}) and prototypes from "
    f"{', '.join(map(str, cfg.shots))} images a class, {cfg.draws} draw(s)",
    metrics={
      "few_shot_ridge*": "Accuracy of ridge regression on so many images of "
      "each class, mean (and deviation) of the draws.",
      "few_shot_prototype*": "Accuracy of the nearest class mean by cosine, "
      "likewise.",
    },
  )


def ridge(train, labels, test, *, l2: float) -> np.ndarray:
  """Ridge regression onto +-1 targets (big_vision, fewshot_lsr).

  Features are standardized by the training rows' mean and deviation + 1e-5,
  and a constant 100 is appended, whose weight is the bias, hardly penalized:
  W = (X^T X + l2 I)^-1 X^T Y, which of fewer rows than columns is computed as
  X^T (X X^T + l2 I)^-1 Y.

  Args:
    train: [n f].
    labels: int [n], of classes 0..k-1, the highest among them.
    test: [m f].
    l2: the regularizer.

  Returns:
    Scores, float64 [m k]; the largest is the predicted class.
  """
  train, test = (np.asarray(x, np.float64) for x in (train, test))
  mean, deviation = train.mean(0), train.std(0) + 1e-5
  x, queries = (
    np.pad((z - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0)
    for z in (train, test)
  )
  y = 2.0 * (np.arange(labels.max() + 1) == labels[:, None]) - 1
  if len(x) < x.shape[1]:
    w = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), y)
  else:
    w = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
  return queries @ w


def prototypes(train, labels, test) -> np.ndarray:
  """Cosine to the mean of each class's unit features.

  Args:
    train: [n f].
    labels: int [n], every class of 0..k-1.
    test: [m f].

  Returns:
    Scores, float64 [m k].
  """
  train, test = (unit(x) for x in (train, test))
  means = [train[labels == c].mean(0) for c in range(labels.max() + 1)]
  return test @ unit(means).T


def unit(x) -> np.ndarray:
  """Scales rows [n f] to length 1, in float64; a zero row stays zero."""
  x = np.asarray(x, np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)

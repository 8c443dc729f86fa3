"""Seconds of the probes beside scikit-learn's, and how still the probe stands.

`python -m benchmarks.probes --rows 10000 --features 512` makes features as a
ReLU network's (64 directions, scales apart by orders, 10 classes) and prints a
line for each comparison, in one sitting and on the same rows:

knn: 20 nearest neighbors by cosine of 2,000 queries, `KNeighborsClassifier`
  (brute force, weights exp(s / T)) and ours.
fit: one logistic regression at l2 = 0.01, `LogisticRegression` (lbfgs, the
  length of its gradient 1e-4) and ours; the objective that each ends at.
probe: the choice of l2 by five folds and the final fit, `GridSearchCV` of
  `LogisticRegression` by log-loss on the same l2 and ours; --without_search
  leaves scikit-learn's out.
stillness: --repeats times the whole probe on features that are multiplied by
  1 + 1e-6 * noise: points between the highest and the lowest accuracy.

Each of ours is run twice: the first one compiles.
"""

import argparse
import time

import numpy as np

_CLASSES, _QUERIES, _L2 = 10, 2000, 1e-2


def make_rows(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns features float32 [count size] and labels int32 [count]."""
  random = np.random.default_rng(0)
  labels = (np.arange(count) % _CLASSES).astype(np.int32)
  latent = random.normal(size=(count, 64))
  latent += 0.35 * random.normal(size=(_CLASSES, 64))[labels]
  x = latent @ (random.normal(size=(64, size)) / 8)
  x = np.maximum(x + 0.3 * random.normal(size=x.shape), 0)
  x *= np.exp(random.normal(size=size))
  return x.astype(np.float32), labels


def timed(function):
  """Returns (seconds, result)."""
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def show(name, **values):
  """Prints a line."""
  print(name, {k: float(f"{v:.5g}") for k, v in values.items()}, flush=True)


def main():
  """Prints a line for every comparison."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--rows", type=int, default=10000)
  flags.add_argument("--features", type=int, default=512)
  flags.add_argument("--without_search", action="store_true")
  flags.add_argument("--repeats", type=int, default=10)
  parser, flags = flags, flags.parse_args()
  if min(flags.rows, flags.features) < 100:
    parser.error("--rows, --features: allowed: integers >= 100")

  import jax
  from sklearn import linear_model, model_selection, neighbors, preprocessing

  from genrep_jax.evaluations import _splits, knn, linear
  from genrep_jax.lib import mesh as mesh_lib

  mesh = mesh_lib.make_mesh(jax.devices())
  x, labels = make_rows(flags.rows + _QUERIES, flags.features)
  n = flags.rows
  train, queries = (x[:n], labels[:n]), (x[n:], labels[n:])

  def accuracy(predicted):
    return float(np.mean(predicted == queries[1]))

  def theirs():
    classifier = neighbors.KNeighborsClassifier(
      20,
      metric="cosine",
      algorithm="brute",
      weights=lambda d: np.exp((1 - d) / 0.07),
      n_jobs=-1,
    )
    return classifier.fit(*train).predict(queries[0])

  options = {"num_classes": _CLASSES, "mesh": mesh}

  def ours():
    return knn.classify(*train, queries[0], k=20, temperature=0.07, **options)

  sk, predicted = timed(theirs)
  first, _ = timed(ours)
  again, own = timed(ours)
  show(
    "knn",
    sklearn_seconds=sk,
    first_seconds=first,
    seconds=again,
    sklearn_accuracy=accuracy(predicted),
    accuracy=accuracy(own),
  )

  scaler = preprocessing.StandardScaler().fit(train[0])
  z = scaler.transform(train[0])

  def regression(l2, rows=n):
    return linear_model.LogisticRegression(
      C=1 / (l2 * rows), tol=1e-4, max_iter=1000
    )

  def fit():
    problem = linear.Problem(*train, _CLASSES, mesh)
    return problem.fit(_L2, max_iterations=1000, tolerance=1e-3)

  def objective(weights, bias):
    logits = z.astype(np.float64) @ weights + bias
    largest = logits.max(1)
    norm = np.log(np.exp(logits - largest[:, None]).sum(1)) + largest
    cross = norm - logits[np.arange(n), train[1]]
    return cross.mean() + _L2 / 2 * np.square(weights).sum()

  sk, fitted = timed(lambda: regression(_L2).fit(z, train[1]))
  first, _ = timed(fit)
  again, model = timed(fit)
  show(
    "fit",
    sklearn_seconds=sk,
    first_seconds=first,
    seconds=again,
    sklearn_iterations=fitted.n_iter_[0],
    iterations=model.iterations,
    sklearn_objective=objective(fitted.coef_.T, fitted.intercept_),
    objective=objective(
      model.weights * scaler.scale_[:, None],
      model.bias + scaler.mean_ @ model.weights,
    ),
  )

  grid = linear.OPTIONS["l2"].default

  def probe(features=train[0]):
    return linear.probe(features, train[1], l2_grid=grid, **options)

  first, _ = timed(probe)
  again, (model, l2, _) = timed(probe)
  own = linear.predict(model, queries[0]).argmax(1)
  values = {"first_seconds": first, "seconds": again, "l2": l2}
  values["accuracy"] = accuracy(own)
  if not flags.without_search:
    fold = _splits.folds(train[1], 5, 0)
    search = model_selection.GridSearchCV(
      regression(_L2),
      {"C": [1 / (l2 * 0.8 * n) for l2 in grid]},
      scoring="neg_log_loss",
      cv=model_selection.PredefinedSplit(fold),
      n_jobs=-1,
    )
    sk, found = timed(lambda: search.fit(z, train[1]))
    values["sklearn_seconds"] = sk
    values["sklearn_l2"] = 1 / (0.8 * n * found.best_params_["C"])
    predicted = found.predict(scaler.transform(queries[0]))
    values["sklearn_accuracy"] = accuracy(predicted)
  show("probe", **values)

  if flags.repeats < 1:
    return
  random = np.random.default_rng(1)
  accuracies, chosen = [], set()
  for _ in range(flags.repeats):
    noise = 1 + 1e-6 * random.normal(size=train[0].shape)
    model, l2, _ = probe((train[0] * noise).astype(np.float32))
    chosen.add(l2)
    accuracies.append(accuracy(linear.predict(model, queries[0]).argmax(1)))
  show(
    "stillness",
    points=100 * (max(accuracies) - min(accuracies)),
    different_l2=len(chosen),
  )


if __name__ == "__main__":
  main()

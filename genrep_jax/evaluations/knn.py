"""Weighted k-nearest-neighbor classification on frozen features.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
discrimination" (arXiv:1805.01978), section 3.4: neighbors by cosine
similarity s_i, each voting for its class with the weight exp(s_i / T).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.evaluations import _features, _pictures
from genrep_jax.lib import contracts, mesh as mesh_lib, options

_MATRIX_ENTRIES = 2**24  # similarities in memory at a time: 64 MiB
_K = {"low": 1, "high": 2**16}


OPTIONS = {
  "k": options.either(
    options.integer(20, "neighbors that vote; several: each judged", **_K),
    options.several(
      of=options.integer(**_K),
      least=1,
      only=("no two alike", lambda ks: len(set(ks)) == len(ks)),
    ),
  ),
  "temperature": options.number(0.07, "T of exp(s / T)", low=1e-3, high=1e3),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the kNN evaluation.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields ("knn<k>_accuracy", share of the test images) for every k; the first
    is the headline.

  Raises:
    UsageError: more neighbors than training images, or see `_features`.
  """
  ks = (cfg.k,) if isinstance(cfg.k, int) else tuple(cfg.k)

  def predict(train, test, num_classes, ks):
    return classify(
      *train,
      test[0],
      k=ks,
      temperature=cfg.temperature,
      num_classes=num_classes,
      mesh=mesh,
    )

  def measure(train, test, num_classes):
    for k, classes in zip(ks, predict(train, test, num_classes, ks)):
      yield f"knn{k}_accuracy", float(np.mean(classes == test[1]))

  def pictures(variables):
    parts = _features.of_dataset(cfg, dataset, model.encode, variables, mesh)
    (bank, labels), (features, classes), _ = parts
    images = [split.images for split in _features.splits(cfg, dataset)]
    rows = _pictures.queries(classes)
    return _pictures.of_features(
      dataset,
      (images[0], bank, labels),
      (images[1], features, classes),
      predict(*parts, ks[0]),
      _pictures.nearest(bank, features, rows),
    )

  dataset = _features.load(cfg, model)
  size = _features.train_size(cfg, dataset)
  if max(ks) > size:
    options.refuse(
      "evaluations.k", cfg.k, f"at most the {size} training images"
    )
  made = _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline=f"knn{ks[0]}_accuracy",
    about=f"{', '.join(map(str, ks))} nearest neighbors by cosine, "
    f"T = {cfg.temperature:g}",
  )
  metrics = {
    "knn*": "Share of the images whose class the nearest training images "
    "vote for, weighted by exp(cosine / T)"
  }
  return dataclasses.replace(made, metrics=metrics, pictures=pictures)


def classify(
  bank: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  *,
  k,
  temperature: float,
  num_classes: int,
  mesh,
  leave_one_out: bool = False,
) -> np.ndarray:
  """Predicts the classes of queries by their nearest neighbors in a bank.

  Args:
    bank: [N f], features of the labeled images; normalized here.
    labels: int [N].
    queries: [M f]; normalized here.
    k: neighbors that vote, or several such numbers; of fewer than k rows all
      vote.
    temperature: T of the weights exp(s / T).
    num_classes: number of classes.
    mesh: the device mesh: the queries are spread over it.
    leave_one_out: the queries are the bank, and none is its own neighbor.

  Returns:
    int32 [M], the predicted classes; of several k [len(k) M]. Of equal
    similarities the first row's counts, of equal votes the lower class.
  """
  ks = np.atleast_1d(k)
  predicted = []
  for s, rows in _nearest(bank, queries, ks.max(), mesh, leave_one_out):
    support = votes(s, labels[rows], ks, temperature, num_classes)
    predicted.append(support.argmax(axis=2).astype(np.int32))
  predicted = np.concatenate(predicted, axis=1)
  return predicted if np.ndim(k) else predicted[0]


def votes(similarities, classes, ks, temperature, num_classes) -> np.ndarray:
  """Adds up the weights exp((s - the largest s) / T) class by class.

  The factor that is common to a query keeps them from overflowing.

  Args:
    similarities: [m K], falling along a row.
    classes: int [m K], of these neighbors.
    ks: how many of them vote, several numbers.
    temperature: T.
    num_classes: c.

  Returns:
    float64 [len(ks) m c].
  """
  s = np.asarray(similarities, np.float64)
  weights = np.exp((s - s[:, :1]) / temperature)
  bins = np.arange(len(s))[:, None] * num_classes + classes
  size = len(s) * num_classes
  return np.stack(
    [
      np.bincount(
        bins[:, :k].ravel(), weights[:, :k].ravel(), minlength=size
      ).reshape(len(s), num_classes)
      for k in ks
    ]
  )


def nearest(
  bank, queries, k: int, mesh, *, leave_one_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest rows by cosine.

  Args:
    bank: [N f].
    queries: [M f].
    k: how many; at most N (N - 1) are found.
    mesh: the device mesh: the queries are spread over it.
    leave_one_out: see `classify`.

  Returns:
    (similarities float32 [M k], falling; rows of the bank int32 [M k], the
    lower first where similarities are equal).
  """
  parts = list(_nearest(bank, queries, k, mesh, leave_one_out))
  return tuple(np.concatenate(part) for part in zip(*parts))


def _nearest(bank, queries, k, mesh, leave_one_out):
  """Yields what `nearest` returns, a few queries at a time."""
  k = min(int(k), len(bank) - leave_one_out)
  share = min(_MATRIX_ENTRIES // len(bank), -(-len(queries) // mesh.size), 256)
  rows = max(1, share) * mesh.size
  everywhere, split = mesh_lib.replicated(mesh), mesh_lib.batch(mesh)
  bank = _features.place(_normalize(bank), everywhere)
  search = _program(mesh, k)
  queries = _normalize(queries)
  for start in range(0, len(queries), rows):
    piece = queries[start : start + rows]
    padded = np.zeros((rows, queries.shape[1]), np.float32)
    padded[: len(piece)] = piece
    own = np.full(rows, -1, np.int32)
    if leave_one_out:
      own[: len(piece)] = np.arange(start, start + len(piece))
    found = search(
      bank, _features.place(padded, split), _features.place(own, split)
    )
    yield tuple(x[: len(piece)] for x in jax.device_get(found))


@functools.lru_cache(maxsize=8)
def _program(mesh, k):
  def search(bank, queries, own):
    similarities = jnp.matmul(
      queries, bank.T, precision=jax.lax.Precision.HIGHEST
    )
    itself = own[:, None] == jnp.arange(len(bank))
    similarities = jnp.where(itself, -jnp.inf, similarities)
    # Only all of it, not a slice: a slice would turn XLA's top-k into a full
    # sort, a hundred times slower on CPU.
    return jax.lax.top_k(similarities, k)

  return jax.jit(search, out_shardings=mesh_lib.replicated(mesh))


def _normalize(x):
  """Scales rows to length 1; a zero row stays zero."""
  x = np.asarray(x, np.float32)
  norms = np.sqrt(np.einsum("nf,nf->n", x, x, dtype=np.float64))
  norms = np.maximum(norms, np.finfo(np.float32).tiny)
  return (x / norms[:, None]).astype(np.float32)

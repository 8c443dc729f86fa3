"""Weighted k-nearest-neighbor classification on frozen features.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
discrimination" (arXiv:1805.01978), section 3.4: neighbors by cosine
similarity s_i, each voting for its class with the weight exp(s_i / T).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.evaluations import _features
from genrep_jax.lib import contracts, mesh as mesh_lib, options

_MATRIX_ENTRIES = 2**24  # similarities in memory at a time: 64 MiB


OPTIONS = {
  "k": options.integer(20, "neighbors that vote", low=1, high=2**16),
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
    Yields ("knn<k>_accuracy", share of the test images).

  Raises:
    UsageError: more neighbors than training images, or see `_features`.
  """
  headline = f"knn{cfg.k}_accuracy"

  def measure(train, test, num_classes):
    predicted = classify(
      *train,
      test[0],
      k=cfg.k,
      temperature=cfg.temperature,
      num_classes=num_classes,
      mesh=mesh,
    )
    yield headline, float(np.mean(predicted == test[1]))

  dataset = _features.load(cfg, model)
  size = _features.train_size(cfg, dataset)
  if cfg.k > size:
    options.refuse(
      "evaluations.k", cfg.k, f"at most the {size} training images"
    )
  return _features.of_features(
    cfg,
    dataset,
    model,
    mesh,
    measure,
    headline=headline,
    about=f"{cfg.k} nearest neighbors by cosine, T = {cfg.temperature:g}",
  )


def classify(
  bank: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  *,
  k: int,
  temperature: float,
  num_classes: int,
  mesh,
) -> np.ndarray:
  """Predicts a class for each query (Wu et al. 2018, section 3.4).

  Ties are broken by rule: equally similar training images by their order,
  equally supported classes by the lower number.

  Args:
    bank: training features, float32 [N f]; normalized here.
    labels: int [N], their classes.
    queries: features, float32 [M f]; normalized here.
    k: neighbors that vote, at most N.
    temperature: T of the weights exp(s / T).
    num_classes: number of classes.
    mesh: the device mesh: the queries are spread over it.

  Returns:
    int32 [M], the predicted classes.
  """
  share = min(_MATRIX_ENTRIES // len(bank), -(-len(queries) // mesh.size), 256)
  rows = max(1, share) * mesh.size
  everywhere = mesh_lib.replicated(mesh)
  bank = _features.place(_normalize(bank), everywhere)
  labels = _features.place(np.asarray(labels, np.int32), everywhere)
  vote = _program(mesh, k, float(temperature), num_classes)
  predicted = []
  queries = _normalize(queries)
  for start in range(0, len(queries), rows):
    piece = queries[start : start + rows]
    padded = np.zeros((rows, queries.shape[1]), np.float32)
    padded[: len(piece)] = piece
    result = vote(bank, labels, _features.place(padded, mesh_lib.batch(mesh)))
    predicted.append(jax.device_get(result)[: len(piece)])
  return np.concatenate(predicted)


@functools.lru_cache(maxsize=8)
def _program(mesh, k, temperature, num_classes):
  def vote(bank, labels, queries):
    similarities = jnp.matmul(
      queries, bank.T, precision=jax.lax.Precision.HIGHEST
    )
    s, neighbors = jax.lax.top_k(similarities, k)
    # exp(s / T) up to a factor common to the query, which cannot overflow.
    # `max`, not s[:, :1]: the slice would turn XLA's top-k into a full sort,
    # a hundred times slower on CPU.
    weights = jnp.exp((s - s.max(axis=1, keepdims=True)) / temperature)
    ballots = jax.nn.one_hot(labels[neighbors], num_classes)
    support = (weights[..., None] * ballots).sum(axis=1)
    return support.argmax(axis=1).astype(jnp.int32)

  return jax.jit(vote, out_shardings=mesh_lib.replicated(mesh))


def _normalize(x):
  """Scales rows to length 1; a zero row stays zero."""
  x = np.asarray(x, np.float32)
  norms = np.sqrt(np.einsum("nf,nf->n", x, x, dtype=np.float64))
  norms = np.maximum(norms, np.finfo(np.float32).tiny)
  return (x / norms[:, None]).astype(np.float32)

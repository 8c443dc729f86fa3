"""Weighted k-nearest-neighbour classification on frozen features.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
discrimination" (arXiv:1805.01978), section 3.4: neighbours by cosine
similarity s_i, each voting for its class with the weight exp(s_i / T).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.evaluations import features as features_lib
from genrep_jax.lib import contracts, errors, mesh as mesh_lib

_MATRIX_ENTRIES = 2**24  # similarities in memory at a time: 64 MiB


def default_config() -> dict:
  """Lists the options and their defaults."""
  return {
    "name": "knn",
    "k": 20,  # neighbours
    "temperature": 0.07,  # T
    **features_lib.OPTIONS,
  }


def make(cfg, encode, mesh) -> contracts.Evaluation:
  """Makes the kNN evaluation.

  Args:
    cfg: the options of `default_config`.
    encode: (variables, images [n h w c] in [-1, 1]) -> features [n f].
    mesh: the device mesh.

  Returns:
    run(variables), which yields ("knn<k>_accuracy", share of the test images).

  Raises:
    UsageError: an option out of range, more neighbours than training images,
      or no such data.
  """
  if cfg.k < 1 or cfg.temperature <= 0:
    raise errors.UsageError(
      f"evaluations: {cfg.name}: k={cfg.k} must be at least 1 and "
      f"temperature={cfg.temperature} positive"
    )
  dataset = features_lib.check(cfg)
  size = min(len(dataset.train.images), cfg.train_limit or 2**62)
  if cfg.k > size:
    raise errors.UsageError(
      f"evaluations: {cfg.name}: k={cfg.k} exceeds the {size} training images"
    )

  def run(variables):
    train, test, num_classes = features_lib.of_dataset(
      cfg, encode, variables, mesh
    )
    predicted = classify(
      *train,
      test[0],
      k=cfg.k,
      temperature=cfg.temperature,
      num_classes=num_classes,
      mesh=mesh,
    )
    yield f"knn{cfg.k}_accuracy", float(np.mean(predicted == test[1]))

  return run


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
    bank: training features, float32 [N f]; normalised here.
    labels: int [N], their classes.
    queries: features, float32 [M f]; normalised here.
    k: neighbours that vote, at most N.
    temperature: T of the weights exp(s / T).
    num_classes: number of classes.
    mesh: the device mesh: the queries are spread over it.

  Returns:
    int32 [M], the predicted classes.
  """
  share = min(_MATRIX_ENTRIES // len(bank), -(-len(queries) // mesh.size), 256)
  rows = max(1, share) * mesh.size
  everywhere = mesh_lib.replicated(mesh)
  bank = features_lib.place(_normalise(bank), everywhere)
  labels = features_lib.place(np.asarray(labels, np.int32), everywhere)
  vote = _program(mesh, k, float(temperature), num_classes)
  predicted = []
  queries = _normalise(queries)
  for start in range(0, len(queries), rows):
    piece = queries[start : start + rows]
    padded = np.zeros((rows, queries.shape[1]), np.float32)
    padded[: len(piece)] = piece
    result = vote(
      bank, labels, features_lib.place(padded, mesh_lib.batch(mesh))
    )
    predicted.append(jax.device_get(result)[: len(piece)])
  return np.concatenate(predicted)


@functools.lru_cache(maxsize=8)
def _program(mesh, k, temperature, num_classes):
  def vote(bank, labels, queries):
    similarities = jnp.matmul(
      queries, bank.T, precision=jax.lax.Precision.HIGHEST
    )
    s, neighbours = jax.lax.top_k(similarities, k)
    # exp(s / T) up to a factor common to the query, which cannot overflow.
    # `max`, not s[:, :1]: the slice would turn XLA's top-k into a full sort,
    # a hundred times slower on CPU.
    weights = jnp.exp((s - s.max(axis=1, keepdims=True)) / temperature)
    ballots = jax.nn.one_hot(labels[neighbours], num_classes)
    support = (weights[..., None] * ballots).sum(axis=1)
    return support.argmax(axis=1).astype(jnp.int32)

  return jax.jit(vote, out_shardings=mesh_lib.replicated(mesh))


def _normalise(x):
  """Scales rows to length 1; a zero row stays zero."""
  x = np.asarray(x, np.float32)
  norms = np.sqrt(np.einsum("nf,nf->n", x, x, dtype=np.float64))
  norms = np.maximum(norms, np.finfo(np.float32).tiny)
  return (x / norms[:, None]).astype(np.float32)

"""Frechet distance of generated to real images (Heusel et al. 2017).

In the features of a small classifier that is trained here on the real training
images: see _classifier. What it reports compares generators of one data set.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.evaluations import _classifier, _features
from genrep_jax.lib import (
  contracts,
  images as images_lib,
  mesh as mesh_lib,
  options,
)

OPTIONS = {
  "data": _features.OPTIONS["data"],
  "samples": options.integer(
    10000, "generated images", low=2, high=10**6, unit="images"
  ),
  "batch": _features.OPTIONS["batch"],
  "epochs": options.integer(
    5, "of the classifier on the training images", low=1, high=1000
  ),
  "seed": options.integer(0, "of the classifier", low=0),
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the Frechet distance to the test images.

  Args:
    cfg: `OPTIONS`.
    model: has `generate`.
    mesh: the device mesh: the images are generated on all of it.

  Returns:
    Yields ("fid_classifier_<samples>", the distance).

  Raises:
    UsageError: no such data, or of other channels than the model's; when it
      runs: of another size than the generated images.
  """
  path = "evaluations.data"
  dataset = _features.load(cfg, model)
  if len(dataset.test.labels) < 2:
    options.refuse(path, dataset.name, "two test images or more")
  headline = f"fid_classifier_{cfg.samples}"
  batch = -(-min(cfg.batch, cfg.samples) // mesh.size) * mesh.size

  @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
  def generate(variables, index):
    images, _ = model.generate(variables, index)
    return images_lib.to_uint8(images.astype(jnp.float32))

  @functools.cache
  def real():
    """The trained classifier and its features of the test images."""
    classifier = _classifier.train(
      *dataset.train, dataset.num_classes, seed=cfg.seed, epochs=cfg.epochs
    )
    return classifier, _classifier.predict(classifier, dataset.test.images)[0]

  def draw(variables):
    index = np.arange(-(-cfg.samples // batch) * batch, dtype=np.uint32)
    pieces = []
    for rows in index.reshape(-1, batch):
      rows = _features.place(rows, mesh_lib.batch(mesh))
      pieces.append(jax.device_get(generate(variables, rows)))
      given, wanted = pieces[0].shape[1:], dataset.test.images.shape[1:]
      if given != wanted:
        options.refuse(path, dataset.name, f"images {given}, as generated")
    return np.concatenate(pieces)[: cfg.samples]

  def run(variables):
    images = draw(variables)
    # The classifier is an island on one device, beside the guarded loop.
    with jax.transfer_guard("allow"):
      classifier, features = real()
      distance = fid(features, _classifier.predict(classifier, images)[0])
    return [(headline, distance)]

  return contracts.Evaluation(
    run=run,
    headline=headline,
    requires=frozenset({"generate"}),
    unit="",
    about=f"Frechet distance of {cfg.samples} generated images, in the "
    f"features of a small classifier, on {dataset.name}",
  )


def moments(features) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean [f] and the unbiased covariance [f f], float64.

  Args:
    features: [n f], n >= 2.
  """
  x = np.asarray(features, np.float64)
  return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def _sqrt_psd(matrix):
  """Symmetric square root of a positive semi-definite matrix."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(mean1, cov1, mean2, cov2) -> float:
  """Squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982).

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of (C1 C2)^(1/2) is
  that of the symmetric (C1^(1/2) C2 C1^(1/2))^(1/2), because the two products
  have the same eigenvalues; the symmetric one has real roots also where
  covariances are singular.

  Args:
    mean1: [f].
    cov1: [f f], symmetric, positive semi-definite.
    mean2: [f].
    cov2: [f f].

  Returns:
    The distance, >= 0 up to rounding.
  """
  mean1, mean2 = (np.asarray(m, np.float64) for m in (mean1, mean2))
  cov1, cov2 = (np.asarray(c, np.float64) for c in (cov1, cov2))
  root1 = _sqrt_psd(cov1)
  values = np.linalg.eigvalsh(root1 @ cov2 @ root1)
  cross = np.sum(np.sqrt(np.maximum(values, 0)))
  return float(
    np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * cross
  )


def fid(real, generated) -> float:
  """Frechet distance of two feature sets [n f] and [m f]."""
  return frechet_distance(*moments(real), *moments(generated))

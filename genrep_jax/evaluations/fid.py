"""Frechet distance of generated to real images (Heusel et al. 2017).

In the features of a small classifier that is trained here on the real training
images, which compares generators of one data set: see _classifier. Or in those
of the FID InceptionV3, from the user's file: see _inception.
"""

import numpy as np

from genrep_jax.evaluations import _generated
from genrep_jax.lib import contracts

OPTIONS = _generated.OPTIONS


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the Frechet distance to the real images.

  Args:
    cfg: `OPTIONS`.
    model: has `generate`.
    mesh: the device mesh: the images are generated on all of it.

  Returns:
    Yields ("fid_<eyes>_<samples>", the distance): fid_classifier_10000 or
    fid_inception_clean_10000, with "_train" where the real ones are those.

  Raises:
    UsageError: see `_generated.Judge`; when it runs: images of another size
      than the classifier's.
  """
  judge = _generated.Judge(cfg, model, mesh)
  headline = f"fid_{judge.protocol}"

  def run(variables):
    real, fake = judge.see(variables)
    return [(headline, fid(real.features, fake.features))]

  return contracts.Evaluation(
    run=run,
    headline=headline,
    requires=frozenset({"generate"}),
    unit="",
    about=f"Frechet distance of {judge.about}",
    metrics={
      headline: "Distance of two Gaussians in feature space; lower is better, "
      "and fewer samples are worse: compare at equal numbers."
    },
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

"""Frechet distance between two sets of features (Heusel et al. 2017)."""

import numpy as np


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

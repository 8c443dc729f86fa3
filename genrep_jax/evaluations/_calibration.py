"""How right a classifier is, and how right about being right."""

import numpy as np
import scipy.optimize
import scipy.special


def softmax(logits) -> np.ndarray:
  """Returns probabilities, float64 [n k], of logits [n k]."""
  return scipy.special.softmax(np.asarray(logits, np.float64), axis=1)


def losses(logits, labels) -> np.ndarray:
  """Returns the cross-entropy of every row, float64 [n], in nats."""
  logits = np.asarray(logits, np.float64)
  rows = np.arange(len(logits))
  return scipy.special.logsumexp(logits, axis=1) - logits[rows, labels]


def nll(logits, labels) -> float:
  """Returns the mean cross-entropy, nats."""
  return float(losses(logits, labels).mean())


def accuracy(logits, labels) -> float:
  """Share of the rows whose largest logit is their label's; ties: the first."""
  return float(np.mean(np.argmax(logits, axis=1) == labels))


def ece(probabilities, labels, *, bins: int = 15) -> float:
  """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3).

  Args:
    probabilities: [n k].
    labels: int [n].
    bins: of equal width, [i / bins, (i + 1) / bins), on the largest
      probability of a row; 1 is in the last.

  Returns:
    The sum over bins of their share of rows times |accuracy - mean
    confidence|.
  """
  probabilities = np.asarray(probabilities, np.float64)
  confidence = probabilities.max(axis=1)
  right = probabilities.argmax(axis=1) == labels
  index = np.minimum((confidence * bins).astype(int), bins - 1)
  gap = np.bincount(index, right - confidence, minlength=bins)
  return float(np.abs(gap).sum() / len(confidence))


def temperature(logits, labels) -> float:
  """Returns the T in [0.01, 100] of the smallest `nll(logits / T)`.

  Guo et al. 2017, section 4.2. The nll is convex in 1 / T.
  """
  logits = np.asarray(logits, np.float64)
  found = scipy.optimize.minimize_scalar(
    lambda log_t: nll(logits * np.exp(-log_t), labels),
    bounds=(-np.log(100), np.log(100)),
    method="bounded",
    options={"xatol": 1e-8},
  )
  return float(np.exp(found.x))

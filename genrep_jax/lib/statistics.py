"""How sure a difference is: paired tests on one test set, and over seeds."""

from typing import NamedTuple

import numpy as np


class McNemar(NamedTuple):
  """McNemar's test of two classifiers on the same images.

  Attributes:
    only_first: images that only the first one gets right.
    only_second: likewise.
    statistic: chi-squared with continuity correction, one degree of freedom.
    p: probability of such a difference if both are equally good.
  """

  only_first: int
  only_second: int
  statistic: float
  p: float


def mcnemar(first, second) -> McNemar:
  """Tests whether two classifiers err equally often (McNemar 1947).

  Args:
    first: bool [n], whether the first is right on each image; likewise:
    second: bool [n].
  """
  from scipy import special

  first, second = np.asarray(first, bool), np.asarray(second, bool)
  b, c = int(np.sum(first & ~second)), int(np.sum(second & ~first))
  statistic = max(abs(b - c) - 1, 0) ** 2 / (b + c) if b + c else 0.0
  return McNemar(b, c, statistic, float(special.chdtrc(1, statistic)))


class Interval(NamedTuple):
  """A difference and its 95 % interval; all are shares."""

  difference: float
  low: float
  high: float


def bootstrap(first, second, *, draws: int = 2000, seed: int = 0) -> Interval:
  """Compares two methods over seeds and images (Efron 1979).

  Each draw takes seeds of either method, and the same images for both, with
  replacement; the interval is that between the 2.5th and 97.5th percentiles.
  Where both have the same number of seeds, seed i of one is paired with seed i
  of the other.

  Args:
    first: bool [s n], whether seed s of the first method is right on image n.
    second: bool [t n], likewise.
    draws: how many resamples.
    seed: of the resamples.

  Returns:
    Of the accuracy of the second method less that of the first.
  """
  first, second = (np.asarray(x, np.float64) for x in (first, second))
  random = np.random.default_rng(seed)
  n = first.shape[1]
  found = np.empty(draws)
  for i in range(draws):
    # How often each image was drawn: n draws of n with replacement.
    weights = random.multinomial(n, np.full(n, 1 / n)) / n
    a, b = first @ weights, second @ weights
    rows = random.integers(len(a), size=len(a))
    others = rows if len(a) == len(b) else random.integers(len(b), size=len(b))
    found[i] = b[others].mean() - a[rows].mean()
  low, high = np.percentile(found, [2.5, 97.5])
  return Interval(float(second.mean() - first.mean()), float(low), float(high))


def kendall(x, y) -> float:
  """Returns Kendall's rank correlation tau-b of two lists [n]."""
  from scipy import stats

  return float(stats.kendalltau(x, y).statistic)

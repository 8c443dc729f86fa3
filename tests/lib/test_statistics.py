"""Differences and how sure they are."""

import math

import numpy as np
import pytest

from genrep_jax.lib import statistics
from tests import fixture_files


def test_fixture():
  case = fixture_files.arrays("evaluation.npz")
  given = {k[14:]: x for k, x in case.items() if k.startswith("in/statistics/")}
  want = {k[15:]: x for k, x in case.items() if k.startswith("out/statistics/")}
  found = statistics.mcnemar(given["correct_a"], given["correct_b"])
  assert [found.only_first, found.only_second] == want["discordant"].tolist()
  np.testing.assert_allclose(found.statistic, want["mcnemar_chi2"], rtol=1e-12)
  np.testing.assert_allclose(found.p, want["mcnemar_p"], rtol=1e-9)
  tau = statistics.kendall(given["scores_a"], given["scores_b"])
  np.testing.assert_allclose(tau, want["kendall_tau"], rtol=1e-12)


def test_mcnemar_of_120_and_80():
  """Closed values: (|120 - 80| - 1)^2 / 200, erfc(sqrt(x / 2))."""
  first = np.repeat([True, False, True], [120, 80, 300])
  second = np.repeat([False, True, True], [120, 80, 300])
  one = statistics.mcnemar(first, second)
  assert one[:2] == (120, 80) and one.statistic == pytest.approx(7.605)
  assert one.p == pytest.approx(math.erfc(math.sqrt(7.605 / 2)))
  other = statistics.mcnemar(second, first)
  assert other[:2] == (80, 120) and other[2:] == one[2:]
  assert statistics.mcnemar(first, first)[2:] == (0.0, 1.0)


def test_bootstrap_of_one_seed_is_that_of_a_mean():
  random = np.random.default_rng(0)
  first, second = random.random((2, 1, 2000)) < [[[0.7]], [[0.75]]]
  found = statistics.bootstrap(first, second, draws=4000)
  change = second[0].astype(float) - first[0]
  error = change.std() / math.sqrt(2000)
  assert found.difference == pytest.approx(change.mean())
  assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)
  assert statistics.bootstrap(first, first) == (0.0, 0.0, 0.0)
  swapped = statistics.bootstrap(second, first, draws=4000)
  np.testing.assert_allclose(
    swapped, [-found.difference, -found.high, -found.low], atol=1e-12
  )


def test_seeds_that_differ_widen_the_interval():
  random = np.random.default_rng(1)
  same = np.tile(random.random(500) < 0.7, (5, 1))
  apart = random.random((5, 500)) < np.linspace(0.5, 0.9, 5)[:, None]
  narrow = statistics.bootstrap(same, same[:3])
  wide = statistics.bootstrap(same, apart[:3])
  np.testing.assert_allclose(narrow, 0, atol=1e-12)
  assert wide.high - wide.low > 0.1

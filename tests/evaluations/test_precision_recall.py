"""Precision, recall, density, coverage: by loops, recorded, in closed form."""

import numpy as np
import pytest

from genrep_jax.evaluations import precision_recall
from genrep_jax.lib import errors
from tests import fixture_files
from tests.evaluations import toy_judge


def slow_coverage(manifold, points, k):
  inside = 0
  for p in points:
    hit = False
    for i, m in enumerate(manifold):
      others = sorted(
        np.linalg.norm(m - o) for j, o in enumerate(manifold) if j != i
      )
      hit |= np.linalg.norm(p - m) <= others[k - 1]
    inside += hit
  return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_coverage_against_loops(k):
  rng = np.random.default_rng(0)
  manifold, points = rng.normal(size=(40, 3)), 1.3 * rng.normal(size=(50, 3))
  fast = precision_recall.coverage(manifold, points, k, chunk=16)
  assert fast == slow_coverage(manifold, points, k)
  assert 0.1 < fast < 0.95, "the case must decide something"


def test_precision_and_recall_tell_which_side_fails():
  rng = np.random.default_rng(0)
  left = rng.normal(size=(200, 2))
  right = rng.normal(size=(200, 2)) + 50
  both = np.concatenate([left, right])
  precision, recall = precision_recall.precision_recall(
    both, rng.normal(size=(200, 2))
  )
  assert precision > 0.9, "half the modes, all of them real"
  assert 0.4 < recall < 0.55, "half the modes are missing"
  assert precision_recall.precision_recall(left, right) == (0.0, 0.0)
  assert precision_recall.precision_recall(both, both) == (1.0, 1.0)


def test_a_row_is_not_its_own_neighbor():
  x = np.array([[0.0], [1.0], [3.0], [7.0]])
  got = precision_recall.squared_radii(x, 1, chunk=3)
  np.testing.assert_allclose(got, [1, 1, 4, 16])


def both(real, fake, k, strict, **options):
  options = {"strict": strict, **options}
  return (
    *precision_recall.precision_recall(real, fake, k, **options),
    *precision_recall.density_coverage(real, fake, k, **options),
  )


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("prefix", ["", "ties_"])
def test_recorded_numbers(prefix, k):
  recorded = fixture_files.arrays("inception_fid.npz")
  real, fake = (recorded[f"in/metrics/{prefix}{x}"] for x in ("real", "fake"))
  out = {
    name: float(recorded[f"out/metrics/{prefix}{name}_k{k}"])
    for name in (
      "precision",
      "recall",
      "density",
      "coverage",
      "precision_le",
      "recall_le",
    )
  }
  strict = [*out.values()][:4]
  np.testing.assert_allclose(both(real, fake, k, True), strict, rtol=1e-12)
  np.testing.assert_allclose(
    both(real, fake, k, True, chunk=7), strict, rtol=1e-12
  )
  loose = out["precision_le"], out["recall_le"]
  assert both(real, fake, k, False)[:2] == pytest.approx(loose, rel=1e-12)
  assert precision_recall.precision_recall(real, fake, k) == loose
  density_coverage = precision_recall.density_coverage(real, fake, k)
  assert density_coverage == pytest.approx(strict[2:], rel=1e-12)


def test_a_far_real_image_swallows_everything():
  real, fake = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [2.5], [30]])
  assert both(real, fake, 1, True) == pytest.approx((2 / 3, 1, 4 / 3, 1))
  density, _ = precision_recall.density_coverage(real, fake, 2)
  assert density == pytest.approx(5 / 6)


def test_the_evaluation():
  found, made = toy_judge.run("precision_recall", k=2)
  names = ("precision", "recall", "density", "coverage")
  assert [*found] == [f"{name}2_classifier_40" for name in names]
  assert made.headline == "precision2_classifier_40" and made.unit == "%"
  assert made.requires == {"generate"}
  # The generated images are the first of the real ones.
  assert found["precision2_classifier_40"] == 1
  far, _ = toy_judge.run("precision_recall", k=2, noise=1.0)
  assert far["precision2_classifier_40"] < 0.5
  assert far["coverage2_classifier_40"] < found["coverage2_classifier_40"]


def test_bad_input():
  with pytest.raises(errors.UsageError, match="k: given 40; allowed: below"):
    toy_judge.run("precision_recall", k=40)

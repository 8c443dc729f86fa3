"""KID and CMMD: by loops, recorded, in closed form; the evaluation."""

import numpy as np
import pytest

from genrep_jax.evaluations import kid
from genrep_jax.lib import errors
from tests import fixture_files
from tests.evaluations import toy_judge


def slow_kid(x, y):
  def kernel(a, b):
    return (a @ b / len(a) + 1) ** 3

  def mean(pairs):
    values = [kernel(a, b) for a, b in pairs]
    return sum(values) / len(values)

  def others(rows):
    return [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows)
            if i != j]  # fmt: skip

  return (
    mean(others(x)) + mean(others(y)) - 2 * mean([(a, b) for a in x for b in y])
  )


def test_against_loops_and_in_chunks():
  random = np.random.default_rng(0)
  x, y = random.normal(size=(11, 5)), random.normal(size=(7, 5)) + 0.5
  expected = slow_kid(x, y)
  for chunk in (3, 100):
    np.testing.assert_allclose(kid.kid(x, y, chunk=chunk), expected, rtol=1e-9)
  tiny = kid.kid([[1, 0], [0, 1], [1, 1]], [[2, 0], [0, 2]])
  np.testing.assert_allclose(tiny, -7.75, rtol=1e-12)


def test_recorded_numbers():
  recorded = fixture_files.arrays("inception_fid.npz")
  real, fake = recorded["in/metrics/real"], recorded["in/metrics/fake"]
  subsets = zip(
    recorded["in/metrics/kid_subsets_real"],
    recorded["in/metrics/kid_subsets_fake"],
  )
  values = [kid.kid(real[i], fake[j]) for i, j in subsets]
  for name, got in {
    "kid_mean": np.mean(values),
    "kid_std": np.std(values),
    "kid_all": kid.kid(real, fake),
    "cmmd": kid.cmmd(real, fake),
  }.items():
    np.testing.assert_allclose(got, recorded[f"out/metrics/{name}"], rtol=1e-6)


def test_the_population_value():
  random = np.random.default_rng(0)
  x, y = random.normal(size=(2, 3000, 4))
  np.testing.assert_allclose(kid.kid(x, y + np.eye(1, 4)), 1.328125, atol=0.1)


@pytest.mark.parametrize(
  ("x", "y", "expected"),
  [
    ([0], [1], 19.900333),
    ([0], [4], 39.602653),
    ([0, 1], [2, 3], 9.950166),
    ([0, 1], [1, 0], 0),
  ],
)
def test_cmmd_of_unit_vectors(x, y, expected):
  vectors = np.concatenate([np.eye(4), -np.eye(1, 4)]) * 3
  np.testing.assert_allclose(
    kid.cmmd(vectors[x], vectors[y], chunk=1), expected, atol=1e-6
  )


def test_the_evaluation():
  options = {"subsets": 5, "subset_size": 30}
  found, made = toy_judge.run("kid", **options)
  assert [*found] == ["kid_classifier_40", "kid_std_classifier_40"]
  assert made.headline == "kid_classifier_40" and made.unit == ""
  far, _ = toy_judge.run("kid", noise=1.0, **options)
  assert far["kid_classifier_40"] > found["kid_classifier_40"] + 0.1
  again, _ = toy_judge.run("kid", **options)
  assert again == found
  other, _ = toy_judge.run("kid", real="train", **options)
  assert [*other][0] == "kid_classifier_40_train"
  assert [*other.values()][0] != found["kid_classifier_40"]


def test_bad_input():
  with pytest.raises(errors.UsageError, match="subset_size: given 1000; .* 40"):
    toy_judge.run("kid")

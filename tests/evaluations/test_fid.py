"""FID against closed forms and recorded numbers; the classifier; the judge."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.evaluations import _classifier, fid
from genrep_jax.lib import contracts, errors
from tests import fixture_files
from tests.evaluations import toy_judge


def covariance(seed, size=5):
  x = np.random.default_rng(seed).normal(size=(size, 3 * size))
  return x @ x.T / size


def test_equal_gaussians_are_at_distance_zero():
  mean, cov = np.arange(5.0), covariance(0)
  assert abs(fid.frechet_distance(mean, cov, mean, cov)) < 1e-9


def test_shift_alone_gives_its_squared_length():
  cov = covariance(0)
  got = fid.frechet_distance(np.zeros(5), cov, np.full(5, 2.0), cov)
  np.testing.assert_allclose(got, 20.0, rtol=1e-9)


def test_commuting_covariances():
  # In a common eigenbasis: sum of (sqrt a - sqrt b)^2.
  a, b = np.array([4.0, 9.0, 0.0]), np.array([1.0, 1.0, 25.0])
  q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
  got = fid.frechet_distance(np.zeros(3), q * a @ q.T, np.zeros(3), q * b @ q.T)
  np.testing.assert_allclose(got, 1 + 4 + 25, rtol=1e-6)


def test_two_dimensions_without_a_common_basis():
  # A 2x2 matrix M with eigenvalues >= 0: tr sqrt M = sqrt(tr M + 2 sqrt det M).
  a = np.array([[2.0, 1.0], [1.0, 3.0]])
  b = np.array([[5.0, -2.0], [-2.0, 1.0]])
  product = a @ b
  cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
  expected = np.trace(a) + np.trace(b) - 2 * cross
  zero = np.zeros(2)
  np.testing.assert_allclose(
    fid.frechet_distance(zero, a, zero, b), expected, rtol=1e-9
  )
  np.testing.assert_allclose(
    fid.frechet_distance(zero, b, zero, a), expected, rtol=1e-9
  )


def test_rank_one_covariances():
  # u u^T against v v^T: |u|^2 + |v|^2 - 2 |u.v|.
  u, v = np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.0, 1.0])
  got = fid.frechet_distance(
    np.zeros(3), np.outer(u, u), np.zeros(3), np.outer(v, v)
  )
  np.testing.assert_allclose(got, 9 + 5 - 2 * 4, rtol=1e-6)


def test_covariances_that_do_not_commute():
  zero, a, b = np.zeros(2), [[2, 1], [1, 2]], np.diag([1, 3])
  np.testing.assert_allclose(
    fid.frechet_distance(zero, a, zero, b), 8 - 2 * np.sqrt(14), rtol=1e-9
  )
  shifted = fid.frechet_distance(zero, np.diag([1, 4]), [1, 0], np.diag([4, 9]))
  np.testing.assert_allclose(shifted, 3, rtol=1e-9)


def test_recorded_numbers():
  recorded = fixture_files.arrays("inception_fid.npz")
  real, fake = recorded["in/metrics/real"], recorded["in/metrics/fake"]
  half = real.shape[1] // 2
  for name, got in {
    "fid": fid.fid(real, fake),
    "fid_shifted_1000": fid.fid(real + 1000.0, fake + 1000.0),
    "fid_rank_deficient": fid.fid(real[:half], fake[:half]),
  }.items():
    # Single precision alone shifts the first by 2.5e-5.
    tolerance = 1e-4 if "shifted" in name else 1e-6
    np.testing.assert_allclose(
      got, recorded[f"out/metrics/{name}"], rtol=tolerance, err_msg=name
    )


@pytest.mark.parametrize(("size", "count"), [(4, 400), (16, 800)])
def test_the_bias_of_few_samples(size, count):
  random = np.random.default_rng(0)
  found = [fid.fid(*random.normal(size=(2, count, size))) for _ in range(40)]
  law = size * (size + 5) / (2 * count)
  np.testing.assert_allclose(np.mean(found), law, rtol=0.15)


def test_fid_of_samples_uses_mean_and_unbiased_covariance():
  x = np.array([[0.0], [2.0]])  # mean 1, variance 2
  y = np.array([[5.0], [5.0], [11.0]])  # mean 7, variance 12
  expected = 36 + 2 + 12 - 2 * np.sqrt(24)
  np.testing.assert_allclose(fid.fid(x, y), expected, rtol=1e-9)


def test_classifier_learns_and_predicts_in_batches():
  images, labels = toy_judge.stripes(toy_judge.COUNT, 0)
  trained = _classifier.train(images, labels, 2, epochs=12)
  test_images, test_labels = toy_judge.stripes(60, 1)
  assert _classifier.accuracy(trained, test_images, test_labels) > 0.95
  wrong = _classifier.accuracy(trained, test_images, 1 - test_labels)
  assert wrong < 0.05
  features, classes = _classifier.predict(trained, test_images, batch_size=30)
  assert (features.shape, classes.shape) == ((60, 128), (60,))
  whole, _ = _classifier.predict(trained, test_images)
  np.testing.assert_allclose(features, whole, atol=1e-4)
  again = _classifier.train(images, labels, 2, epochs=12)
  np.testing.assert_array_equal(
    _classifier.predict(again, test_images)[0], whole
  )


def test_the_plug_in_prefers_real_images():
  distances = []
  for noise in (0, 0.3, 1):
    found, made = toy_judge.run("fid", noise=noise, samples=70)
    distances.append(found["fid_classifier_70"])
  assert made.headline == "fid_classifier_70" and made.unit == ""
  assert made.requires == {"generate"} and made.about.endswith(", on stripes")
  assert distances == sorted(distances)
  assert distances[0] < 0.1 * distances[1] < 0.1 * distances[2]
  eight, _ = toy_judge.run("fid", devices=8, noise=1, samples=70, batch=7)
  np.testing.assert_allclose(eight[made.headline], distances[2], rtol=1e-4)


def test_generated_images_of_another_size_are_refused():
  def generate(variables, index):
    return jnp.zeros((len(index), 8, 8, 1)), jnp.zeros(len(index), jnp.int32)

  model = contracts.Model(generate=generate, channels=1)
  with pytest.raises(errors.UsageError, match=r"'stripes'.*images \(8, 8, 1\)"):
    toy_judge.run("fid", model=model)


def test_an_image_that_is_not_finite_is_named():
  with pytest.raises(errors.Diverged, match="1 of 40 .* the first is 5"):
    toy_judge.run("fid", hole=5)


@pytest.mark.parametrize(
  "options, expected",
  [
    (
      {"samples": 1},
      "evaluations.samples: given 1; allowed: an integer in 2..",
    ),
    ({"epochs": 0}, "evaluations.epochs: given 0"),
    ({"seed": -1}, "evaluations.seed: given -1"),
    (
      {"model": contracts.Model(generate=toy_judge.generate, channels=3)},
      "evaluations.data: given 'stripes, c = 1'; allowed: images of",
    ),
  ],
)
def test_bad_input(options, expected):
  with pytest.raises(errors.UsageError) as caught:
    toy_judge.run("fid", **options)
  assert expected in str(caught.value)

"""FID against closed forms; precision and recall against loops; classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.evaluations import (
  _classifier,
  _precision_recall as precision_recall,
  fid,
)
from genrep_jax.lib import contracts, errors, mesh as mesh_lib, plugins


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


def test_fid_of_samples_uses_mean_and_unbiased_covariance():
  x = np.array([[0.0], [2.0]])  # mean 1, variance 2
  y = np.array([[5.0], [5.0], [11.0]])  # mean 7, variance 12
  expected = 36 + 2 + 12 - 2 * np.sqrt(24)
  np.testing.assert_allclose(fid.fid(x, y), expected, rtol=1e-9)


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


def stripes(count, seed):
  """Images of two classes: vertical and horizontal stripes, with noise."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, count)
  line = np.tile([40, 200], 6)
  images = np.where(labels[:, None, None] == 1, line[:, None], line[None])
  noise = rng.integers(-39, 40, images.shape)
  return (images + noise).astype(np.uint8)[..., None], labels


def test_classifier_learns_and_predicts_in_batches():
  images, labels = stripes(128, 0)
  trained = _classifier.train(images, labels, 2, epochs=4, batch_size=32)
  test_images, test_labels = stripes(60, 1)
  assert _classifier.accuracy(trained, test_images, test_labels) > 0.95
  wrong = _classifier.accuracy(trained, test_images, 1 - test_labels)
  assert wrong < 0.05
  features, classes = _classifier.predict(trained, test_images, batch_size=30)
  assert (features.shape, classes.shape) == ((60, 128), (60,))
  whole, _ = _classifier.predict(trained, test_images)
  np.testing.assert_allclose(features, whole, atol=1e-4)
  again = _classifier.train(images, labels, 2, epochs=4, batch_size=32)
  np.testing.assert_array_equal(
    _classifier.predict(again, test_images)[0], whole
  )


@pytest.fixture
def make(monkeypatch):
  train, test = (contracts.Split(*stripes(80, seed)) for seed in (0, 1))
  dataset = contracts.Dataset("stripes", 2, (), train, test)
  monkeypatch.setattr(data, "load", lambda entry, path: dataset)

  def make(generate=None, channels=None, **options):
    entry = {"name": "fid", "samples": 70, "batch": 20, **options}
    model = contracts.Model(generate=generate, channels=channels)
    return plugins.make("evaluations", entry, model, mesh_lib.make_mesh())

  return make


def test_the_plug_in_prefers_real_images(make):
  real, labels = (jnp.asarray(x) for x in stripes(80, 1))

  def generate(variables, index):
    # Real images, mixed with noise as far as the weights say.
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(index)
    noise = jax.vmap(lambda k: jax.random.normal(k, (12, 12, 1)))(keys)
    images = real[index].astype(jnp.float32) / 127.5 - 1
    images = images + variables["noise"] * noise
    return jnp.clip(images, -1, 1), labels[index].astype(jnp.int32)

  made = make(generate)
  assert made.headline == "fid_classifier_70" and made.unit == ""
  assert made.requires == {"generate"} and made.about.endswith(", on stripes")
  whole = mesh_lib.replicated(mesh_lib.make_mesh())
  weights = jax.device_put(
    [{"noise": np.float32(x)} for x in (0, 0.3, 1)], whole
  )
  with jax.transfer_guard("disallow"):  # as in the loop
    distances = [dict(made.run(one))[made.headline] for one in weights]
  assert distances == sorted(distances)
  assert distances[0] < 0.1 * distances[1] < 0.1 * distances[2]


def test_generated_images_of_another_size_are_refused(make):
  def generate(variables, index):
    return jnp.zeros((len(index), 8, 8, 1)), jnp.zeros(len(index), jnp.int32)

  with pytest.raises(errors.UsageError, match=r"'stripes'.*images \(8, 8, 1\)"):
    list(make(generate).run({}))


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
      {"channels": 3},
      "evaluations.data: given 'stripes, c = 1'; allowed: images of",
    ),
  ],
)
def test_bad_input(make, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    make(**options)
  assert expected in str(caught.value)

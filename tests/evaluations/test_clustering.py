"""k-means and the comparison of partitions: closed values, limits."""

import numpy as np
import pytest

from genrep_jax.evaluations import clustering
from genrep_jax.lib import contracts, errors
from tests.evaluations import probes


def test_partitions_by_hand():
  """evaluation.md, 11.14."""
  labels, clusters = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 0, 0])
  assert clustering.nmi(labels, clusters) == pytest.approx(0.478704, abs=1e-6)
  got = clustering.hungarian_accuracy(labels, clusters)
  assert got == pytest.approx(5 / 6)


def test_partitions_against_scikit_learn():
  from sklearn import metrics

  random = np.random.default_rng(0)
  a, b = random.integers(0, 4, 50), random.integers(0, 6, 50)
  assert clustering.ari(a, b) == pytest.approx(
    metrics.adjusted_rand_score(a, b), rel=1e-9
  )
  assert clustering.nmi(a, b) == pytest.approx(
    metrics.normalized_mutual_info_score(a, b), rel=1e-9
  )


def test_names_of_clusters_do_not_matter_and_one_cluster_says_nothing():
  random = np.random.default_rng(0)
  labels = random.integers(0, 4, 60)
  renamed = np.array([2, 0, 3, 1])[labels]
  for measure in (
    clustering.hungarian_accuracy,
    clustering.nmi,
    clustering.ari,
  ):
    assert measure(labels, renamed) == pytest.approx(1)
  same = np.zeros(60, int)
  assert clustering.nmi(labels, same) == 0
  assert clustering.ari(labels, same) == 0
  assert clustering.nmi(same, same) == clustering.ari(same, same) == 1


def test_lloyd_only_descends_and_ends_at_means():
  random = np.random.default_rng(0)
  x = random.normal(size=(80, 5))
  found = clustering.kmeans(x, 4, restarts=2)
  assert (np.diff(found.objectives) <= 1e-12).all()
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  for cluster, center in enumerate(found.centers):
    np.testing.assert_allclose(
      unit[found.assignment == cluster].mean(0), center
    )
  again = clustering.kmeans(7 * x, 4, restarts=2)
  np.testing.assert_array_equal(found.assignment, again.assignment)


def test_more_restarts_are_not_worse():
  x = np.random.default_rng(1).normal(size=(100, 3))
  last = [clustering.kmeans(x, 8, restarts=n).objectives[-1] for n in (1, 3, 9)]
  assert last[0] >= last[1] >= last[2] and last[0] > last[2]


def test_images_that_are_all_alike_are_one_cluster():
  found = clustering.kmeans(np.ones((5, 3)), 2)
  assert len(set(found.assignment)) == 1 and found.objectives[-1] < 1e-12


def test_the_plug_in(monkeypatch):
  calls = []

  def encode(variables, images):
    calls.append(images.shape)
    return probes.raw_pixels(variables, images)

  made = probes.maker(monkeypatch, "clustering")(encode=encode)
  results = dict(made.run({}))
  assert results == {
    "kmeans_accuracy": 1.0,
    "kmeans_nmi": pytest.approx(1.0),
    "kmeans_ari": 1.0,
  }
  assert made.headline == "kmeans_accuracy"
  assert calls == [(32, 4, 4, 1)]  # compiled once, for the test images


def test_fewer_images_than_classes(monkeypatch):
  whole = probes.toy()
  two = contracts.Split(whole.test.images[:2], whole.test.labels[:2])
  few = contracts.Dataset("few", 3, (), whole.train, two)
  with pytest.raises(
    errors.UsageError, match="2 images to cluster.*at least 3"
  ):
    probes.maker(monkeypatch, "clustering")(few)

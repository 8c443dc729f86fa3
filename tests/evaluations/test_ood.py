"""Detection of foreign images: closed values, a slow twin, limits."""

import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.evaluations import ood
from genrep_jax.lib import errors
from tests.evaluations import probes


def test_measures_by_hand():
  """evaluation.md, 11.2."""
  got = ood.measures([0.9, 0.8, 0.7, 0.6, 0.3], [0.65, 0.4, 0.2, 0.1])
  assert got["auroc"] == pytest.approx(0.85)
  assert got["fpr95"] == 0.5  # at the threshold .3


def test_limits():
  own, foreign = np.array([2.0, 3.0]), np.array([0.0, 1.0, 1.0])
  perfect = ood.measures(own, foreign)
  assert perfect == {"auroc": 1, "fpr95": 0, "aupr_in": 1, "aupr_out": 1}
  assert ood.measures(foreign, own)["auroc"] == 0
  same = ood.measures(own * 0, foreign * 0)
  assert same["auroc"] == 0.5 and same["fpr95"] == 1
  assert same["aupr_in"] == pytest.approx(2 / 5)
  assert same["aupr_out"] == pytest.approx(3 / 5)


def test_mahalanobis_against_an_inverse():
  random = np.random.default_rng(0)
  labels = np.arange(60) % 3
  mixing = random.normal(size=(4, 4))
  train = (random.normal(size=(60, 4)) + 3 * np.eye(4)[labels]) @ mixing
  queries = random.normal(size=(9, 4))
  got = ood.mahalanobis(train, labels, queries)
  means = [train[labels == c].mean(0) for c in range(3)]
  covariance = sum(
    np.outer(x - means[y], x - means[y]) for x, y in zip(train, labels)
  ) / len(train)
  inverse = np.linalg.inv(covariance)
  want = [-min((q - m) @ inverse @ (q - m) for m in means) for q in queries]
  np.testing.assert_allclose(got, want, rtol=1e-9)
  # Any invertible linear map leaves it, and so does a feature that is none.
  other = random.normal(size=(4, 4))
  np.testing.assert_allclose(
    ood.mahalanobis(train @ other, labels, queries @ other), want, rtol=1e-6
  )
  wider = [np.pad(x, ((0, 0), (0, 1))) for x in (train, queries)]
  np.testing.assert_allclose(
    ood.mahalanobis(wider[0], labels, wider[1]), want, rtol=1e-9
  )


def test_the_plug_in(monkeypatch):
  make = probes.maker(monkeypatch, "ood", k=3)
  made = make()
  results = dict(made.run({}))
  assert set(results) == {
    f"ood_{score}_{measure}"
    for score in ("knn3", "mahalanobis")
    for measure in ("auroc", "fpr95", "aupr_in", "aupr_out")
  }
  assert made.headline == "ood_knn3_auroc" and results[made.headline] == 1.0
  assert "against inverted ones, on toy" in made.about
  # A turn makes of a bright row a bright column.
  assert dict(make(shift="rotated").run({}))["ood_knn3_auroc"] > 0.95


def test_an_image_set_is_not_foreign_to_itself(monkeypatch):
  make = probes.maker(monkeypatch, "ood", k=3)
  monkeypatch.setattr(data, "load", None)
  made = make(against={"name": "fashion_mnist_mini"})
  assert "against toy, on toy" in made.about
  results = dict(made.run({}))
  assert results["ood_knn3_auroc"] == results["ood_mahalanobis_auroc"] == 0.5


@pytest.mark.parametrize(
  "options, expected",
  [
    ({"k": 61}, "here.k: given 61; allowed: at most the 60 training images"),
    ({"shift": "sheared"}, "here.shift: given 'sheared'; allowed: one of inv"),
    ({"against": {"name": "none"}}, "here.against.name: given 'none'"),
  ],
)
def test_bad_input(monkeypatch, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    probes.maker(monkeypatch, "ood", k=3)(**options)
  assert expected in str(caught.value)


def test_foreign_images_of_another_shape(monkeypatch):
  make = probes.maker(monkeypatch, "ood", k=3)
  whole = probes.toy()
  wide = whole.test._replace(images=np.repeat(whole.test.images, 2, axis=2))
  wide = type(whole)("wide", 3, (), wide, wide)
  with pytest.raises(errors.UsageError, match=r"here.shift: .* \(8, 4, 1\)"):
    make(wide, shift="rotated")

"""VOC07's SVMs and average precisions, and Caltech-101: limits, refusals."""

import sys

import numpy as np
import pytest

from genrep_jax.evaluations import caltech101, svm
from genrep_jax.lib import contracts, errors
from tests.evaluations import probes

FEW = (0.01, 1.0)


def test_average_precision_by_hand():
  """evaluation.md, 5: by falling score 1, 0, 1, 1, 0."""
  scores, labels = [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0]
  for kind, value in (
    ("step", 0.805556),
    ("area", 0.833333),
    ("11point", 0.840909),
  ):
    got = svm.average_precision(scores, labels, kind=kind)
    assert got == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("kind", ["step", "area", "11point"])
def test_average_precision_limits(kind):
  labels = np.arange(10) < 4
  order = np.arange(10.0)
  assert svm.average_precision(-order, labels, kind=kind) == 1
  assert svm.average_precision(order * 0, labels, kind=kind) == 0.4
  lowest = svm.average_precision(order, labels, kind=kind)
  assert lowest == 0.4 if kind != "step" else lowest < 0.3  # the envelope
  shuffled = np.random.default_rng(0).permutation(10)
  got = svm.average_precision(
    np.exp(order)[shuffled], labels[shuffled], kind=kind
  )
  assert got == pytest.approx(lowest)


def test_the_plug_in(monkeypatch):
  monkeypatch.setattr(svm.fit, "__kwdefaults__", {"c_grid": FEW, "tol": 1e-6})
  make = probes.maker(monkeypatch, "svm")
  made = make(probes.toy(several=True))
  results = dict(made.run({}))
  assert results == {
    "svm_voc07_map_area": pytest.approx(1, abs=0.01),
    "svm_voc07_map_11point": pytest.approx(1, abs=0.01),
  }
  assert made.headline == "svm_voc07_map_area"

  def blind(variables, images):
    return images[:, 3, :, 0]  # the row that no class makes bright

  blinded = dict(make(probes.toy(several=True), blind).run({}))
  assert max(blinded.values()) < 0.7


def test_a_class_without_test_images_has_no_precision(monkeypatch):
  monkeypatch.setattr(svm.fit, "__kwdefaults__", {"c_grid": FEW, "tol": 1e-6})
  whole = probes.toy(several=True)
  labels = whole.test.labels.copy()
  labels[:, 1] = False
  lacking = contracts.Dataset(
    "toy", 3, (), whole.train, whole.test._replace(labels=labels)
  )
  made = probes.maker(monkeypatch, "svm")(lacking)
  assert dict(made.run({}))["svm_voc07_map_area"] > 0.99


def test_a_class_of_too_few_images(monkeypatch):
  whole = probes.toy(several=True)
  labels = whole.train.labels.copy()
  labels[:, 2] = np.arange(60) < 2
  rare = contracts.Dataset(
    "rare", 3, (), whole.train._replace(labels=labels), whole.test
  )
  with pytest.raises(errors.UsageError) as caught:
    probes.maker(monkeypatch, "svm")(rare)
  assert "2 of 60 training images in class 2" in str(caught.value)


@pytest.mark.parametrize("name", ["svm", "caltech101"])
def test_without_scikit_learn(monkeypatch, name):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  with pytest.raises(errors.UsageError) as caught:
    probes.maker(monkeypatch, name)(probes.toy(several=name == "svm"))
  assert "needs scikit-learn: pip install -e '.[eval]'" in str(caught.value)


def test_caltech101(monkeypatch):
  options = {"c_grid": FEW, "max_iterations": 100, "tol": 1e-4}
  monkeypatch.setattr(caltech101.fit, "__kwdefaults__", options)
  made = probes.maker(monkeypatch, "caltech101")()
  assert dict(made.run({})) == {
    "caltech101_mean_class_accuracy": 1.0,
    "caltech101_accuracy": 1.0,
    "caltech101_c": 0.01,  # of equal values the first
  }


def test_classes_count_alike_whatever_their_size():
  labels, predicted = np.array([0] * 8 + [1] * 2), np.zeros(10, int)
  assert caltech101.mean_class_accuracy(predicted, labels) == 0.5
  with_third = caltech101.mean_class_accuracy(predicted + 2, labels)
  assert with_third == 0


def test_caltech101_with_few_images(monkeypatch):
  with pytest.raises(
    errors.UsageError, match="toy with 2 training images of a"
  ):
    probes.maker(monkeypatch, "caltech101")(train_limit=6)

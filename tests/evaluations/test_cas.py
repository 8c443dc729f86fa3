"""The classification accuracy score of generators good, wrong and unlabeled."""

import dataclasses

import pytest

from genrep_jax.lib import errors
from tests.evaluations import toy_judge

OPTIONS = {"samples": 60, "batch": 64}  # as many as real ones: one program


def relabeled(function):
  def generate(variables, index):
    images, labels = toy_judge.generate(variables, index)
    return images, function(labels)

  return dataclasses.replace(toy_judge.MODEL, generate=generate)


def test_labels_that_are_right_and_that_are_wrong():
  right, made = toy_judge.run("cas", repeats=2, **OPTIONS)
  assert [*right] == ["cas_classifier_60_of2", "cas_std_classifier_60_of2"]
  assert made.headline == "cas_classifier_60_of2" and made.unit == "%"
  assert right[made.headline] > 0.9
  wrong, _ = toy_judge.run("cas", model=relabeled(lambda y: 1 - y), **OPTIONS)
  assert [*wrong] == ["cas_classifier_60"]
  assert wrong["cas_classifier_60"] < 0.1


def test_what_has_no_such_classes_is_refused():
  for labels, words in ((lambda y: 0 * y, "0..0"), (lambda y: y + 1, "1..2")):
    with pytest.raises(errors.UsageError, match="'stripes'; allowed") as caught:
      toy_judge.run("cas", model=relabeled(labels), **OPTIONS)
    assert words in str(caught.value)

"""Few-shot probes: against a plain solution, draws, limits."""

import numpy as np
import pytest

from genrep_jax.evaluations import _splits, few_shot
from genrep_jax.lib import errors
from tests.evaluations import probes


def test_one_feature_by_hand():
  """evaluation.md, 11.13: x = 0..3, labels 0 0 1 1, l2 = 1."""
  x, labels = np.arange(4.0)[:, None], np.array([0, 0, 1, 1])
  scores = few_shot.ridge(x, labels, np.array([[1.4], [1.6]]), l2=1)
  # Of z = (x - 1.5) / (std + 1e-5), whose squares add up to 4, less rounding.
  weight = -0.715546
  z = (np.array([1.4, 1.6]) - 1.5) / (x.std() + 1e-5)
  np.testing.assert_allclose(scores[:, 0], weight * z, atol=1e-6)
  np.testing.assert_allclose(scores[:, 1], -weight * z, atol=1e-6)


@pytest.mark.parametrize("rows", [6, 40])  # fewer and more than 10 features
def test_ridge_minimizes_its_objective(rows):
  random = np.random.default_rng(0)
  x, labels = random.normal(size=(rows, 10)), np.arange(rows) % 3
  identity = np.concatenate([np.zeros((1, 10)), np.eye(10)])
  # Scores are linear: at the mean and one deviation along each axis.
  queries = x.mean(0) + identity * (x.std(0) + 1e-5)
  scores = few_shot.ridge(x, labels, queries, l2=3.0)
  bias, weights = scores[0] / 100, scores[1:] - scores[0]
  z = np.concatenate(
    [(x - x.mean(0)) / (x.std(0) + 1e-5), np.full((rows, 1), 100.0)], axis=1
  )
  w = np.concatenate([weights, bias[None]])
  y = 2.0 * np.eye(3)[labels] - 1
  gradient = z.T @ (z @ w - y) + 3.0 * w
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_prototypes_do_not_see_lengths():
  random = np.random.default_rng(0)
  x, queries = random.normal(size=(2, 12, 5))
  labels = np.arange(12) % 3
  scores = few_shot.prototypes(x, labels, queries)
  scaled = x * random.uniform(0.1, 9, (12, 1))
  np.testing.assert_allclose(
    few_shot.prototypes(scaled, labels, queries * 7), scores, atol=1e-12
  )
  assert (np.abs(scores) <= 1).all()
  alone = few_shot.prototypes(x[:3], labels[:3], x[:3])
  np.testing.assert_allclose(np.diag(alone), 1)


def test_draws_are_nested_and_differ_by_seed():
  labels = np.random.default_rng(0).integers(0, 3, 60)
  one, four = (_splits.per_class(labels, n, 7) for n in (1, 4))
  np.testing.assert_array_equal(four.reshape(3, 4)[:, 0], one)
  np.testing.assert_array_equal(labels[four], np.repeat([0, 1, 2], 4))
  assert (four != _splits.per_class(labels, 4, 8)).any()


def test_the_plug_in(monkeypatch):
  make = probes.maker(monkeypatch, "few_shot")
  made = make(shots=(1, 5))
  results = dict(made.run({}))
  names = [
    f"few_shot_{kind}{shots}_accuracy{end}"
    for kind in ("ridge", "prototype")
    for shots in (1, 5)
    for end in ("", "_std")
  ]
  assert sorted(results) == sorted(names)
  assert made.headline == "few_shot_ridge5_accuracy"
  assert results["few_shot_prototype5_accuracy"] > 0.9
  one = dict(make(shots=(5,), draws=1).run({}))
  assert sorted(one) == [
    "few_shot_prototype5_accuracy",
    "few_shot_ridge5_accuracy",
  ]


@pytest.mark.parametrize(
  "options, expected",
  [
    ({"shots": ()}, "here.shots: given (); allowed: a tuple of at least 1"),
    ({"shots": (1, 1)}, "here.shots: given (1, 1)"),
    ({"shots": (21,)}, "here.shots: given (21,); allowed: at most 20, the tr"),
    ({"draws": 0}, "here.draws: given 0"),
    ({"l2": 0.0}, "here.l2: given 0.0"),
  ],
)
def test_bad_input(monkeypatch, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    probes.maker(monkeypatch, "few_shot")(**options)
  assert expected in str(caught.value)

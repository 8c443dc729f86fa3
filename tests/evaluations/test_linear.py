"""The linear probe: at its optimum, honest about its choice of l2."""

import jax
import numpy as np
import pytest
import scipy.optimize

from genrep_jax import data
from genrep_jax.evaluations import _calibration, _features, _splits, linear
from genrep_jax.lib import contracts, errors, mesh as mesh_lib, plugins


def mesh_of(count):
  return mesh_lib.make_mesh(jax.devices()[:count])


def make_rows(count=61, size=7, classes=3, seed=0):
  """Correlated features of very different scales, and one that never moves."""
  random = np.random.default_rng(seed)
  labels = random.integers(0, classes, count).astype(np.int32)
  mixing = random.normal(size=(size, size)) * 10.0 ** random.uniform(
    -2, 2, (1, size)
  )
  x = (
    random.normal(size=(count, size))
    + random.normal(size=(classes, size))[labels]
  )
  x = x @ mixing + 30
  x[:, 2] = 5.3
  return x.astype(np.float32), labels


def objective(parameters, x, labels, l2):
  """The objective and its gradient in float64, written with a loop."""
  x = x.astype(np.float64)
  deviation = x.std(axis=0)
  x = (x - x.mean(axis=0)) / np.where(deviation > 1e-4, deviation, np.inf)
  w = parameters.reshape(x.shape[1] + 1, -1)
  value = l2 / 2 * (w[:-1] ** 2).sum()
  gradient = np.concatenate([l2 * w[:-1], np.zeros_like(w[-1:])])
  for row, label in zip(x, labels):
    row = np.append(row, 1.0)
    p = np.exp(row @ w - (row @ w).max())
    p /= p.sum()
    value -= np.log(p[label]) / len(x)
    p[label] -= 1
    gradient += np.outer(row, p) / len(x)
  return value, gradient.ravel()


def standardized(model, x):
  """The model's parameters for standardized features, as `objective` wants."""
  x = x.astype(np.float64)
  weights = model.weights * x.std(axis=0)[:, None]
  bias = model.bias + x.mean(axis=0) @ model.weights
  return np.concatenate([weights, bias[None]]).ravel()


def fit(x, labels, l2, *, classes=3, devices=1, standardize=True, **options):
  problem = linear.Problem(
    x, labels, classes, mesh_of(devices), standardize=standardize
  )
  options = {"max_iterations": 300, "tolerance": 1e-4, **options}
  return problem.fit(l2, **options)


@pytest.mark.parametrize("size", [7, 11])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_optimum_against_scipy(monkeypatch, l2, size):
  monkeypatch.setattr(linear, "_ALL_AXES", 10)  # of 11 features: three only
  monkeypatch.setattr(linear, "_SOME_AXES", 3)
  x, labels = make_rows(size=size)
  model = fit(x, labels, l2)
  best = scipy.optimize.minimize(
    objective,
    np.zeros((size + 1) * 3),
    (x, labels, l2),
    method="BFGS",
    jac=True,
    options={"gtol": 1e-7},
  )
  parameters = standardized(model, x)
  value, gradient = objective(parameters, x, labels, l2)
  assert best.fun <= value <= best.fun + 1e-5
  assert model.loss == pytest.approx(value, abs=1e-5)
  assert np.linalg.norm(gradient) < 2e-4
  weights = parameters.reshape(size + 1, 3)[:-1]
  best = best.x.reshape(size + 1, 3)[:-1]
  np.testing.assert_allclose(weights, best, atol=0.02)
  assert model.gradient_norm < 1e-4 and 0 < model.iterations < 300


def test_a_fit_ends_by_the_curvature_where_it_ends(monkeypatch):
  """More features than rows and axes: the curvature falls by orders."""
  monkeypatch.setattr(linear, "_ALL_AXES", 10)
  monkeypatch.setattr(linear, "_SOME_AXES", 3)
  x, labels = make_rows(count=40, size=40)
  model = fit(x, labels, 1e-4, tolerance=1e-3)
  best = scipy.optimize.minimize(
    objective,
    np.zeros(41 * 3),
    (x, labels, 1e-4),
    method="L-BFGS-B",
    jac=True,
    options={"gtol": 1e-8, "ftol": 1e-14, "maxiter": 2000},
  )
  value, _ = objective(standardized(model, x), x, labels, 1e-4)
  assert best.fun <= value <= best.fun * 1.02
  assert model.axes == 3


def test_parts_fitted_together_are_those_fitted_alone():
  x, labels = make_rows()
  x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)
  parts = np.arange(len(x)) % 3 != np.array([[0], [1]])
  options = {"standardize": False, "tolerance": 1e-5}
  together = fit(x, labels, 1e-2, keep=parts, **options)
  for i, part in enumerate(parts):
    other = np.where(part[:, None], x, 1.5)  # rows that are not in the part
    one = fit(other, labels, 1e-2, keep=part[None], **options)
    np.testing.assert_allclose(together.weights[i], one.weights[0], atol=1e-3)
    np.testing.assert_allclose(together.bias[i], one.bias[0], atol=1e-3)
    assert together.loss[i] == pytest.approx(one.loss[0], abs=1e-5)
  assert np.abs(together.weights[0] - together.weights[1]).max() > 0.05


def test_start_does_not_matter():
  x, labels = make_rows()
  one = fit(x, labels, 1e-2)
  warm = fit(x, labels, 1e-2, start=fit(x, labels, 1.0))
  assert warm.loss == pytest.approx(one.loss, abs=1e-5)
  # Started where it ends, a fit has nothing to do.
  assert fit(x, labels, 1e-2, start=one, tolerance=1e-3).iterations <= 2


def test_large_sets_are_spread_over_the_mesh(monkeypatch):
  x, labels = make_rows()  # not divisible by the devices
  meshes = []
  spread = linear.Problem._spread

  def watch(self, array):
    meshes.append(self.mesh.size)
    return spread(self, array)

  monkeypatch.setattr(linear.Problem, "_spread", watch)
  # A few iterations: eight fake devices wait long for each other.
  options = {"num_classes": 3, "l2_grid": (0.1,), "max_iterations": 5}
  small = linear.probe(x, labels, mesh=mesh_of(8), **options)
  assert set(meshes) == {1}
  monkeypatch.setattr(linear, "_ONE_DEVICE_BYTES", 100)
  large = linear.probe(x, labels, mesh=mesh_of(8), **options)
  assert set(meshes) == {1, 8}
  assert large.model.loss == pytest.approx(small.model.loss, rel=1e-5)
  np.testing.assert_allclose(large.held_out[0], small.held_out[0], atol=1e-2)


def test_features_may_be_scaled_and_shifted():
  x, labels = make_rows()
  random = np.random.default_rng(0)
  scaled = x * random.uniform(1, 5, 7) + random.normal(size=7)
  one, other = fit(x, labels, 1e-2), fit(scaled, labels, 1e-2)
  assert other.loss == pytest.approx(one.loss, abs=1e-4)


def test_strong_regularizer_leaves_the_class_shares():
  x, labels = make_rows()
  model = fit(x, labels, 1e5)
  shares = np.bincount(labels) / len(labels)
  entropy = -(shares * np.log(shares)).sum()
  assert model.loss == pytest.approx(entropy, abs=1e-4)


def test_iterations_are_bounded():
  x, labels = make_rows()
  model = fit(x, labels, 1e-4, max_iterations=3, tolerance=1e-9)
  assert model.iterations == 3 and model.gradient_norm > 1e-3


def test_hold_out_is_stratified_and_deterministic():
  labels = np.random.default_rng(0).permutation(
    np.repeat([0, 1, 2, 3], [100, 33, 2, 1])
  )
  held_out = _splits.hold_out(labels, 0.1, 0)
  np.testing.assert_array_equal(np.bincount(labels[held_out]), [10, 3, 1])
  np.testing.assert_array_equal(held_out, _splits.hold_out(labels, 0.1, 0))
  assert (held_out != _splits.hold_out(labels, 0.1, 1)).any()
  several = np.random.default_rng(0).random((40, 3)) < 0.5
  assert _splits.hold_out(several, 0.1, 0).sum() == 4


def test_folds_are_stratified_and_leave_a_lonely_row_alone():
  labels = np.repeat([0, 1, 2, 3], [50, 23, 2, 1])
  fold = _splits.folds(labels, 5, 0)
  table = [np.bincount(fold[labels == c], minlength=5) for c in range(3)]
  for counts in table:
    assert counts.max() - counts.min() <= 1
  assert fold[-1] == -1 and np.ptp(np.sum(table, axis=0)) <= 1
  np.testing.assert_array_equal(fold, _splits.folds(labels, 5, 0))
  assert (fold != _splits.folds(labels, 5, 1)).any()


@pytest.mark.parametrize("together", [6, 2])
def test_every_row_is_predicted_by_a_model_without_it(monkeypatch, together):
  """Held-out logits against folds that are fitted one by one."""
  x, labels = make_rows()
  monkeypatch.setattr(linear, "_LOGITS", together * 61 * 3)
  options = {"num_classes": 3, "mesh": mesh_of(1), "tolerance": 1e-5}
  made = linear.probe(x, labels, l2_grid=(0.1,), **options)
  fold = _splits.folds(labels, 5, 0)
  for number in range(5):
    rest, part = fold != number, fold == number
    one = fit(x, labels, 0.1, keep=rest[None], tolerance=1e-5)
    got = linear.predict((one.weights[0], one.bias[0]), x[part])
    np.testing.assert_allclose(made.held_out[0][part], got, atol=2e-3)
  np.testing.assert_array_equal(made.held_out[1], labels)
  whole = fit(x, labels, 0.1, tolerance=1e-5)
  assert made.model.loss == pytest.approx(whole.loss, abs=1e-5)
  np.testing.assert_allclose(
    linear.predict(made.model, x), linear.predict(whole, x), atol=2e-3
  )


def scripted(monkeypatch, losses, noise):
  """Replaces fits and scores: losses = {l2: held-out cross-entropy}."""
  tried = []
  factor = 1 + noise * np.tile([-1.0, 1.0], 500)

  class Problem:
    def __init__(self, rows, labels, num_classes, mesh):
      pass

    def fit(self, l2, *, keep, start, max_iterations, tolerance):
      tried.append((l2, keep.sum(1).tolist()))
      several = np.full((6, 1, 2), l2), np.zeros((6, 2)), np.full(6, l2)
      return linear.Model(*several, 0.0, 0, 1)

  monkeypatch.setattr(linear, "Problem", Problem)
  monkeypatch.setattr(
    linear, "predict", lambda model, x: np.full((len(x), 2), model[0][0])
  )
  monkeypatch.setattr(
    _calibration,
    "losses",
    lambda logits, labels: losses[round(float(logits[0, 0]), 6)] * factor,
  )
  result = linear.probe(
    np.zeros((1000, 1)),
    np.repeat([0, 1], 500),
    num_classes=2,
    mesh=mesh_of(1),
    l2_grid=tuple(losses),
  )
  return result, tried


def test_chooses_by_held_out_cross_entropy(monkeypatch):
  losses = {1e-3: 0.51, 1e-1: 0.7, 1e-2: 0.5, 1e-4: 0.5}
  result, tried = scripted(monkeypatch, losses, noise=40)
  assert result.l2 == 1e-2  # a tie: the stronger
  assert result.model.loss == 1e-2 and result.model.weights.shape == (1, 2)
  parts = [800] * 5 + [1000]
  assert tried == [(l2, parts) for l2 in (1e-1, 1e-2, 1e-3, 1e-4)]


def test_stops_when_cross_entropy_rises_by_more_than_its_error(monkeypatch):
  # Row by row the difference d varies by `noise` d: its mean, d, has the
  # standard error noise d / sqrt(1000) = noise d / 32.
  losses = {1e-1: 0.5, 1e-2: 0.53, 1e-3: 0.1}
  result, tried = scripted(monkeypatch, losses, noise=20)
  assert result.l2 == 1e-1 and [l2 for l2, _ in tried] == [1e-1, 1e-2]
  result, _ = scripted(monkeypatch, losses, noise=40)
  assert result.l2 == 1e-3


@pytest.fixture
def make(monkeypatch):
  monkeypatch.setattr(_features, "_last", None)

  def make(dataset=None, **options):
    dataset = dataset or toy()
    monkeypatch.setattr(data, "load", lambda entry, path: dataset)
    entry = {"name": "linear", "batch": 32, **options}
    model = contracts.Model(lambda variables, x: x.reshape(len(x), -1))
    return plugins.make("evaluations", entry, model, mesh_of(8), path="here")

  return make


def toy(per_class=20):
  random = np.random.default_rng(0)
  labels = np.tile(np.arange(3, dtype=np.int32), per_class)
  splits = []
  for _ in range(2):
    images = random.integers(0, 90, (len(labels), 4, 4, 1))
    images[np.arange(len(labels)), labels] += 150  # a bright row: the class
    splits.append(contracts.Split(images.astype(np.uint8), labels))
  return contracts.Dataset("toy", 3, (), *splits)


def test_the_plug_in(make):
  made = make()
  first = dict(made.run({}))
  assert set(first) == {
    "linear_accuracy",
    "linear_nll",
    "linear_ece15",
    "linear_scaled_ece15",
    "linear_temperature",
    "linear_cv_accuracy",
    "linear_cv_nll",
    "linear_l2",
    "linear_gradient_norm",
  }
  assert made.headline == "linear_accuracy" and first[made.headline] == 1.0
  assert first["linear_l2"] in plugins.defaults("evaluations", "linear")["l2"]
  assert dict(made.run({})) == first  # same bits


def test_what_was_done_beyond_the_limit_is_said(make, monkeypatch):
  def probe(features, labels, **options):
    model = linear.Model(np.ones((16, 3)), np.zeros(3), 0.0, 0.0, 1, 3)
    return linear.Probe(model, 0.1, (np.zeros((4, 3)), np.arange(4) % 3))

  monkeypatch.setattr(linear, "_SOME_AXES", 3)
  monkeypatch.setattr(linear, "probe", probe)
  made = make()
  assert dict(made.run({}))["linear_principal_axes"] == 3
  assert "features the first 3" in made.about


def test_test_labels_are_not_looked_at_before_the_end(make):
  honest = dict(make().run({}))
  dataset = toy()
  wrong = contracts.Split(dataset.test.images, (dataset.test.labels + 1) % 3)
  spoilt = contracts.Dataset("toy", 3, (), dataset.train, wrong)
  result = dict(make(spoilt).run({}))
  assert result["linear_accuracy"] == 0.0
  judged = ("accuracy", "nll", "ece15", "scaled_ece15")
  for name in judged:
    assert result.pop(f"linear_{name}") != honest.pop(f"linear_{name}")
  assert result == honest


@pytest.mark.parametrize(
  "options, expected",
  [
    ({"l2": ()}, "here.l2: given (); allowed: a tuple of at least 1, each a f"),
    ({"l2": (0.1, 0.0)}, "here.l2: given (0.1, 0.0)"),
    ({"l2": 0.1}, "here.l2: given 0.1"),
    ({"l2": ("a",)}, "here.l2: given ('a',)"),
    ({"l2": (float("nan"),)}, "here.l2: given (nan,)"),
    ({"folds": 1}, "here.folds: given 1; allowed: an integer in 2..100"),
    ({"max_iterations": 0}, "here.max_iterations: given 0"),
    ({"tolerance": 0.0}, "here.tolerance: given 0.0"),
    ({"tolerance": float("nan")}, "here.tolerance: given nan"),
    ({"seed": -1}, "here.seed: given -1; allowed: an integer >= 0"),
    (
      {"train_limit": 3},
      ".train_limit: given 3; allowed: so many that toy giv",
    ),
  ],
)
def test_bad_input(make, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    make(**options)
  assert expected in str(caught.value)

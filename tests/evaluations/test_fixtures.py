"""Probes against tests/fixtures/evaluation.npz: independent numbers.

The originals are GenRep, MoCo, DINO(v2), big_vision, VISSL and scikit-learn;
each case of the file says by what convention it was made. Rows and batches are
given in order: nothing is drawn.
"""

import json

import jax
import numpy as np
import pytest

from genrep_jax.evaluations import (
  _calibration,
  _splits,
  caltech101,
  clustering,
  few_shot,
  knn,
  linear,
  linear_sgd,
  nearest_subspace,
  ood,
  svm,
)
from genrep_jax.lib import mesh as mesh_lib
from tests import fixture_files

FILE = fixture_files.arrays("evaluation.npz")
CASES = json.loads(str(FILE["meta"]))["cases"]
TRAIN, TRAIN_LABELS = FILE["in/data/train"], FILE["in/data/train_labels"]
TEST, TEST_LABELS = FILE["in/data/test"], FILE["in/data/test_labels"]


def mesh():
  return mesh_lib.make_mesh(jax.devices()[:1])


def of(case, part="out"):
  """The arrays of a case, without its path."""
  start = f"{part}/{case}/"
  return {k[len(start) :]: x for k, x in FILE.items() if k.startswith(start)}


def named(start):
  return [name for name in CASES if name.startswith(start)]


def close(got, wanted, relative=1e-9):
  """Within a share of the largest entry."""
  bound = relative * np.abs(wanted).max()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=bound)


def voted(bank, labels, queries, k, temperature, **options):
  """Votes as the file has them: not divided by the query's largest."""
  s, rows = knn.nearest(bank, queries, k, mesh(), **options)
  count = labels.max() + 1
  (votes,) = knn.votes(s, labels[rows], [k], temperature, count)
  return votes * np.exp(s[:, :1].astype(np.float64) / temperature), rows


@pytest.mark.parametrize("case", named("knn_k"))
def test_knn(case):
  k, temperature = CASES[case]["k"], CASES[case]["T"]
  wanted = of(case)
  votes, rows = voted(TRAIN, TRAIN_LABELS, TEST, k, temperature)
  np.testing.assert_allclose(votes, wanted["votes"], rtol=1e-4)
  np.testing.assert_array_equal(votes.argmax(1), wanted["prediction"])
  np.testing.assert_array_equal(rows[:, :20], wanted["neighbors"])
  assert np.mean(votes.argmax(1) == TEST_LABELS) == wanted["top1"]


def test_knn_of_itself_leaves_the_row_out():
  wanted, options = of("knn_leave_one_out"), {"k": 20, "temperature": 0.07}
  votes, rows = voted(
    TRAIN, TRAIN_LABELS, TRAIN, *options.values(), leave_one_out=True
  )
  assert not (rows == np.arange(len(TRAIN))[:, None]).any()
  np.testing.assert_allclose(votes, wanted["votes"], rtol=1e-4)
  options |= {"num_classes": 5, "mesh": mesh()}
  for left_out, top1 in ((True, "top1"), (False, "top1_self_included")):
    predicted = knn.classify(
      TRAIN, TRAIN_LABELS, TRAIN, leave_one_out=left_out, **options
    )
    assert np.mean(predicted == TRAIN_LABELS) == wanted[top1]


def test_knn_of_a_small_bank_asks_all():
  rows = of("knn_small_bank", "in")["bank_index"]
  votes, _ = voted(TRAIN[rows], TRAIN_LABELS[rows], TEST, 20, 0.07)
  np.testing.assert_allclose(votes, of("knn_small_bank")["votes"], rtol=1e-4)


def test_knn_ties():
  given, wanted = of("knn_ties", "in"), of("knn_ties")
  predicted = knn.classify(
    given["bank"],
    given["bank_labels"],
    given["query"],
    k=(1, 2, 3, 4),
    temperature=0.07,
    num_classes=4,
    mesh=mesh(),
  )
  for k, classes in zip((1, 2, 3, 4), predicted):
    np.testing.assert_array_equal(classes, wanted[f"prediction_k{k}"])


@pytest.mark.parametrize("case", named("logistic_"))
def test_logistic(case):
  wanted, l2 = of(case), CASES[case]["l2"]
  standardized = CASES[case]["standardized"]
  problem = linear.Problem(
    TRAIN, TRAIN_LABELS, 5, mesh(), standardize=standardized
  )
  model = problem.fit(l2, max_iterations=2000, tolerance=1e-5)
  mean = TRAIN.mean(0, dtype=np.float64)
  scale = TRAIN.std(0, dtype=np.float64) if standardized else np.ones(16)
  weights = (model.weights * scale[:, None]).T
  bias = model.bias + (mean @ model.weights if standardized else 0)
  close(weights, wanted["weight"], 1e-3)
  close(bias - bias.mean(), wanted["bias"], 1e-3)
  assert model.loss == pytest.approx(wanted["objective"], rel=1e-4)
  predicted = linear.predict(model, TEST).argmax(1)
  np.testing.assert_array_equal(predicted, wanted["test_prediction"])


def preset_of(case):
  """A case's settings, and its warm-up."""
  c = CASES[case]
  if case == "sgd_moco":
    settings = (c["lr"],), 6, 64, "step", False, tuple(c["schedule"]), 0.1
    return linear_sgd.Preset(*settings), (0, 0.0)
  preset = linear_sgd.Preset(
    (c["learning_rate"],),
    c["epochs"],
    c["batch"],
    "genrep_cosine" if c["cosine"] else "step",
    False,
    tuple(c["lr_decay_epochs"]),
    c["lr_decay_rate"],
  )
  return preset, (c.get("warm_epochs", 0), c.get("warmup_from", 0.0))


@pytest.mark.parametrize("case", named("sgd_"))
def test_sgd_epoch_by_epoch(case):
  preset, warmup = preset_of(case)
  wanted, given = of(case), of("sgd", "in") | of(case, "in")
  scale = CASES[case].get("feature_scale", 1.0)
  rates = linear_sgd.rates(preset, 300, warmup=warmup)
  if not warmup[0]:  # the file has the epochs' rates, before the warm-up's
    np.testing.assert_allclose(rates[4::5, 0], wanted["lr"], rtol=1e-12)
  seen = []
  heads = linear_sgd.fit(
    TRAIN.astype(np.float64) * scale,
    TRAIN_LABELS,
    order=given["order"],
    warmup=warmup,
    start=(given["weight"][None], given["bias"][None]),
    watch=lambda epoch, *what: seen.append((epoch, *what)),
    **preset._asdict(),
  )
  assert [epoch for epoch, *_ in seen] == list(range(6))
  for epoch, now, loss in seen:
    close(now.weights[0], wanted["weight"][epoch], 1e-8)
    close(now.bias[0], wanted["bias"][epoch], 1e-8)
    assert loss[0] == pytest.approx(wanted["train_loss"][epoch], rel=1e-8)
    logits = scale * TEST @ now.weights[0].T + now.bias[0]
    right = np.mean(logits.argmax(1) == TEST_LABELS)
    assert right == pytest.approx(wanted["test_accuracy"][epoch], abs=1e-12)
  np.testing.assert_array_equal(heads.weights, seen[-1][1].weights)


def test_several_learning_rates():
  given, wanted = of("multi_lr", "in"), of("multi_lr")
  preset = linear_sgd.Preset((0.5, 5.0, 50.0), 1, 32, "cosine", True)
  rows = given["fit_index"][given["batches"]].reshape(1, -1)
  rates = linear_sgd.rates(preset, rows.size)
  np.testing.assert_allclose(rates, wanted["lr_per_step"], rtol=1e-12)
  heads = linear_sgd.fit(
    TRAIN.astype(np.float64),
    TRAIN_LABELS,
    learning_rates=(0.5, 5.0, 50.0),
    epochs=1,
    batch=32,
    order=rows[0],
    start=(given["weight"], given["bias"]),
  )
  close(heads.weights, wanted["weight"], 1e-8)
  close(heads.bias, wanted["bias"], 1e-8)

  def scores(x, labels):
    logits = np.einsum("nf,hkf->hnk", x, heads.weights) + heads.bias[:, None]
    return np.mean(logits.argmax(2) == labels, axis=1)

  part = given["selection_index"]
  np.testing.assert_allclose(
    scores(TRAIN[part], TRAIN_LABELS[part]), wanted["selection_accuracy"]
  )
  np.testing.assert_allclose(scores(TEST, TEST_LABELS), wanted["test_accuracy"])


@pytest.mark.parametrize("case", named("fewshot_"))
def test_few_shot(case):
  wanted = of(case)
  for i, rows in enumerate(of(case, "in")["episodes"]):
    drawn = TRAIN[rows], TRAIN_LABELS[rows], TEST
    for l2 in (1, 1024):
      scores = few_shot.ridge(*drawn, l2=l2)
      close(scores, wanted[f"scores_l2_{l2}"][i], 1e-9)
      right = np.mean(scores.argmax(1) == TEST_LABELS)
      assert right == pytest.approx(wanted[f"accuracy_l2_{l2}"][i])
    close(few_shot.prototypes(*drawn), wanted["prototype_scores"][i], 1e-9)


@pytest.mark.parametrize("key", sorted(of("label_splits")))
def test_label_splits(key):
  seed, count = (int(word[4 if i == 0 else 1 :]) for i, word in
                 enumerate(key.split("_")))  # fmt: skip
  labels = of("label_splits", "in")["labels"]
  np.testing.assert_array_equal(
    _splits.per_class(labels, count, seed), of("label_splits")[key]
  )


@pytest.mark.parametrize("number", range(4))
def test_average_precision(number):
  given, wanted = of("average_precision", "in"), of("average_precision")
  scores, labels = (given[f"{name}_{number}"] for name in ("scores", "labels"))
  for kind, name in (("step", "step"), ("area", "area"),
                     ("11point", "eleven_point")):  # fmt: skip
    got = svm.average_precision(scores, labels, kind=kind)
    assert got == pytest.approx(wanted[f"{name}_{number}"], rel=1e-9)


def test_svm_voc07():
  given, wanted = of("svm_voc07", "in"), of("svm_voc07")
  np.testing.assert_allclose(svm.C_GRID, wanted["C_grid"], rtol=1e-12)
  x, queries = svm.scaled(given["train"]), svm.scaled(given["val"])
  for label in range(3):
    best = wanted["chosen_C"][label]
    # Around the choice: all 26 of three classes take seconds.
    near = np.abs(np.log(wanted["C_grid"] / best)) < 2
    fitted, c, table = svm.fit(
      x,
      given["train_labels"][:, label] > 0,
      c_grid=wanted["C_grid"][near],
      tol=1e-10,
    )
    assert c == best
    np.testing.assert_allclose(table, wanted["cv_ap"][label, near], rtol=1e-6)
    close(fitted.coef_[0], wanted["weight"][label], 1e-6)
    close(fitted.intercept_[0], wanted["bias"][label], 1e-6)
    scores = fitted.decision_function(queries)
    truth = given["val_labels"][:, label] > 0
    for kind, name in (("area", "ap_area"), ("11point", "ap_eleven_point")):
      got = svm.average_precision(scores, truth, kind=kind)
      assert got == pytest.approx(wanted[name][label], rel=1e-6)


def test_caltech101():
  given, wanted = of("caltech101", "in"), of("caltech101")
  grid = wanted["C_grid"]
  near = (grid >= 1e-2) & (grid <= 10)
  fitted, c, table = caltech101.fit(
    svm.scaled(given["train"]),
    given["train_labels"],
    c_grid=grid[near],
    max_iterations=5000,
    tol=1e-10,
  )
  assert c == wanted["chosen_C"]
  np.testing.assert_allclose(table, wanted["cv_accuracy"][near], rtol=1e-9)
  close(fitted.coef_, wanted["weight"], 1e-6)
  predicted = fitted.predict(svm.scaled(given["test"]))
  np.testing.assert_array_equal(predicted, wanted["prediction"])
  mean = caltech101.mean_class_accuracy(predicted, given["test_labels"])
  assert mean == pytest.approx(wanted["mean_per_class_accuracy"], rel=1e-9)


@pytest.mark.parametrize("case", named("kmeans_"))
def test_kmeans(case):
  wanted = of(case)
  found = clustering.lloyd(
    TRAIN, of(case, "in")["centers"], spherical=case.endswith("spherical")
  )
  np.testing.assert_array_equal(found.assignment, wanted["assignment"])
  close(found.centers, wanted["centers"], 1e-9)
  close(found.objectives, wanted["objective_per_iteration"], 1e-9)
  assert len(found.objectives) == wanted["iterations"]
  pair = TRAIN_LABELS, found.assignment
  for measure in (
    clustering.hungarian_accuracy,
    clustering.nmi,
    clustering.ari,
  ):
    got = measure(*pair)
    assert got == pytest.approx(wanted[measure.__name__], rel=1e-9)


def test_nearest_subspace():
  wanted = of("nearest_subspace")
  for kind in ("pca", "svd"):
    residuals = nearest_subspace.residuals(
      TRAIN, TRAIN_LABELS, TEST, components=4, centered=kind == "pca"
    )
    close(residuals, wanted[f"residual_{kind}"], 1e-9)


def test_calibration():
  given, wanted = of("calibration", "in"), of("calibration")
  p, labels = given["probabilities"].astype(np.float64), given["labels"]
  for bins in (10, 15):
    got = _calibration.ece(p, labels, bins=bins)
    assert got == pytest.approx(wanted[f"ece_{bins}"], rel=1e-9)
  # evaluation.md, 11.2: confidences .95 .85 .65 .55, right 1 0 1 0.
  top = np.array([0.95, 0.85, 0.65, 0.55])
  pairs, answers = np.stack([top, 1 - top], axis=1), np.array([0, 1, 0, 1])
  assert _calibration.ece(pairs, answers, bins=10) == pytest.approx(0.45)
  logits = np.log(p)
  assert _calibration.accuracy(logits, labels) == wanted["accuracy"]
  # The file's probabilities are rounded: their sums are 1 to 1e-7.
  got = _calibration.nll(logits, labels)
  assert got == pytest.approx(wanted["nll"], rel=1e-7)


def test_ood():
  given, wanted = of("ood", "in"), of("ood")
  got = ood.measures(given["scores_in"], given["scores_out"])
  assert got == {name: pytest.approx(wanted[name], rel=1e-9) for name in got}


def test_a_temperature_undoes_a_scale():
  given = of("calibration", "in")
  logits, labels = np.log(given["probabilities"]), given["labels"]
  t = _calibration.temperature(logits, labels)
  assert _calibration.temperature(3 * logits, labels) == pytest.approx(3 * t)
  best = _calibration.nll(logits / t, labels)
  for other in (0.99 * t, 1.01 * t, 1.0):
    assert best <= _calibration.nll(logits / other, labels)

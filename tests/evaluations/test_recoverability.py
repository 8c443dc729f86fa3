"""Ridge regression to latents: recorded, by gradient, of a toy's latents."""

import numpy as np
import pytest

from genrep_jax.evaluations import recoverability
from genrep_jax.lib import errors
from tests import fixture_files
from tests.evaluations import toy_views


def test_recorded_numbers():
  recorded = fixture_files.arrays("evaluation.npz")
  x, test = recorded["in/data/train"], recorded["in/data/test"]
  z, test_z = (recorded[f"in/ridge_r2/z_{part}"] for part in ("train", "test"))
  weights, predict = recoverability.ridge(x, z, l2=1.0)
  out = {
    "weight": weights,
    "prediction": predict(test),
    "r2": recoverability.ridge_r2(x, z, test, test_z, l2=1.0),
  }
  for name, got in out.items():
    np.testing.assert_allclose(
      got, recorded[f"out/ridge_r2/{name}"], rtol=1e-9, atol=1e-12
    )


def test_the_gradient_is_zero():
  random = np.random.default_rng(0)
  x, z = random.normal(size=(30, 4)) * (1, 2, 3, 4), random.normal(size=(30, 2))
  w, _ = recoverability.ridge(x, z, l2=0.3)
  x, z = (x - x.mean(0)) / x.std(0), z - z.mean(0)
  np.testing.assert_allclose(x.T @ (x @ w - z) / 30 + 0.3 * w, 0, atol=1e-12)


def test_limits():
  random = np.random.default_rng(0)
  x = random.normal(size=(60, 4))
  z = np.stack([x @ [1, 2, 3, 4], random.normal(size=60), np.ones(60)], axis=1)
  x = np.concatenate([x, np.ones((60, 1))], axis=1)  # says nothing
  r2 = recoverability.ridge_r2(x[:40], z[:40], x[40:], z[40:], l2=1e-9)
  assert r2[0] > 1 - 1e-9 and r2[1] < 0.3 and np.isnan(r2[2])
  r2 = recoverability.ridge_r2(x[:40], z[:40], x[40:], z[40:], l2=1e9)
  assert abs(r2[0]) < 0.2


def test_what_the_encoder_drops_is_not_recovered():
  groups = (("kept", 0, 2), ("dropped", 2, 6))
  matrix = np.zeros((6, 4))
  matrix[:2] = np.random.default_rng(1).normal(size=(2, 4))
  options = {"samples": 100, "groups": groups}
  found, made = toy_views.run(
    "recoverability", weights={"matrix": matrix}, batch=30, **options
  )
  assert made.headline == "ridge_r2_all_none_100"
  assert found["ridge_r2_kept_none_100"] > 0.8  # tanh of it is shown
  assert found["ridge_r2_dropped_none_100"] < 0.1
  mean = (
    2 * found["ridge_r2_kept_none_100"] + 4 * found["ridge_r2_dropped_none_100"]
  ) / 6
  np.testing.assert_allclose(found[made.headline], mean)
  again, _ = toy_views.run(
    "recoverability", devices=8, weights={"matrix": matrix}, **options
  )
  for name, value in found.items():
    np.testing.assert_allclose(value, again[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("groups", "expected"),
  [
    ((("a", 0, 7),), "groups: given 7; allowed: ends up to 6"),
    ((("a", 2, 2),), "groups: given"),
    ((("all", 0, 2),), "groups: given"),
    ((("a", 0, 2), ("a", 2, 3)), "each once"),
    (3, "groups: given 3"),
  ],
)
def test_bad_input(groups, expected):
  with pytest.raises(errors.UsageError, match="groups: given") as caught:
    toy_views.run("recoverability", samples=10, groups=groups)
  assert expected in str(caught.value)

"""Spectra of features against recorded numbers, closed forms and symmetries."""

import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.evaluations import spectrum
from genrep_jax.lib import contracts, errors
from tests import fixture_files
from tests.evaluations import toy_views


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("evaluation.npz")


def with_spectrum(values, rows=40):
  """Features of the given singular values, in no particular basis."""
  random = np.random.default_rng(0)
  left, _ = np.linalg.qr(random.normal(size=(rows, len(values))))
  right, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
  return left * np.asarray(values, float) @ right


def with_eigenvalues(values, rows=200):
  """Features whose covariance has the given eigenvalues."""
  random = np.random.default_rng(0)
  x = random.normal(size=(rows, len(values)))
  x, _ = np.linalg.qr(x - x.mean(axis=0))
  return x * np.sqrt(np.asarray(values) * (rows - 1)) + 5


def test_recorded_numbers(recorded):
  x = recorded["in/spectrum/features"]
  for name, got in {
    "rankme": spectrum.rank_me(x),
    "rankme_eps1e_5": spectrum.rank_me(x, eps=1e-5),
    "effective_rank": spectrum.effective_rank(x),
    "alpha_req_11_40": spectrum.alpha_req(x, first=11, last=40),
    "alpha_req_middle80": spectrum.alpha_req(x),
    "participation_ratio": spectrum.participation_ratio(x),
    "singular_values": spectrum.singular_values(x),
    "covariance_eigenvalues": spectrum.covariance_eigenvalues(x),
  }.items():
    np.testing.assert_allclose(
      got, recorded[f"out/spectrum/{name}"], rtol=1e-9, err_msg=name
    )
  x, y = recorded["in/cka/x"], recorded["in/cka/y"]
  np.testing.assert_allclose(
    spectrum.linear_cka(x, y), recorded["out/cka/cka"], rtol=1e-9
  )


@pytest.mark.parametrize(
  ("values", "eps", "expected"),
  [
    ((3, 1), 1e-7, 1.754765),
    ((4, 2, 1, 1), 1e-7, 3.363586),
    ((1,) * 128, 1e-7, 128.006),
  ],
)
def test_rank_me_of_known_singular_values(values, eps, expected):
  x = with_spectrum(values, rows=max(40, len(values)))
  np.testing.assert_allclose(spectrum.rank_me(x, eps=eps), expected, atol=5e-4)


@pytest.mark.parametrize(("eps", "of_2048"), [(1e-7, 1.0033), (1e-5, 1.266)])
def test_rank_me_of_rank_one(eps, of_2048):
  def closed(size):
    return np.exp(-(size - 1) * eps * np.log(eps) - (1 + eps) * np.log1p(eps))

  np.testing.assert_allclose(closed(2048), of_2048, atol=5e-4)
  x = np.random.default_rng(0).normal(size=(200, 1)) * np.eye(1, 200)
  np.testing.assert_allclose(spectrum.rank_me(x, eps=eps), closed(200))


def test_rank_me_of_gaussian_features():
  x = np.random.default_rng(0).normal(size=(1000, 64))
  np.testing.assert_allclose(spectrum.rank_me(x), 63.44, atol=0.05)


def test_eigenvalues_in_closed_form():
  x = with_eigenvalues([4, 2, 1, 1])
  np.testing.assert_allclose(spectrum.effective_rank(x), 3.363586, atol=1e-6)
  np.testing.assert_allclose(
    spectrum.participation_ratio(x), 2.909091, atol=1e-6
  )
  x = with_eigenvalues(np.arange(1, 31) ** -1.3)
  for window in ({}, {"first": 1, "last": 30}, {"first": 11, "last": 20}):
    np.testing.assert_allclose(spectrum.alpha_req(x, **window), 1.3, rtol=1e-9)


def test_features_without_variance():
  same = np.ones((10, 4))
  assert (
    spectrum.effective_rank(same) == spectrum.participation_ratio(same) == 1
  )
  assert np.isnan(spectrum.alpha_req(same))
  assert spectrum.rank_me(same) == pytest.approx(1, abs=1e-5)
  assert spectrum.rank_me(0 * same) == 1


@pytest.mark.parametrize("chunk", [7, 64, 300])
def test_chunks_do_not_matter(chunk):
  x = with_spectrum(10.0 ** -np.arange(12), rows=300)  # 1 .. 1e-11
  np.testing.assert_allclose(
    spectrum.singular_values(x, chunk=chunk), 10.0 ** -np.arange(12), rtol=1e-4
  )


def test_lidar_recorded_and_closed(recorded):
  np.testing.assert_allclose(
    spectrum.lidar(recorded["in/lidar/views"]),
    recorded["out/lidar/lidar"],
    rtol=1e-9,
  )
  means = np.array([[2, 0], [-2, 0], [0, 1], [0, -1]])
  offsets = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
  groups = means[:, None] + offsets
  np.testing.assert_allclose(spectrum.lidar(groups), 1.649385, atol=1e-6)


def test_lidar_does_not_see_invertible_maps():
  random = np.random.default_rng(0)
  groups = random.normal(size=(30, 1, 5)) + random.normal(size=(30, 6, 5))
  matrix = random.normal(size=(5, 5)) * 10.0 ** np.arange(5)
  plain, mapped = (
    spectrum.lidar(x, delta=0, eps=0) for x in (groups, groups @ matrix + 3)
  )
  np.testing.assert_allclose(plain, mapped, rtol=1e-8)
  mixed = groups.reshape(6, 30, 5).swapaxes(0, 1)
  assert abs(spectrum.lidar(mixed, delta=0) - plain) > 0.1
  # Views without noise of rank one: one direction tells samples apart.
  line = np.arange(30.0)[:, None, None] * np.eye(1, 5)
  assert spectrum.lidar(line + 0.1 * random.normal(size=(30, 6, 5))) < 1.5


def test_linear_cka():
  random = np.random.default_rng(0)
  x = random.normal(size=(50, 4))
  rotation, _ = np.linalg.qr(random.normal(size=(4, 4)))
  np.testing.assert_allclose(spectrum.linear_cka(x, 3 * x @ rotation + 1), 1)
  cross = np.array([[1, 0], [-1, 0], [0, 1], [0, -1.0]])
  np.testing.assert_allclose(
    spectrum.linear_cka(cross, cross * (1, 2)), 0.857493, atol=1e-6
  )


def test_the_evaluation_of_generated_views():
  options = {"samples": 50, "batch": 16}
  found, made = toy_views.run("spectrum", **options)
  assert set(found) == {
    f"{name}_both_50"
    for name in (
      "rankme",
      "effective_rank",
      "participation_ratio",
      "alpha_req",
    )
  }
  assert made.requires == {"encode", "views"} and made.unit == ""
  # 6 pixels, 8 features: no more than 6 directions; many are used.
  assert 3 < found["rankme_both_50"] < 6.01
  again, _ = toy_views.run("spectrum", devices=8, samples=50, batch=50)
  for name, value in found.items():
    if "alpha" not in name:  # of which rounding is a part: 2 eigenvalues are 0
      np.testing.assert_allclose(value, again[name], rtol=1e-5, err_msg=name)
  flat = {"matrix": np.ones((6, 1)) * np.ones((1, 8))}
  collapsed, _ = toy_views.run("spectrum", weights=flat, **options)
  assert collapsed["rankme_both_50"] < 1.01
  assert "alpha_req_both_50" not in collapsed
  plain, _ = toy_views.run("spectrum", views="none", **options)
  assert abs(plain["rankme_none_50"] - found["rankme_both_50"]) > 1e-3


def test_real_images_where_nothing_is_rendered(monkeypatch):
  images = np.random.default_rng(0).integers(0, 256, (30, *toy_views.SHAPE))
  split = contracts.Split(images.astype(np.uint8), np.arange(30) % 2)
  dataset = contracts.Dataset("noise", 2, (), split, split)
  monkeypatch.setattr(data, "load", lambda entry, path: dataset)
  model = contracts.Model(encode=toy_views.encode, channels=1)
  found, made = toy_views.run("spectrum", model=model)
  assert made.requires == {"encode"}
  z = (images / 127.5 - 1).reshape(30, 6) @ toy_views.MATRIX
  expected = spectrum.rank_me(z)
  np.testing.assert_allclose(found["rankme_test_30"], expected, rtol=1e-5)
  with pytest.raises(errors.UsageError, match="images: given 'views'"):
    toy_views.run("spectrum", model=model, images="views")


@pytest.mark.parametrize(
  "options", [{"samples": 1}, {"alpha_window": (5, 2)}, {"views": "all"}]
)
def test_bad_input(options):
  with pytest.raises(errors.UsageError, match=f"{next(iter(options))}: given"):
    toy_views.run("spectrum", **options)

"""Alignment and uniformity: recorded, closed, of a toy's views."""

import numpy as np
import pytest

from genrep_jax.evaluations import alignment
from genrep_jax.lib import errors
from tests import fixture_files
from tests.evaluations import toy_views


def test_recorded_numbers():
  recorded = fixture_files.arrays("evaluation.npz")
  case = "alignment_uniformity"
  x, y = (recorded[f"in/{case}/{name}"] for name in "xy")
  for name, got in {
    "alignment": alignment.alignment(np.stack([x, y], axis=1)),
    "uniformity_x": alignment.uniformity(x),
    "uniformity_y": alignment.uniformity(y, chunk=7),
  }.items():
    np.testing.assert_allclose(got, recorded[f"out/{case}/{name}"], rtol=1e-9)


@pytest.mark.parametrize(
  ("rows", "expected"),
  [
    ([[1, 0], [-2, 0]], -8),
    ([[1, 0], [0, 3]], -4),
    ([[1, 0], [5, 0]], 0),
    # Two antipodal pairs, crosswise: 4 pairs at -4, 2 at -8, of 6.
    (
      [[1, 0], [-1, 0], [0, 1], [0, -1]],
      np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6),
    ),
  ],
)
def test_few_points(rows, expected):
  np.testing.assert_allclose(alignment.uniformity(rows), expected, atol=1e-12)


@pytest.mark.parametrize(
  ("size", "expected"), [(2, -1.575027), (3, -2.079777), (64, -3.875236)]
)
def test_the_uniform_sphere(size, expected):
  z = np.random.default_rng(0).normal(size=(1500, size))
  np.testing.assert_allclose(alignment.uniformity(z), expected, atol=0.01)


def test_lengths_and_rotations_do_not_matter():
  random = np.random.default_rng(0)
  z = random.normal(size=(40, 2, 5))
  rotation, _ = np.linalg.qr(random.normal(size=(5, 5)))
  moved = z @ rotation * random.uniform(0.1, 9, (40, 2, 1))
  np.testing.assert_allclose(alignment.alignment(z), alignment.alignment(moved))
  np.testing.assert_allclose(
    alignment.uniformity(z[:, 0], t=3), alignment.uniformity(moved[:, 0], t=3)
  )
  same = np.repeat(z[:, :1], 2, axis=1) * np.array([1, 2])[:, None]
  assert alignment.alignment(same) < 1e-20
  assert alignment.alignment(
    same * np.array([1, -1])[:, None]
  ) == pytest.approx(4)


def test_the_evaluation():
  options = {"samples": 30, "batch": 8}
  found, made = toy_views.run("alignment", **options)
  assert made.headline == "uniformity_both_30"
  assert set(found) == {"uniformity_both_30", "alignment_both_30"}
  again, _ = toy_views.run("alignment", devices=8, samples=30)
  for name, value in found.items():
    np.testing.assert_allclose(value, again[name], rtol=1e-5)
  # Nothing moves but the brightness; nothing at all.
  latent, _ = toy_views.run("alignment", views="latent", **options)
  none, _ = toy_views.run("alignment", views="none", **options)
  assert none["alignment_none_30"] < 1e-12
  assert 1e-3 < latent["alignment_latent_30"] < found["alignment_both_30"]
  flat = {"matrix": np.ones((6, 1)) * np.arange(1, 9)}
  collapsed, _ = toy_views.run("alignment", weights=flat, t=1.0, **options)
  assert collapsed["uniformity_t1_both_30"] > -2.1  # two opposite points


def test_bad_input():
  for options in ({"t": 0}, {"samples": 1}):
    with pytest.raises(errors.UsageError, match=f"{[*options][0]}: given"):
      toy_views.run("alignment", **options)

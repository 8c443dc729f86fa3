"""T_z: the distributions of specs 1.1 and 1.2, and what is refused."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import contracts, errors, plugins, rng
from tests import fixture_files

LAWS = fixture_files.arrays("latents.npz")
META = json.loads(str(LAWS["meta"]))
DIM, ANCHORS = 100, 2000


def generator(num_classes=10):
  """A generator that only samples."""

  def sample(key):
    z = rng.truncated_normal(jax.random.fold_in(key, 0), (DIM,))
    y = jax.random.randint(jax.random.fold_in(key, 1), (), 0, num_classes)
    return z, y.astype(jnp.int32)

  return contracts.Generator(
    (4, 4), 1, DIM, num_classes, None, sample, lambda v, z, y: None
  )


@functools.cache
def anchors():
  """Anchors z [ANCHORS, DIM], their classes, and the keys of their views."""
  index = jnp.arange(ANCHORS, dtype=jnp.uint32)
  z, y = jax.vmap(generator().sample)(
    rng.per_index(rng.stream(0, "sample"), index)
  )
  return z, y, rng.per_index(rng.stream(0, "latent_view"), index)


def make(name, **options):
  return plugins.make("views/latent", {"name": name, **options}, generator())


def pairs(name, **options):
  """Anchors and their views, each [ANCHORS, DIM], drawn in one jitted call."""
  view = make(name, **options)
  z, y, keys = anchors()
  return np.asarray(z), np.asarray(jax.jit(jax.vmap(view))(keys, z, y))


def matches_law(x, law):
  """Asserts the statistics named in the fixture's `meta["use"]`."""
  x = np.sort(np.float64(x).ravel())
  n = x.size
  mean, var, kurtosis = (
    float(LAWS[f"out/{law}/{name}"])
    for name in ("mean", "var", "excess_kurtosis")
  )
  assert abs(x.mean() - mean) < 5 * np.sqrt(var / n)
  assert abs(x.var() / var - 1) < 5 * np.sqrt((kurtosis + 2) / n)
  ecdf = np.searchsorted(x, LAWS[f"in/{law}/x"], side="right") / n
  np.testing.assert_allclose(
    ecdf, LAWS[f"out/{law}/cdf"], atol=1.95 / np.sqrt(n)
  )
  if "support" in META["laws"][law]:
    low, high = META["laws"][law]["support"]
    assert low - 1e-6 <= x[0] and x[-1] <= high + 1e-6


@pytest.mark.parametrize("sigma, name", [(0.2, "0p2"), (1.0, "1")])
def test_gaussian_follows_the_law_and_is_not_truncated_again(sigma, name):
  z, moved = pairs("gaussian", sigma=sigma)
  matches_law(moved, f"positive_sigma{name}")
  assert np.abs(moved).max() > 2.0  # the anchors end at 2
  correlation = np.corrcoef(z.ravel(), moved.ravel())[0, 1]
  expected = float(LAWS[f"out/positive_sigma{name}/corr_with_anchor"])
  assert abs(correlation - expected) < 5 / np.sqrt(z.size)
  noise = moved - z
  assert np.abs(noise).max() <= 2 * sigma + 1e-6
  if name == "0p2":
    matches_law(noise, "noise_t2_sigma0p2")


def test_truncation_zero_is_an_untruncated_normal():
  z, moved = pairs("gaussian", sigma=0.2, truncation=0.0)
  matches_law(moved - z, "gaussian_sigma0p2")
  assert np.abs(moved - z).max() > 0.6


def test_sigma_zero_is_the_identity():
  z, moved = pairs("gaussian", sigma=0.0)
  np.testing.assert_array_equal(moved, z)


@pytest.mark.parametrize(
  "options",
  [
    {"sigma": -0.1},
    {"truncation": -2.0},
    {"sigma": float("nan")},
    {"sigma": 1e39},
    {"sigma": 1e30},
  ],
)
def test_gaussian_refuses(options):
  with pytest.raises(errors.UsageError) as raised:
    make("gaussian", **options)
  ((name, value),) = options.items()
  assert str(raised.value) == (
    f"views.latent.{name}: given {value}; allowed: a finite number >= 0 and "
    "<= 1000"
  )


def test_independent_is_a_fresh_anchor():
  z, moved = pairs("independent")
  matches_law(moved, "anchor_t2_sigma1")
  correlation = np.corrcoef(z.ravel(), moved.ravel())[0, 1]
  assert abs(correlation) < 5 / np.sqrt(z.size)


def test_none_is_the_identity():
  z = object()
  assert make("none")(None, z, None) is z
  z, moved = pairs("none")
  np.testing.assert_array_equal(moved, z)


@pytest.mark.parametrize("name", ["gaussian", "independent"])
def test_views_of_different_keys_differ_and_of_one_key_agree(name):
  _, moved = pairs(name)
  _, again = pairs(name)
  np.testing.assert_array_equal(moved, again)
  assert len(np.unique(moved[:, 0])) > 0.99 * ANCHORS

"""Randomness: laws, bijections, and bits that do not depend on the batch."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import mesh as mesh_lib, rng
from tests import fixture_files

LAWS = fixture_files.arrays("latents.npz")
META = json.loads(str(LAWS["meta"]))
N = 200_000


@pytest.mark.parametrize(
  "law, sigma, truncation, scale",
  [
    ("anchor_t2_sigma1", 1.0, 2.0, 1.0),
    ("noise_t2_sigma0p2", 0.2, 2.0, 1.0),
    ("anchor_t2_trunc0p4", 1.0, 2.0, 0.4),
    ("gaussian_sigma1", 1.0, 0.0, 1.0),
    ("gaussian_sigma0p2", 0.2, None, 1.0),
  ],
)
def test_truncated_normal_follows_the_recorded_law(
  law, sigma, truncation, scale
):
  draw = rng.truncated_normal(
    rng.stream(0, law), (N,), sigma=sigma, truncation=truncation
  )
  assert draw.dtype == jnp.float32
  x = np.sort(scale * np.float64(draw))
  mean, var, kurtosis = (
    float(LAWS[f"out/{law}/{name}"])
    for name in ("mean", "var", "excess_kurtosis")
  )
  assert abs(x.mean() - mean) < 5 * np.sqrt(var / N)
  assert abs(x.var() / var - 1) < 5 * np.sqrt((kurtosis + 2) / N)
  ecdf = np.searchsorted(x, LAWS[f"in/{law}/x"], side="right") / N
  np.testing.assert_allclose(
    ecdf, LAWS[f"out/{law}/cdf"], atol=1.95 / np.sqrt(N)
  )
  if "support" in META["laws"][law]:
    low, high = META["laws"][law]["support"]
    assert low - 1e-6 <= x[0] < 0.99 * low
    assert 0.99 * high < x[-1] <= high + 1e-6


@functools.partial(jax.jit, static_argnums=2)
def visits(key, index, size):
  return jax.vmap(lambda i: rng.permuted_index(key, i, size))(index)


def epochs(size, count, seed=0):
  """Rows = epochs, columns = positions; what each position visits."""
  index = jnp.arange(size * count, dtype=jnp.uint32)
  visited = visits(rng.stream(seed, "order"), index, size)
  return np.asarray(visited).reshape(count, size)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 257, 5000, 60000])
def test_each_epoch_visits_every_item_once(size):
  order = epochs(size, 2)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(
    np.sort(order, axis=1), np.tile(np.arange(size), (2, 1))
  )
  if size > 100:  # small sets may repeat an order by chance
    # Two random permutations agree at one position on average.
    for other in (order[1], np.arange(size), epochs(size, 2, seed=1)[0]):
      assert np.mean(order[0] == other) < 0.1


@pytest.mark.parametrize("size, tolerance", [(5, 0.2), (64, 0.3)])
def test_every_item_is_as_likely_at_every_position(size, tolerance):
  # Four rounds on a few bits are not perfectly even: up to 11% off at 5 items
  # (200,000 epochs counted); from 64 items on no unevenness can be seen.
  count = 10_000
  first = jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(size)
  expected = count / size
  for position in (0, size - 2):
    visited = visits(rng.stream(0, "order"), first + position, size)
    counts = np.bincount(visited, minlength=size)
    assert np.abs(counts / expected - 1).max() < tolerance + 1 / expected**0.5
    if size == 64:
      chi_square = np.sum((counts - expected) ** 2 / expected)
      assert chi_square < 63 + 5 * np.sqrt(2 * 63)


def test_permuted_index_at_the_end_of_the_index_range():
  size, first = 1000, 4_294_967_000  # the last whole epochs below 2**32
  index = np.arange(first - 2000, first, dtype=np.uint32)
  visited = visits(rng.stream(0, "order"), index, size)
  for epoch in np.asarray(visited).reshape(2, size):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def draw(index):
  keys = rng.per_index(rng.stream(7, "sample"), index)
  return jax.vmap(lambda key: rng.truncated_normal(key, (16,)))(keys)


@pytest.mark.usefixtures("optimized")
def test_sample_k_is_the_same_bits_for_any_batch_and_device_count():
  index = jnp.arange(32, dtype=jnp.uint32)
  wanted = np.stack([np.asarray(draw(index[k : k + 1])[0]) for k in range(32)])
  one = jax.jit(draw)
  for batch in (8, 16):
    got = np.concatenate(
      [one(index[k : k + batch]) for k in range(0, 32, batch)]
    )
    np.testing.assert_array_equal(got, wanted)
  mesh = mesh_lib.make_mesh()
  assert mesh.size == 8
  sharded = jax.device_put(index, mesh_lib.batch(mesh))
  got = jax.jit(draw, out_shardings=mesh_lib.batch(mesh))(sharded)
  assert len(got.sharding.device_set) == 8
  np.testing.assert_array_equal(got, wanted)
  assert len(np.unique(wanted[:, 0])) == 32


def test_indices_go_on_from_step_to_step():
  whole = rng.indices(0, 24)
  assert whole.dtype == jnp.uint32
  steps = [rng.indices(jnp.int32(step), 8) for step in range(3)]
  np.testing.assert_array_equal(np.concatenate(steps), whole)
  last = rng.indices(rng.MAX_SAMPLES // 8 - 1, 8)
  assert int(last[-1]) == rng.MAX_SAMPLES - 1


def test_per_index_is_fold_in():
  key = rng.stream(0, "sample")
  keys = rng.per_index(key, jnp.asarray([3, 2**32 - 1], jnp.uint32))
  for got, index in zip(keys, (3, 2**32 - 1), strict=True):
    expected = jax.random.fold_in(key, jnp.uint32(index))
    np.testing.assert_array_equal(
      jax.random.key_data(got), jax.random.key_data(expected)
    )


def test_streams_differ_by_name_and_by_seed():
  names = ("sample", "latent_view", "pixel_view", "mix", "init", "")
  words = {
    tuple(np.asarray(jax.random.key_data(rng.stream(seed, name))))
    for seed in (0, 1)
    for name in names
  }
  assert len(words) == 2 * len(names)
  np.testing.assert_array_equal(
    jax.random.key_data(rng.stream(3, "mix")),
    jax.random.key_data(rng.stream(3, "mix")),
  )


def test_one_draw_is_cut_into_normals_of_the_asked_shapes():
  def build(normal):
    return {"a": normal((300, 2)), "b": (normal(()), 2 * normal((500,)))}

  tree = jax.jit(lambda key: rng.one_draw(key, build))(jax.random.key(0))
  assert tree["b"][0].shape == ()
  numbers = [tree["a"].ravel(), tree["b"][0][None], tree["b"][1] / 2]
  whole = jax.random.normal(jax.random.key(0), (1101,))
  np.testing.assert_array_equal(np.concatenate(numbers), whole)

"""The small generator: shapes, layout, conditions, stored statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import small
from genrep_jax.lib import errors, plugins


def make(**options):
  entry = {
    "name": "small",
    "latent_dim": 8,
    "base_px": 2,
    "widths": (8, 4),
    "extra_convs": (0, 1),
    **options,
  }
  return plugins.make("generators", entry)


@pytest.fixture(scope="module", params=[0, 3], ids=["unconditional", "classes"])
def made(request):
  """(generator, variables with every leaf away from its initial value)."""
  generator = make(num_classes=request.param)
  variables = jax.jit(generator.init)(jax.random.key(0))
  noise = np.random.default_rng(0)
  noisy = {
    "params": jax.tree.map(
      lambda x: np.float32(x + 0.3 * noise.normal(size=x.shape)),
      variables["params"],
    ),
    "batch_stats": jax.tree.map(
      lambda x: np.float32(x + noise.uniform(0.1, 1, x.shape)),
      variables["batch_stats"],
    ),
  }
  return dataclasses.replace(generator, apply=jax.jit(generator.apply)), noisy


def test_default_is_28_px_gray_within_two_megabytes():
  generator = plugins.make("generators", {"name": "small"})
  assert (generator.resolution, generator.channels) == ((28, 28), 1)
  variables = jax.eval_shape(generator.init, jax.random.key(0))
  # float16 storage: 2 bytes a number.
  assert 2 * sum(x.size for x in jax.tree.leaves(variables)) < 2e6
  images = jax.eval_shape(
    generator.apply,
    variables,
    jax.ShapeDtypeStruct((5, generator.latent_dim), jnp.float32),
    jax.ShapeDtypeStruct((5,), jnp.int32),
  )
  assert (images.shape, images.dtype) == ((5, 28, 28, 1), jnp.float32)


def test_depth_to_space_against_loops():
  x = np.arange(2 * 2 * 3 * 8).reshape(2, 2, 3, 8)
  slow = np.zeros((2, 4, 6, 2), int)
  for n, h, w, dy, dx, c in np.ndindex(2, 2, 3, 2, 2, 2):
    slow[n, 2 * h + dy, 2 * w + dx, c] = x[n, h, w, dy * 4 + dx * 2 + c]
  np.testing.assert_array_equal(small.depth_to_space(jnp.array(x)), slow)


def test_modulated_batch_norm_against_the_formula():
  layer = small.ModulatedBatchNorm(jnp.float32, 0.9)
  x = jax.random.normal(jax.random.key(0), (6, 2, 2, 3)) * 2 + 1
  condition = jax.random.normal(jax.random.key(1), (6, 4))
  variables = layer.init(jax.random.key(2), x, condition, True)
  out, updated = layer.apply(
    variables, x, condition, True, mutable=["batch_stats"]
  )
  dense = variables["params"]["Dense_0"]
  gain, bias = np.split(condition @ dense["kernel"] + dense["bias"], 2, axis=1)
  mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
  whitened = (x - mean) / np.sqrt(var + 1e-5)
  expected = np.maximum(
    whitened * (1 + gain[:, None, None]) + bias[:, None, None], 0
  )
  np.testing.assert_allclose(out, expected, atol=1e-5)
  stats = updated["batch_stats"]["BatchNorm_0"]
  np.testing.assert_allclose(stats["mean"], 0.1 * mean, atol=1e-6)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, atol=1e-5)


def test_images_do_not_depend_on_their_batch(made):
  generator, variables = made
  z = jax.random.normal(jax.random.key(1), (6, 8))
  y = jnp.arange(6) % max(1, generator.num_classes)
  together = generator.apply(variables, z, y)
  alone = generator.apply(variables, z[2:3], y[2:3])
  np.testing.assert_allclose(together[2:3], alone, atol=2e-5)
  assert together.shape == (6, 8, 8, 1)
  assert np.abs(together).max() <= 1
  assert np.ptp(together) > 0.1, "a constant image shows nothing"


def test_images_depend_on_latent_statistics_and_only_then_on_class(made):
  generator, variables = made
  z = jax.random.normal(jax.random.key(1), (1, 8))
  y = jnp.zeros(1, jnp.int32)
  image = generator.apply(variables, z, y)
  assert np.abs(image - generator.apply(variables, z + 0.5, y)).max() > 1e-3
  moved = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
  other = generator.apply(variables | {"batch_stats": moved}, z, y)
  assert np.abs(image - other).max() > 1e-3
  difference = np.abs(image - generator.apply(variables, z, y + 1)).max()
  assert (difference > 1e-3) == bool(generator.num_classes)


def test_training_mode_uses_the_batch_and_updates_statistics(made):
  generator, variables = made
  z = jax.random.normal(jax.random.key(1), (6, 8))
  y = jnp.zeros(6, jnp.int32)
  train = jax.jit(generator.train_apply, static_argnames="momentum")
  images, updated = train(variables, z, y)
  assert np.abs(images - generator.apply(variables, z, y)).max() > 1e-3
  assert updated["params"].keys() == variables["params"].keys()
  # Without momentum the statistics are this batch's, with 0.9 a tenth of them.
  same, this = train(variables, z, y, momentum=0.0)
  np.testing.assert_allclose(same, images, atol=1e-6)
  for old, new, batch in zip(
    *(jax.tree.leaves(v["batch_stats"]) for v in (variables, updated, this)),
    strict=True,
  ):
    assert np.abs(old - new).max() > 0
    np.testing.assert_allclose(new, 0.9 * old + 0.1 * batch, atol=1e-5)


def test_samples_are_truncated_and_classes_uniform(made):
  generator, _ = made
  keys = jax.random.split(jax.random.key(0), 3000)
  z, y = jax.jit(jax.vmap(generator.sample))(keys)
  assert np.abs(z).max() <= 2
  assert np.abs(z).max() > 1.99
  # Variance of a standard normal cut at 2: 1 - 4 pdf(2) / (2 cdf(2) - 1).
  np.testing.assert_allclose(np.var(z), 0.7737, atol=0.02)
  counts = np.bincount(y, minlength=max(1, generator.num_classes))
  assert len(counts) == max(1, generator.num_classes)
  assert counts.min() > 0.8 * 3000 / len(counts)


@pytest.mark.parametrize(
  "options",
  [
    {"extra_convs": (0, 1), "widths": (8, 4, 2)},
    {"widths": (), "extra_convs": ()},
    {"channels": 2},
    {"num_classes": -1},
    {"truncation": -1.0},
    {"latent_dim": 0},
    {"latent_dim": 10**12},
    {"truncation": float("nan")},
    {"truncation": float("inf")},
    {"widths": (0, 0)},
    {"widths": (-8, 4)},
    {"widths": (8.5, 4)},
    {"widths": ("a", 4)},
    {"widths": (2,) * 11, "extra_convs": (0,) * 11},
    {"extra_convs": (-1, 0)},
    {"extra_convs": (0,)},
    {"render_chunk": -1},
    {"sha256": "abc"},
  ],
)
def test_bad_sizes_are_refused_in_one_line(options):
  with pytest.raises(errors.UsageError) as caught:
    make(**options)
  message = str(caught.value)
  assert "\n" not in message
  name = next(iter(options))
  assert f"generator.{name}: given {options[name]!r}; allowed: " in message

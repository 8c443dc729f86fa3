"""The small encoder: pooling by hand, sizes, norms, gradients, bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors, mesh, plugins

_KEY = jax.random.key(0)


def _make(*, dtype=jnp.float32, **options):
  return plugins.make("encoders", {"name": "small", **options}, dtype=dtype)


@functools.cache
def _net(norm="batch", feature_norm="batch", dtype=jnp.float32):
  """(jitted apply, variables) of a quarter-width net for 28 px."""
  options = {
    "width": 0.25,
    "norm": norm,
    "group_size": 2,
    "feature_norm": feature_norm,
  }
  encoder = _make(dtype=dtype, **options)
  apply = jax.jit(encoder.apply, static_argnames=("train", "local"))
  return apply, jax.jit(lambda k: encoder.init(k, (28, 28, 1)))(_KEY)


def _images(rows, seed=1):
  return jax.random.normal(jax.random.key(seed), (rows, 28, 28, 1))


@pytest.mark.parametrize(
  ("size", "channels", "side"), ((28, 1, 4), (32, 3, 4), (64, 3, 8), (8, 1, 1))
)
def test_shapes(size, channels, side):
  encoder = _make()
  shape = (size, size, channels)
  variables = jax.eval_shape(lambda k: encoder.init(k, shape), _KEY)
  features, batch_stats = jax.eval_shape(
    lambda v, x: encoder.apply(v, x, train=True, local=True),
    variables,
    jax.ShapeDtypeStruct((3, *shape), jnp.float32),
  )
  assert features.pooled.shape == (3, 512)
  assert features.local.shape == (3, side, side, 128)
  assert jax.tree.map(lambda leaf: leaf.shape, batch_stats) == jax.tree.map(
    lambda leaf: leaf.shape, variables["batch_stats"]
  )


def _quadrants(x):
  """Maxima by hand; of 7 rows, the middle one belongs to both halves."""
  half = -(-x.shape[1] // 2)
  return np.concatenate(
    [
      x[:, :half, :half].max((1, 2)),
      x[:, :half, -half:].max((1, 2)),
      x[:, -half:, :half].max((1, 2)),
      x[:, -half:, -half:].max((1, 2)),
    ],
    axis=-1,
  )


@pytest.mark.parametrize("size", (28, 52))  # maps of 4 and of 7
def test_quadrants_by_hand(size):
  encoder = _make(width=0.25, norm="none", feature_norm="none")
  images = jax.random.normal(_KEY, (2, size, size, 1))
  variables = encoder.init(_KEY, images.shape[1:])
  features, _ = encoder.apply(variables, images, train=False, local=True)
  assert features.local.shape[1] == {28: 4, 52: 7}[size]
  np.testing.assert_array_equal(
    features.pooled, _quadrants(np.asarray(features.local))
  )


@pytest.mark.parametrize("feature_norm", ("batch", "layer", "none"))
def test_pooled_features_from_the_local_map(feature_norm):
  apply, variables = _net(feature_norm=feature_norm)
  features, batch_stats = apply(variables, _images(5), train=True, local=True)
  local = np.asarray(features.local)
  assert local.shape == (5, 4, 4, 32)
  assert local.min() == 0 < local.max()
  pooled = _quadrants(local)
  axis = {"batch": 0, "layer": 1, "none": ()}[feature_norm]
  want, variance = pooled, pooled.var(axis, keepdims=True)
  if feature_norm != "none":
    epsilon = {"batch": 1e-5, "layer": 1e-6}[feature_norm]
    want = (pooled - pooled.mean(axis, keepdims=True)) / np.sqrt(
      variance + epsilon
    )
  np.testing.assert_allclose(features.pooled, want, rtol=1e-3, atol=1e-3)
  if feature_norm == "batch":  # what evaluation will use: a tenth of it is new
    np.testing.assert_allclose(
      batch_stats["feature_norm"]["var"], 0.9 + 0.1 * variance[0], rtol=1e-4
    )
  none, _ = apply(variables, _images(5), train=False)
  assert none.local is None


def test_every_parameter_has_a_finite_gradient():
  for norm in ("batch", "group", "none"):
    apply, variables = _net(norm)

    def loss(params, apply=apply, variables=variables):
      features, _ = apply(
        {**variables, "params": params}, _images(4), train=True
      )
      return (
        features.pooled
        * jnp.sin(jnp.arange(features.pooled.size)).reshape(
          features.pooled.shape
        )
      ).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
      assert np.isfinite(leaf).all(), path
      assert np.abs(leaf).max() > 1e-4, (norm, path)


@pytest.mark.parametrize("norms", (("batch", "layer"), ("none", "batch")))
def test_batch_norm_over_8_devices_equals_1_device(norms):
  apply, variables = _net(*norms)
  scale = jnp.repeat(jnp.linspace(0.2, 3.0, 8), 2)[:, None, None, None]
  images = _images(16) * scale

  def loss(params, images):
    features, batch_stats = apply(
      {**variables, "params": params}, images, train=True
    )
    weights = jnp.sin(jnp.arange(features.pooled.size))
    return (features.pooled.ravel() * weights).mean(), batch_stats

  gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
  results = []
  for count in (1, 8):
    devices = mesh.make_mesh(jax.devices()[:count])
    assert devices.size == count
    results.append(
      gradient(
        jax.device_put(variables["params"], mesh.replicated(devices)),
        jax.device_put(images, mesh.batch(devices)),
      )
    )
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


def test_training_and_evaluation_modes():
  apply, variables = _net()
  images = _images(8)
  trained, batch_stats = apply(variables, images, train=True)
  part, _ = apply(variables, images[:3], train=True)
  assert np.abs(part.pooled - trained.pooled[:3]).max() > 1e-3
  for old, new in zip(
    jax.tree.leaves(variables["batch_stats"]),
    jax.tree.leaves(batch_stats),
    strict=True,
  ):
    assert np.abs(old - new).max() > 1e-3
  evaluated, same = apply(variables, images, train=False)
  assert jax.tree.all(
    jax.tree.map(np.array_equal, same, variables["batch_stats"])
  )
  part, _ = apply(variables, images[:3], train=False)
  np.testing.assert_allclose(part.pooled, evaluated.pooled[:3], atol=1e-5)


@pytest.mark.parametrize("norm", ("group", "none"))
def test_without_batch_norm_images_are_kept_apart(norm):
  apply, variables = _net(norm, feature_norm="layer")
  assert variables["batch_stats"] == {}
  images = _images(4)
  all_rows, batch_stats = apply(variables, images, train=True)
  assert batch_stats == {}
  other = images.at[1:].set(_images(3, seed=2))
  first, _ = apply(variables, other, train=True)
  np.testing.assert_allclose(first.pooled[0], all_rows.pooled[0], atol=1e-5)
  assert np.abs(first.pooled[1:] - all_rows.pooled[1:]).max() > 1e-2


def test_bfloat16_is_close_and_keeps_float32_outside():
  apply, variables = _net()
  half, half_variables = _net(dtype=jnp.bfloat16)
  images = _images(8)
  exact, _ = apply(variables, images, train=True, local=True)
  close, stats = half(variables, images, train=True, local=True)
  for leaf in jax.tree.leaves((half_variables, close, stats)):
    assert leaf.dtype == jnp.float32
  error = np.abs(close.pooled - exact.pooled).max()
  assert 0 < error < 0.05 * np.abs(exact.pooled).max()


@pytest.mark.parametrize(
  ("options", "message"),
  (
    ({"norm": "layer"}, "encoder.norm: given 'layer'; allowed: one of batch"),
    ({"feature_norm": "group"}, "encoder.feature_norm: given 'group'; allowed"),
    ({"width": 0.01}, "encoder.width: given 0.01; allowed: a finite number >="),
    ({"width": float("nan")}, "encoder.width: given nan"),
    ({"width": 1e9}, "encoder.width: given 1000000000.0"),
    (
      {"norm": "group", "group_size": 12},
      "encoder.group_size: given 12; allowed: a divisor of 16 channels",
    ),
  ),
)
def test_bad_options(options, message):
  with pytest.raises(errors.UsageError, match=message):
    _make(**options)

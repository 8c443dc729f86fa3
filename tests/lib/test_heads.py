"""Heads: against hand-written numpy, and their batch norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors, heads

_KEY = jax.random.key(0)
_X = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)


def test_projection_head_is_linear_relu_linear():
  head = heads.mlp([0], 3)
  variables = head.init(_KEY, 5)
  y, batch_stats = head.apply(variables, _X, True)
  params = jax.tree.map(np.asarray, variables["params"])
  first, last = params["linear0"], params["linear_out"]
  assert first["kernel"].shape == (5, 5)  # 0: as wide as the features
  hidden = np.maximum(_X @ first["kernel"] + first["bias"], 0)
  np.testing.assert_allclose(
    y, hidden @ last["kernel"] + last["bias"], rtol=1e-5, atol=1e-6
  )
  assert batch_stats == variables["batch_stats"] == {}
  evaluated, _ = head.apply(variables, _X, False)
  np.testing.assert_array_equal(evaluated, y)


def test_shapes_and_float32():
  head = heads.mlp([7, 0], 3)
  variables = head.init(_KEY, 5)
  shapes = jax.tree.map(lambda leaf: leaf.shape, variables["params"])
  assert shapes == {
    "linear0": {"kernel": (5, 7), "bias": (7,)},
    "linear1": {"kernel": (7, 5), "bias": (5,)},
    "linear_out": {"kernel": (5, 3), "bias": (3,)},
  }
  y, _ = head.apply(variables, _X.astype(jnp.bfloat16), True)
  assert y.shape == (6, 2, 3)
  assert y.dtype == jnp.float32
  linear = heads.mlp([], 4, out_bias=False).init(_KEY, 5)["params"]
  assert jax.tree.map(jnp.shape, linear) == {"linear_out": {"kernel": (5, 4)}}


def test_initialization_is_that_of_torch():
  params = heads.mlp([400], 300).init(_KEY, 100)["params"]
  for name, fan_in in (("linear0", 100), ("linear_out", 400)):
    for leaf in params[name].values():
      scaled = np.asarray(leaf).ravel() * fan_in**0.5
      assert 0.97 < np.abs(scaled).max() <= 1
      assert abs(scaled.std() - 3**-0.5) < 0.05
  assert not np.array_equal(
    params["linear0"]["kernel"][0, :300], params["linear_out"]["bias"]
  )


def test_batch_norm_by_hand_in_both_modes():
  head = heads.mlp([8], 3, batch_norm=True, out_batch_norm=True)
  variables = head.init(_KEY, 5)
  params = jax.tree.map(np.asarray, variables["params"])
  assert params["linear0"].keys() == params["linear_out"].keys() == {"kernel"}
  assert "norm_out" not in params  # no scale, no shift
  params["norm0"] = {
    "scale": np.linspace(0.5, 2, 8, dtype=np.float32),
    "bias": np.linspace(-1, 1, 8, dtype=np.float32),
  }
  variables = {**variables, "params": params}

  def normalize(x):
    mean, var = x.mean(axis=(0, 1)), x.var(axis=(0, 1))
    return (x - mean) / np.sqrt(var + 1e-5), mean, var

  hidden, mean, var = normalize(_X @ params["linear0"]["kernel"])
  hidden = hidden * params["norm0"]["scale"] + params["norm0"]["bias"]
  want, *_ = normalize(np.maximum(hidden, 0) @ params["linear_out"]["kernel"])
  train = jax.jit(lambda variables: head.apply(variables, _X, True))
  y, batch_stats = train(variables)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(batch_stats["norm0"]["mean"], 0.1 * mean, 1e-4)
  np.testing.assert_allclose(batch_stats["norm0"]["var"], 0.9 + 0.1 * var, 1e-4)
  for _ in range(120):
    _, batch_stats = train({**variables, "batch_stats": batch_stats})
  evaluated, same = head.apply(
    {**variables, "batch_stats": batch_stats}, _X, False
  )
  np.testing.assert_allclose(evaluated, want, rtol=1e-3, atol=1e-3)
  assert same is batch_stats


def test_gradient_equals_finite_differences():
  head = heads.mlp([4], 2, batch_norm=True)
  variables = head.init(_KEY, 5)

  @jax.jit
  def loss(x):
    return (head.apply(variables, x, True)[0] ** 2).sum()

  direction = np.random.default_rng(1).normal(size=_X.shape)
  direction = direction.astype(np.float32)
  step = 1e-2
  numeric = (loss(_X + step * direction) - loss(_X - step * direction)) / (
    2 * step
  )
  analytic = (jax.jit(jax.grad(loss))(_X) * direction).sum()
  assert abs(analytic) > 1e-2
  np.testing.assert_allclose(analytic, numeric, rtol=2e-2)


def test_bad_widths():
  with pytest.raises(errors.UsageError, match=r"hidden widths .* \[-1\]"):
    heads.mlp([-1], 3)
  with pytest.raises(errors.UsageError, match="out must be >= 1, got 0"):
    heads.mlp([], 0)


def test_shortcut_and_layer_norm_by_hand():
  """DIM's score networks: their shortcut starts near the identity."""
  head = heads.mlp([8], 3, shortcut=True, out_layer_norm=True)
  variables = head.init(_KEY, 5)
  params = jax.tree.map(np.asarray, variables["params"])
  shortcut = params["shortcut"].pop("kernel")
  assert params["shortcut"] == {} and shortcut.shape == (5, 3)
  noise = shortcut - np.eye(5, 3)
  assert (noise.diagonal() == 0).all() and 0 < np.abs(noise).max() <= 0.01
  assert np.count_nonzero(noise) == 12
  first, last = params["linear0"], params["linear_out"]
  hidden = np.maximum(_X @ first["kernel"] + first["bias"], 0)
  want = hidden @ last["kernel"] + last["bias"] + _X @ shortcut
  want -= want.mean(axis=-1, keepdims=True)
  want /= np.sqrt(want.var(axis=-1, keepdims=True) + 1e-6)
  y, batch_stats = head.apply(variables, _X, True)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
  assert batch_stats == {}

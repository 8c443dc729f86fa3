"""The BigGAN family's layers against slow twins in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import _biggan
from genrep_jax.lib import errors

RNG = np.random.default_rng(0)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def slow_attention(x, layer):
  """One query at a time, float64."""
  n, h, w, c = x.shape
  out = np.zeros((n, h, w, c))
  for b in range(n):
    keys, values = [], []
    for i in range(0, h, 2):
      for j in range(0, w, 2):
        window = x[b, i : i + 2, j : j + 2].reshape(4, c)
        keys.append((window @ layer["phi"]).max(0))
        values.append((window @ layer["g"]).max(0))
    for i in range(h):
      for j in range(w):
        scores = np.array(keys) @ (x[b, i, j] @ layer["theta"])
        weights = np.exp(scores - scores.max())
        mixed = weights / weights.sum() @ np.array(values)
        out[b, i, j] = x[b, i, j] + layer["gamma"] * (mixed @ layer["out"])
  return out


def test_attention():
  shapes = _biggan.attention_shapes(16)
  layer = {name: draw(*shape) for name, shape in shapes.items()}
  layer["gamma"] = np.float32(0.7)
  x = draw(2, 4, 6, 16)
  slow = slow_attention(
    np.float64(x), {k: np.float64(v) for k, v in layer.items()}
  )
  fast = _biggan.attention(x, {k: jnp.asarray(v) for k, v in layer.items()})
  np.testing.assert_allclose(fast, slow, atol=1e-4)
  scaled = {**layer, "theta": layer["theta"] / np.sqrt(2)}  # 1/sqrt(d), d = 2
  assert np.abs(slow_attention(x, scaled) - slow).max() > 1e-2


def test_batch_norm_and_modulation():
  x, condition = draw(2, 3, 3, 4), draw(2, 5)
  gain_kernel, bias_kernel = draw(5, 4), draw(5, 4)
  mean, var = draw(4), np.abs(draw(4))
  gain, bias = _biggan.modulation(condition, gain_kernel, bias_kernel)
  y = _biggan.batch_norm_relu(x, gain, bias, mean, var, 0.1)
  for b in range(2):
    normal = (x[b] - mean) / np.sqrt(var + 0.1)
    slow = (
      normal * (1 + condition[b] @ gain_kernel) + condition[b] @ bias_kernel
    )
    np.testing.assert_allclose(y[b], np.maximum(slow, 0), atol=1e-5)
  half = _biggan.batch_norm_relu(
    x.astype(jnp.bfloat16), gain, bias, mean, var, 0.1
  )
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(half), y, rtol=0.05, atol=0.1)


def test_upsample_repeats_pixels():
  x = draw(2, 3, 5, 2)
  np.testing.assert_array_equal(
    _biggan.upsample(x), x.repeat(2, axis=1).repeat(2, axis=2)
  )


def test_sigmas():
  weight = draw(6, 2, 3, 3)
  matrix = np.float64(weight).reshape(6, 18)
  u, values, v = np.linalg.svd(matrix, full_matrices=False)
  top = values[0]
  # At the singular vectors both rules give the norm.
  np.testing.assert_allclose(
    _biggan.stored_sigma(weight, u[:, 0], v[0]), top, rtol=1e-9
  )
  np.testing.assert_allclose(
    _biggan.stepped_sigma(weight, u[None, :, 0]), top, rtol=1e-9
  )
  # Elsewhere each is its own formula.
  u0, v0 = draw(6), draw(18)
  stored = sum(
    float(u0[i]) * matrix[i, j] * v0[j] for i in range(6) for j in range(18)
  )
  np.testing.assert_allclose(
    _biggan.stored_sigma(weight, u0, v0), stored, rtol=1e-6
  )
  half = np.float64(u0) @ matrix
  stepped = np.linalg.norm(matrix @ half) / np.linalg.norm(half)
  np.testing.assert_allclose(
    _biggan.stepped_sigma(weight, u0[None]), stepped, rtol=1e-6
  )
  assert stepped < 0.999 * top


@pytest.mark.parametrize("sigma", [0.0, float("nan")])
def test_a_useless_sigma_is_refused(sigma):
  with pytest.raises(errors.UsageError, match="gen_z has spectral norm"):
    _biggan.divide("gen_z", np.ones((2, 2)), sigma)

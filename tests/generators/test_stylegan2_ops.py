"""StyleGAN2's operations against slow twins that follow the definitions."""

import jax
import numpy as np
import pytest

from genrep_jax.generators import _stylegan2_ops as ops

RANDOM = np.random.default_rng(0)


def normal(*shape):
  return RANDOM.normal(size=shape).astype(np.float32)


def slow_upfirdn(x, taps, *, up, pad, gain):
  """Inserts zeros, pads (before, after), convolves each axis in turn."""
  n, h, w, c = x.shape
  wide = np.zeros((n, h * up, w * up, c))
  wide[:, ::up, ::up] = x
  wide = np.pad(wide, ((0, 0), pad, pad, (0, 0)))
  kernel = np.outer(taps, taps) / np.sum(taps) ** 2 * gain
  size = len(taps)
  out_h, out_w = (s - size + 1 for s in wide.shape[1:3])
  out = np.zeros((n, out_h, out_w, c))
  for i in range(size):
    for j in range(size):
      # A convolution flips its kernel.
      weight = kernel[size - 1 - i, size - 1 - j]
      out += weight * wide[:, i : i + out_h, j : j + out_w]
  return out


def slow_transposed_conv(x, kernel):
  """Every input pixel stamps the kernel at twice its position."""
  n, h, w, _ = x.shape
  out = np.zeros((n, 2 * h + 1, 2 * w + 1, kernel.shape[-1]))
  for i in range(h):
    for j in range(w):
      stamp = np.einsum("nc,abco->nabo", x[:, i, j], kernel)
      out[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += stamp
  return out


def slow_conv(x, kernel):
  """Correlates with zero padding."""
  k = kernel.shape[0]
  pad = k // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  out = np.zeros((*x.shape[:3], kernel.shape[-1]))
  for i in range(k):
    for j in range(k):
      window = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
      out += window @ kernel[i, j]
  return out


def slow_modulated(x, kernel, style, up, demodulate):
  """One explicitly modulated kernel per sample, as equations 1 and 3 say."""
  rows = []
  for one, s in zip(np.float64(x), np.float64(style)):
    modulated = kernel * s[:, None]
    if demodulate:
      power = np.sum(modulated**2, axis=(0, 1, 2))
      modulated = modulated / np.sqrt(power + 1e-8)
    if up:
      y = slow_transposed_conv(one[None], modulated)
      y = slow_upfirdn(y, ops.FIR, up=1, pad=(1, 1), gain=4)
    else:
      y = slow_conv(one[None], modulated)
    rows.append(y[0])
  return np.stack(rows)


def test_upsample_is_zero_insertion_and_the_filter():
  x = normal(2, 3, 5, 2)
  twin = slow_upfirdn(x, ops.FIR, up=2, pad=(2, 1), gain=4)
  np.testing.assert_allclose(jax.jit(ops.upsample)(x), twin, atol=1e-6)


def test_transposed_conv_stamps_its_kernel():
  x, kernel = normal(2, 3, 4, 3), normal(3, 3, 3, 5)
  got = jax.jit(ops.transposed_conv)(x, kernel)
  twin = slow_transposed_conv(x, kernel)
  np.testing.assert_allclose(got[:, :-1, :-1], twin, atol=1e-5)
  assert not np.any(got[:, -1]) and not np.any(got[:, :, -1])
  # The kernel is not symmetric, so a flip is seen.
  assert (
    np.abs(got[:, :-1, :-1] - slow_transposed_conv(x, kernel[::-1])).max() > 1
  )


def test_up_conv_filters_with_gain_four():
  x, kernel = normal(1, 4, 3, 2), normal(3, 3, 2, 3)
  twin = slow_upfirdn(
    slow_transposed_conv(x, kernel), ops.FIR, up=1, pad=(1, 1), gain=4
  )
  assert twin.shape == (1, 8, 6, 3)
  np.testing.assert_allclose(jax.jit(ops.up_conv)(x, kernel), twin, atol=1e-5)


@pytest.mark.parametrize(
  ("size", "up", "demodulate"),
  [(3, False, True), (3, True, True), (1, False, False)],
)
def test_modulated_conv_is_a_kernel_per_sample(size, up, demodulate):
  x, kernel = normal(3, 4, 4, 3), normal(size, size, 3, 5)
  style = normal(3, 3)
  fast = jax.jit(
    lambda x, k, s: ops.modulated_conv(x, k, s, up=up, demodulate=demodulate)
  )
  twin = slow_modulated(x, kernel, style, up, demodulate)
  np.testing.assert_allclose(fast(x, kernel, style), twin, atol=2e-5)


def test_demodulation_of_a_dead_filter_is_finite():
  # Inside the root, epsilon bounds the scale by 1e4.
  d = ops.demodulation(np.zeros((3, 3, 2, 4), np.float32), normal(1, 2))
  np.testing.assert_allclose(d, 1e4, rtol=1e-5)


def test_normalization_and_activation():
  x = normal(3, 7)
  np.testing.assert_allclose(
    ops.pixel_norm(x),
    x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-8),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    ops.leaky_relu(x), np.sqrt(2) * np.where(x > 0, x, 0.2 * x), rtol=1e-5
  )

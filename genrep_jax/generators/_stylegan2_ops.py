"""StyleGAN2's operations: modulated convolution and FIR resampling.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
section 2 and appendix B; layouts are JAX's: images [n h w c], kernels
[h w in out]. The filter is the binomial [1, 3, 3, 1] everywhere.

No operation here dilates its input or groups a convolution: XLA runs both
slowly, on CPUs above all. A transposed convolution is one 2x2 convolution with
an output per phase, then depth-to-space; a per-sample kernel is a per-sample
scale of the input and of the output of one shared kernel.
"""

import jax
import jax.numpy as jnp

FIR = (1.0, 3.0, 3.0, 1.0)
_EPSILON = 1e-8


def pixel_norm(x: jax.Array) -> jax.Array:
  """Divides x [n d] by its root mean square over d."""
  return x * jax.lax.rsqrt(
    jnp.mean(jnp.square(x), axis=-1, keepdims=True) + _EPSILON
  )


def leaky_relu(x: jax.Array) -> jax.Array:
  """Leaky ReLU of slope 0.2, times sqrt(2) to keep the variance."""
  return jnp.where(x >= 0, x, 0.2 * x) * jnp.asarray(2**0.5, x.dtype)


def demodulation(kernel: jax.Array, style: jax.Array) -> jax.Array:
  """One over the norm of each modulated filter (equation 3).

  Args:
    kernel: [h w in out].
    style: [n in].

  Returns:
    float32 [n out].
  """
  power = jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=(0, 1))
  total = jnp.square(style.astype(jnp.float32)) @ power
  return jax.lax.rsqrt(total + _EPSILON)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Correlates x [n h w c] with kernel [k k c o], "same" padding."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def depth_to_space(x: jax.Array) -> jax.Array:
  """Moves channels to pixels: [n h w 4c] -> [n 2h 2w c]."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, 2, 2, c // 4)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def _phases(kernel):
  """Splits taps [3 ...] into what even and odd outputs see: [2 phases, 2 ...].

  y[2i + k] += x[i] w[k]: y[2m] = x[m-1] w[2] + x[m] w[0], y[2m+1] = x[m] w[1].
  """
  even = jnp.stack([kernel[2], kernel[0]])
  odd = jnp.stack([jnp.zeros_like(kernel[1]), kernel[1]])
  return jnp.stack([even, odd])


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Transposed 3x3 convolution of stride 2, no padding: y[2i+k] += x[i] w[k].

  Args:
    x: [n h w c].
    kernel: [3 3 c o], as torch's conv_transpose takes it (not flipped).

  Returns:
    [n 2h+2 2w+2 o]: the 2h+1 rows and columns, then zeros.
  """
  channels = kernel.shape[-1]
  rows = _phases(kernel)  # [row phase, row tap, 3, c, o]
  both = jnp.moveaxis(_phases(jnp.moveaxis(rows, 2, 0)), (0, 1), (1, 3))
  # [row phase, column phase, row tap, column tap, c, o]
  merged = both.transpose(2, 3, 4, 0, 1, 5).reshape(2, 2, -1, 4 * channels)
  y = jax.lax.conv_general_dilated(
    x,
    merged,
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return depth_to_space(y)


def _filter(x, axis, gain):
  """Convolves one axis with FIR, summing to `gain`; it gets 3 shorter."""
  size = x.shape[axis] - len(FIR) + 1
  taps = [
    jax.lax.slice_in_dim(x, k, k + size, axis=axis)
    * jnp.asarray(gain * weight / sum(FIR), x.dtype)
    for k, weight in enumerate(FIR)
  ]
  return sum(taps[1:], taps[0])


def up_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Doubles the resolution by a transposed convolution, then smooths.

  Args:
    x: [n h w c].
    kernel: [3 3 c o].

  Returns:
    [n 2h 2w o]: the filter has gain 4 and pads 1 on each side.
  """
  y = transposed_conv(x, kernel)
  # The zero row and column at the far end are one of the pads.
  y = jnp.pad(y, ((0, 0), (1, 0), (1, 0), (0, 0)))
  return _filter(_filter(y, 1, 2.0), 2, 2.0)


def upsample(x: jax.Array) -> jax.Array:
  """Doubles the resolution of an image [n h w c] by FIR, gain 4.

  The same as inserting zeros, padding (2, 1) and filtering: an even output is
  (x[m-1] + 3 x[m]) / 4 and an odd one (3 x[m] + x[m+1]) / 4.
  """
  for axis in (1, 2):
    size = x.shape[axis]
    pads = [(0, 0)] * 4
    pads[axis] = (1, 1)
    padded = jnp.pad(x, pads)
    before, here, after = (
      jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3)
    )
    pair = jnp.stack(
      [(before + 3 * here) / 4, (3 * here + after) / 4], axis=axis + 1
    )
    shape = list(x.shape)
    shape[axis] *= 2
    x = pair.reshape(shape)
  return x


def modulated_conv(
  x: jax.Array,
  kernel: jax.Array,
  style: jax.Array,
  *,
  up: bool = False,
  demodulate: bool = True,
) -> jax.Array:
  """Convolves each sample with its own modulated kernel (equations 1 and 3).

  Computed as conv(x * style, kernel) * demodulation: a scale of the kernel's
  inputs and outputs is a scale of the map before and after.

  Args:
    x: [n h w c].
    kernel: [k k c o], shared.
    style: float32 [n c].
    up: doubles the resolution (3x3 kernels only).
    demodulate: whether filters are scaled to norm one.

  Returns:
    [n h w o], or [n 2h 2w o], of x's type.
  """
  dtype = x.dtype
  x = x * style[:, None, None, :].astype(dtype)
  x = (up_conv if up else conv)(x, kernel.astype(dtype))
  if demodulate:
    x = x * demodulation(kernel, style)[:, None, None, :].astype(dtype)
  return x

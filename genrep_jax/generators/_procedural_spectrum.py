"""Random images with the spectrum, and the colors, of natural ones.

Baradad et al. 2021, "Learning to See by Looking at Noise", section 3.2: white
noise is given a magnitude 1 / (|fx|^a + |fy|^b) and keeps its phase; its three
channels are the principal axes of a random set of colors. With `color` each
channel is also given that axis's histogram; the two are imposed in turn.

Departures from the recipe, and why:
- without `color` the spectrum is imposed once: its ten times are the same;
- the reference of the colors has exactly the drawn proportions, where the
  recipe counts that many pixels by a multinomial; its bands lie along the
  image's rows, so that the box blur runs down the columns only; its dither is
  the same in every image: all so that a latent is not three times as long;
- principal axes, which have no sign, are turned to have a positive sum, so
  that a small move of the latent rarely turns one over;
- histograms are matched through 256 quantiles, not 256 bins: differentiable.
The wavelet marginal model (WMM) of the paper is not here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.generators import _procedural_latent as latent

_SLOPES = (0.5, 3.5)  # of the magnitude, uniform
_SKEW = (_SLOPES[1] - _SLOPES[0]) / 60  # std of (a - b) / 2
_COLORS = (3, 22)  # how many, uniform
_BLUR_PX = 10  # widest
_DITHER = 10 / 256
_QUANTILES = 256


def fields(cfg) -> latent.Fields:
  """Returns the fields of the latent, the same with and without `color`."""
  size, most = cfg.resolution, _COLORS[1]
  return {
    "noise": (3, size, size),
    "slope": (),
    "skew": (),
    "count": (),
    "share": (most,),
    "color": (most, 3),
    "blur": (),
  }


def slopes(normals) -> tuple[jax.Array, jax.Array]:
  """Returns the exponents (a, b) of fx and fy, from standard normals."""
  low, high = _SLOPES
  s = low + (high - low) * latent.uniform(normals["slope"])
  d = _SKEW * normals["skew"]
  return s + d, s - d


def magnitude(size: int, a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns 1 / (|fx|^a + |fy|^b), [fy fx] in cycles per pixel; DC is 0."""
  f = jnp.abs(jnp.fft.fftfreq(size))

  def power(exponent):  # 0^a = 0, but its derivative takes the log of 0
    return jnp.where(f > 0, jnp.where(f > 0, f, 1.0) ** exponent, 0.0)

  total = power(a)[None, :] + power(b)[:, None]
  return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1.0), 0.0)


def impose_spectrum(x: jax.Array, wanted: jax.Array) -> jax.Array:
  """Gives channels a magnitude; keeps their phases, means and deviations.

  Args:
    x: [c h w].
    wanted: [h w].

  Returns:
    [c h w].
  """
  mean = x.mean((1, 2), keepdims=True)
  centered = x - mean
  transform = jnp.fft.fft2(centered)
  power = transform.real**2 + transform.imag**2
  phase = transform * jax.lax.rsqrt(power + 1e-12)
  y = jnp.fft.ifft2(phase * wanted).real
  return y * (_deviation(centered) / _deviation(y)) + mean


def _deviation(x):
  """Standard deviation of centered channels [c h w]."""
  return jnp.sqrt(jnp.mean(jnp.square(x), (1, 2), keepdims=True))


def reference_colors(size: int, normals) -> jax.Array:
  """Draws the colors an image is to have: a blurred mondrian.

  Args:
    size: side in pixels.
    normals: standard normals of `fields`.

  Returns:
    [h w 3] in [0, 1].
  """
  u = {name: latent.uniform(normals[name]) for name in ("count", "share")}
  fewest, most = _COLORS
  count = fewest + jnp.floor(u["count"] * (most - fewest + 1))
  share = jnp.where(jnp.arange(most) < count, 0.001 + u["share"], 0.0)
  ends = jnp.cumsum(share) / jnp.sum(share)
  at = (jnp.arange(size * size) + 0.5) / size**2
  index = jnp.minimum(jnp.searchsorted(ends, at), count.astype(int) - 1)
  bands = latent.uniform(normals["color"])[index].reshape(size, size, 3)
  # A box of width 1..10, around the pixel.
  width = jnp.clip(jnp.ceil(latent.uniform(normals["blur"]) * _BLUR_PX), 1)
  before = (_BLUR_PX - 1) // 2
  padded = jnp.pad(bands, ((before, _BLUR_PX // 2), (0, 0), (0, 0)), "edge")
  blurred = jnp.zeros_like(bands)
  for nth in range(_BLUR_PX):  # offsets 0, 1, -1, 2, -2, ..., 5
    offset = (nth + 1) // 2 * (1 if nth % 2 else -1)
    start = before + offset
    weight = jnp.where(nth < width, 1 / width, 0.0)
    blurred += weight * padded[start : start + size]
  dithered = blurred + _DITHER * _dither(size)
  return (latent.stretch(dithered) + 1) / 2


def _dither(size: int) -> np.ndarray:
  """Returns [h w 3] numbers in [0, 1), spread evenly and without a pattern."""
  steps = np.sqrt([2.0, 3.0, 5.0])  # irrational, and so are their ratios
  at = np.arange(size * size)[:, None] * steps % 1
  return at.reshape(size, size, 3).astype(np.float32)


def principal_axes(colors: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the mean [3] and the principal axes [3 axis] of colors [n 3]."""
  mean = colors.mean(0)
  centered = colors - mean
  _, axes = jnp.linalg.eigh(centered.T @ centered / colors.shape[0])
  return mean, axes * jnp.where(axes.sum(0) < 0, -1.0, 1.0)


def _quantiles(x):
  """Returns quantiles [c q] of channels [c n], the extremes included."""
  count = x.shape[1]
  at = jnp.linspace(0, count - 1, min(_QUANTILES, count)).round().astype(int)
  return jnp.sort(x, axis=1)[:, at]


def impose_histogram(x: jax.Array, wanted: jax.Array) -> jax.Array:
  """Maps channels [c h w] to have the quantiles `wanted` [c q]."""
  flat = x.reshape(x.shape[0], -1)
  mapped = jax.vmap(jnp.interp)(flat, _quantiles(flat), wanted)
  return mapped.reshape(x.shape)


def image(cfg, z: jax.Array, *, color: bool) -> jax.Array:
  """Draws one image [h w 3] that fills [-1, 1], of a latent."""
  size = cfg.resolution
  normals = latent.split(z, fields(cfg))
  wanted = magnitude(size, *slopes(normals))
  colors = reference_colors(size, normals).reshape(-1, 3)
  mean, axes = principal_axes(colors)
  x = latent.uniform(normals["noise"])
  if color:
    histogram = _quantiles(((colors - mean) @ axes).T)

    def project(x, _):
      x = impose_spectrum(x, wanted)
      return impose_histogram(x, histogram), None

    x, _ = jax.lax.scan(project, x, None, length=cfg.iterations)
  else:
    x = impose_spectrum(x, wanted)
  return latent.stretch(jnp.einsum("ahw,ca->hwc", x, axes) + mean)

"""Statistics of the spectrum and untrained-StyleGAN2 recipes."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.generators import (
  _procedural_latent as latent,
  _procedural_spectrum as spectrum,
  _procedural_stylegan as stylegan,
  _stylegan2_ops as ops,
)
from genrep_jax.lib import plugins

KEY = jax.random.key(0)


def normals(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def config(**options):
  return ml_collections.ConfigDict(
    plugins.defaults("generators", "procedural") | options
  )


def test_slopes():
  z = normals(2, 20_000)
  a, b = jax.jit(spectrum.slopes)({"slope": z[0], "skew": z[1]})
  mean, half = np.asarray(a + b) / 2, np.asarray(a - b) / 2
  np.testing.assert_allclose(
    np.quantile(mean, [0.0, 0.25, 0.5, 0.75, 1.0]),
    [0.5, 1.25, 2.0, 2.75, 3.5],
    atol=0.04,
  )
  np.testing.assert_allclose([half.mean(), half.std()], [0, 0.05], atol=1e-3)


def test_spectrum_is_imposed_and_the_rest_kept():
  a, b, size = 1.7, 1.2, 32
  noise = np.random.default_rng(0).random((3, size, size), np.float32)

  @jax.jit
  def run(noise):
    wanted = spectrum.magnitude(size, jnp.float32(a), jnp.float32(b))
    x = spectrum.impose_spectrum(noise, wanted)
    return wanted, x, spectrum.impose_spectrum(x, wanted)

  wanted, x, again = map(np.asarray, run(noise))
  f = np.abs(np.fft.fftfreq(size))
  with np.errstate(divide="ignore"):
    expected = 1 / (f[None, :] ** a + f[:, None] ** b)
  expected[0, 0] = 0
  np.testing.assert_allclose(wanted, expected, rtol=1e-5)
  np.testing.assert_allclose(x.mean((1, 2)), noise.mean((1, 2)), atol=1e-5)
  np.testing.assert_allclose(x.std((1, 2)), noise.std((1, 2)), rtol=1e-4)
  before, after = np.fft.fft2(noise), np.fft.fft2(np.float64(x))
  ratio = np.abs(after[0]).ravel()[1:] / expected.ravel()[1:]
  np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
  turn = (after / before).ravel()
  turn = np.delete(turn, [0, size**2, 2 * size**2])  # but the means
  np.testing.assert_allclose(np.angle(turn), 0, atol=1e-2)
  # Why without colors one projection is enough:
  np.testing.assert_allclose(again, x, atol=1e-4)


@pytest.mark.slow
def test_the_slope_of_drawn_images():
  cfg = config(kind="spectrum", resolution=32)
  fields = spectrum.fields(cfg)
  z = jax.random.normal(KEY, (latent.size(fields),))
  start = latent.size({"noise": fields["noise"]})
  z = z.at[start : start + 2].set(jnp.array([0.0, 10.0]))  # s = 2, d = 0.5
  image = np.asarray(jax.jit(lambda z: spectrum.image(cfg, z, color=False))(z))
  power = np.sum(np.abs(np.fft.fft2(image, axes=(0, 1))) ** 2, -1)
  at = np.arange(1, 16)
  for line, slope in ((power[0, 1:16], 2.5), (power[1:16, 0], 1.5)):
    fitted = np.polyfit(np.log(at), np.log(line) / 2, 1)[0]
    np.testing.assert_allclose(fitted, -slope, atol=0.25)


def test_reference_colors():
  size = 32
  fields = {
    "count": np.float32(-9.0),  # the fewest: three
    "share": np.float32([0.0, 9.0, 0.0] + [9.0] * 19),  # half, one, half
    "color": normals(22, 3),
    "blur": np.float32(-9.0),  # none
  }
  draw = jax.jit(lambda fields: spectrum.reference_colors(size, fields))
  dither = spectrum._dither(size)
  assert 0 <= dither.min() and dither.max() < 1
  np.testing.assert_allclose(dither.mean((0, 1)), 0.5, atol=0.01)
  # A quarter, a half and a quarter of the pixels have the three colors.
  colors = np.asarray(latent.uniform(fields["color"]))
  of_pixel = np.repeat([0, 1, 2], [size**2 // 4, size**2 // 2, size**2 // 4])
  bands = colors[of_pixel].reshape(size, size, 3)
  for blur, width in ((-9.0, 1), (0.0, 5), (9.0, 10)):
    padded = np.pad(bands, ((10, 10), (0, 0), (0, 0)), "edge")
    start = 10 - (width - 1) // 2
    expected = np.mean(
      [padded[start + k : start + k + size] for k in range(width)], axis=0
    )
    expected = expected + 10 / 256 * dither
    expected -= expected.min()
    image = np.asarray(draw(fields | {"blur": np.float32(blur)}))
    # One pixel may lie on the edge of a band.
    wrong = np.abs(image - expected / expected.max()).max(-1) > 1e-4
    assert wrong.sum() <= 2 * width


def test_axes_and_histograms():
  rng = np.random.default_rng(0)
  colors = rng.uniform(size=(500, 3)) @ rng.normal(size=(3, 3))
  mean, axes = map(
    np.asarray, jax.jit(spectrum.principal_axes)(np.float32(colors))
  )
  np.testing.assert_allclose(mean, colors.mean(0), atol=1e-5)
  assert (axes.sum(0) > 0).all()
  covariance = np.cov(((colors - mean) @ axes).T)
  np.testing.assert_allclose(
    covariance, np.diag(np.diag(covariance)), atol=1e-4
  )
  wanted = np.sort(rng.exponential(size=(2, 1024)))
  at = np.linspace(0, 1023, 256).round().astype(int)
  x = np.float32(rng.normal(size=(2, 32, 32)))
  y = jax.jit(spectrum.impose_histogram)(x, wanted[:, at])
  order = np.argsort(x.reshape(2, -1), axis=1)
  y = np.take_along_axis(np.asarray(y).reshape(2, -1), order, 1)
  assert (np.diff(y, axis=1) >= 0).all()  # a monotone map
  np.testing.assert_allclose(y[:, at], wanted[:, at], atol=1e-4)


@pytest.mark.slow
def test_spectrum_color_has_the_colors():
  """Along the principal axes, an image's quantiles are the reference's."""
  cfg = config(kind="spectrum_color", resolution=32, iterations=4)
  z = jax.random.normal(KEY, (latent.size(spectrum.fields(cfg)),))
  image = np.asarray(jax.jit(lambda z: spectrum.image(cfg, z, color=True))(z))
  normals = latent.split(z, spectrum.fields(cfg))
  colors = spectrum.reference_colors(32, normals).reshape(-1, 3)
  mean, axes = spectrum.principal_axes(colors)
  target = np.sort(np.asarray((colors - mean) @ axes), axis=0)
  found = np.sort(image.reshape(-1, 3) @ np.asarray(axes), axis=0)
  for k in range(3):  # up to the last stretch, which is affine
    assert np.corrcoef(found[:, k], target[:, k])[0, 1] > 0.999


@pytest.mark.parametrize("variant", ["high_freq", "oriented"])
def test_wavelets(variant):
  bank = stylegan.wavelets(variant)
  assert bank.shape == (40, 3, 3)
  # Copies count: a bank says how often a filter is drawn. These many are
  # different in the recipe's banks, which PIL rotates.
  different = len(np.unique(np.round(bank + 0.0, 3), axis=0))
  assert different == {"oriented": 40, "high_freq": 32}[variant]
  np.testing.assert_array_equal(bank[20:], -bank[:20])
  np.testing.assert_allclose(bank[0], [[1, 0, -1]] * 3, atol=1e-6)
  np.testing.assert_allclose(bank[4], bank[0].T, atol=1e-6)  # 90 degrees
  line = np.float32([[1, -1, 1]] * 3)
  np.testing.assert_allclose(
    bank[8], line - line.mean() if variant == "oriented" else line, atol=1e-6
  )
  np.testing.assert_array_equal(bank[16].sum(), 1)
  np.testing.assert_array_equal(bank[17], 2 * bank[16] - 1)
  np.testing.assert_array_equal(bank[18], [[0, 1, 0], [1, 1, 1], [0, 1, 0]])
  if variant == "oriented":
    np.testing.assert_allclose(bank[:16].sum((1, 2)), 0, atol=1e-5)
  else:
    assert set(np.unique(bank)) == {-1, 0, 1}


@pytest.mark.parametrize(
  ("variant", "name"),
  [
    pytest.param("high_freq", "b8_conv1", marks=pytest.mark.slow),
    ("oriented", "b8_conv0"),
  ],
)
def test_a_layer_is_a_modulated_convolution_with_full_kernels(variant, name):
  cfg = config(resolution=8, w_dim=4, channel_max=6, noise_maps=2)
  fields = stylegan.fields(cfg, variant)
  z = normals(2, latent.size(fields))
  rows = [latent.split(one, fields) for one in z]
  parts = {k: np.stack([one[k] for one in rows]) for k in fields}
  index = [n for n, *_ in stylegan._layers(cfg)].index(name)
  x, style = normals(2, 4, 4, 6, seed=1), normals(2, 6, seed=2)
  y = jax.jit(
    lambda x, style: stylegan._wavelet_conv(
      x, parts, name, index, style, variant
    )
  )(x, style)
  full = jax.jit(
    lambda x, kernel, style: ops.modulated_conv(
      x, kernel, style, up="conv0" in name
    )
  )
  bank = stylegan.wavelets(variant)
  for n in range(2):
    u = np.asarray(latent.uniform(parts[f"{name}_filter"][n]))
    if variant == "oriented":
      order = np.argsort(parts["order"][n, index])
      u_subset = float(latent.uniform(parts["subset"][n, index]))
      chosen = bank[order[: 5 + int(36 * u_subset)]]
    else:
      chosen = bank
    filters = chosen[(u * len(chosen)).astype(int)]  # [in 3 3]
    outputs = np.asarray(parts[f"{name}_sign"][n])  # as the recipe has them
    kernel = filters.transpose(1, 2, 0)[..., None] * outputs
    slow = full(x[n : n + 1], kernel, style[n : n + 1])
    np.testing.assert_allclose(y[n], slow[0], atol=1e-4)


def test_pink_maps():
  numbers = iter([normals(40, 1, 1), normals(40, 32, 32)] * 2)

  def take(shape):
    return normals(*shape) if shape == (40, 4, 4) else next(numbers)

  maps, sparse = map(
    np.asarray,
    jax.jit(
      lambda: [
        stylegan.pink_maps(take, 40, 32, envelope=e) for e in (False, True)
      ]
    )(),
  )
  for drawn in (maps, sparse):
    np.testing.assert_allclose(drawn.std((1, 2)), 1, rtol=1e-4)
  at = np.arange(1, 16)
  lines = np.abs(np.fft.fft2(maps))[:, 0, 1:16]
  slopes = -np.polyfit(np.log(at), np.log(lines.T), 1)[0]
  assert 0.45 < slopes.min() < 0.7 and 1.3 < slopes.max() < 1.55
  np.testing.assert_allclose(slopes.mean(), 1, atol=0.15)
  kurtosis = [np.mean((x - x.mean()) ** 4) for x in (maps, sparse)]
  assert kurtosis[0] < 4 < 5 < kurtosis[1]


def test_colors_of_untrained_networks():
  """Means and deviations of the channels, before clipping, as the recipe's."""
  image = normals(16, 16, 3) * 5 + 3
  recolor, zero = jax.jit(stylegan.recolor), np.zeros(3, np.float32)
  # So narrow that nothing is clipped.
  low = np.float32([-3.0, -3.0, -2.8])
  found = np.asarray(recolor(image, zero, low))
  deviation = np.array([0.219, 0.213, 0.213]) + low * np.array(
    [0.063, 0.062, 0.069]
  )
  np.testing.assert_allclose(found.std((0, 1)), deviation, rtol=1e-4)
  np.testing.assert_allclose(
    found.mean((0, 1)), [0.483, 0.455, 0.401], atol=1e-4
  )
  moved = np.asarray(recolor(image, zero + 1, low))
  np.testing.assert_allclose(
    (moved - found).mean((0, 1)), [0.145, 0.142, 0.161], atol=1e-4
  )
  wild = recolor(image, zero + 1, zero + 5)
  assert wild.min() == 0 and wild.max() == 1


def test_a_soft_choice_has_unit_norm():
  z = normals(500, 16)
  weights = np.asarray(jax.jit(stylegan.choice)(z))
  np.testing.assert_allclose(np.square(weights).sum(-1), 1, rtol=1e-5)
  assert np.mean(weights.max(-1)) > 0.8
  np.testing.assert_array_equal(weights.argmax(-1), z.argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["random", "sparse"])
def test_gradient_against_finite_differences(variant):
  cfg = config(resolution=8, w_dim=4, channel_max=6, noise_maps=2)
  fields = stylegan.fields(cfg, variant)
  variables = jax.jit(lambda k: stylegan.init(k, cfg, variant))(KEY)
  z = jax.random.normal(jax.random.key(1), (1, latent.size(fields)))
  weights = jax.random.normal(KEY, (8, 8, 3))

  @jax.jit
  def total(z):
    parts = jax.vmap(lambda one: latent.split(one, fields))(z)
    raw = stylegan.raw(variables, parts, cfg, variant, jnp.float32)
    return jnp.sum(weights * raw)

  gradient = jax.jit(jax.grad(total))(z)
  size = latent.size({"w": fields["w"]})  # of the styles
  along = gradient[0, :size] / jnp.linalg.norm(gradient[0, :size])
  step = jnp.zeros_like(z).at[0, :size].set(1e-3 * along)
  slope = (total(z + step) - total(z - step)) / 2e-3
  np.testing.assert_allclose(
    slope, jnp.linalg.norm(gradient[0, :size]), rtol=2e-2
  )

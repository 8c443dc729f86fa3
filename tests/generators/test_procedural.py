"""Procedural generators: every kind, and dead leaves against a slow twin."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.generators import (
  _procedural_latent as latent,
  _procedural_leaves as leaves,
  _procedural_spectrum as spectrum,
  procedural,
)
from genrep_jax.lib import errors, plugins

SMALL = {
  "resolution": 8,
  "num_shapes": 12,
  "num_textures": 2,
  "iterations": 2,
  "w_dim": 4,
  "channel_max": 4,
  "noise_maps": 2,
}
CASES = {kind: {"kind": kind} for kind in procedural.KINDS}
CASES["textures"] = {"shapes": "textures"}
QUICK = ("dead_leaves", "stylegan_oriented")  # to compile


def uniform(x):
  """The normal CDF, without compiling anything."""
  return np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(x)


def normals(*shape):
  return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def make(entry):
  return plugins.make("generators", entry)


def config(**options):
  values = plugins.defaults("generators", "procedural") | SMALL | options
  return ml_collections.ConfigDict(values)


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(case, marks=() if case in QUICK else pytest.mark.slow)
    for case in CASES
  ],
)
def test_every_kind(case):
  generator = make(config(**CASES[case]))
  variables = jax.jit(generator.init)(jax.random.key(1))
  abstract = jax.eval_shape(generator.init, jax.random.key(0))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, abstract)
  assert (variables == {}) == ("stylegan" not in case)
  z = normals(2, generator.latent_dim)
  sampled, y = generator.sample(jax.random.key(1))
  assert sampled.shape == z[0].shape and y == 0
  apply = jax.jit(generator.apply)
  images = apply(variables, z, jnp.zeros((2,), jnp.int32))
  assert images.shape == (2, 8, 8, 3)
  assert np.abs(images).max() <= 1 and np.std(images) > 0.1
  assert np.std(images[0] - images[1]) > 0.1
  turned = apply(variables, z[::-1], jnp.zeros((2,), jnp.int32))[::-1]
  np.testing.assert_allclose(turned, images, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_vmap_map_and_gradient(case):
  generator = make(config(**CASES[case]))
  variables = jax.jit(generator.init)(jax.random.key(1))
  z = normals(2, generator.latent_dim)

  def one(z):
    y = jnp.zeros((1,), jnp.int32)
    return generator.apply(variables, z[None], y)[0]

  def total(z):
    images = generator.apply(variables, z, jnp.zeros((2,), jnp.int32))
    return jnp.sum(jnp.cos(images)), images

  gradient, images = jax.jit(jax.grad(total, has_aux=True))(z)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-3
  # A projection's quantiles amplify rounding a little.
  for every in (jax.vmap(one), lambda z: jax.lax.map(one, z)):
    np.testing.assert_allclose(jax.jit(every)(z), images, atol=1e-5)


def test_gray_is_the_mean_of_the_channels():
  color, gray = (make(config(channels=c, shapes="square")) for c in (3, 1))
  z, y = normals(1, color.latent_dim), np.zeros((1,), np.int32)
  both = jax.jit(lambda z: (color.apply({}, z, y), gray.apply({}, z, y)))(z)
  assert both[1].shape == (1, 8, 8, 1)
  np.testing.assert_allclose(both[1][..., 0], both[0].mean(-1), atol=1e-6)


def test_radii_follow_their_density():
  u = (np.arange(100_000) + 0.5) / 100_000
  radii = np.asarray(leaves.radii(u))
  assert radii.min() == np.float32(0.03) and radii.max() <= 1
  table = np.linspace(0.03, 1, 200)
  density = table**-3.0 - 1
  expected = np.cumsum(density) / density.sum()
  at = np.searchsorted(np.sort(radii), table + 1e-6) / len(radii)
  np.testing.assert_allclose(at, expected, atol=2e-3)

  def tail(r):  # the integral of r^-3 - 1 from r to 1
    return (r**-2.0 - 1) / 2 - (1 - r)

  for r in (0.2, 0.3, 0.5):
    ratio = np.mean(radii > r) / np.mean(radii > 0.1)
    np.testing.assert_allclose(ratio, tail(r) / tail(0.1), rtol=0.05)


def slow_polygon(kind, radius, angles):
  """Corners [4 2] of the recipe's shapes; None for a circle."""
  if kind == 0:
    return None
  if kind in (1, 2):
    half = radius * np.sqrt(2) / 2  # of the side
    corners = half * np.float64([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    t = angles[0] if kind == 2 else 0.0
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return corners @ turn.T
  if kind == 3:
    c, s = radius * np.cos(angles[0] / 4), radius * np.sin(angles[0] / 4)
    return np.float64([[c, s], [-c, s], [-c, -s], [c, -s]])
  rising = np.sort(angles[:3] if kind == 4 else angles)
  return radius * np.stack([np.cos(rising), np.sin(rising)], -1)


def slow_top(numbers, size):
  """Paints the leaves one by one."""
  painted = np.full((size, size), -1)
  table = np.linspace(0.03, 1, 200)
  density = table**-3 - 1
  below = np.cumsum(density) / density.sum()
  at = (np.arange(size) + 0.5) / size
  for k, u in enumerate(numbers["radius"]):
    kind, radius = int(numbers["kind"][k] * 6), np.interp(u, below, table)
    corners = slow_polygon(kind, radius, 2 * np.pi * numbers["angles"][k])
    x = at[None, :] - numbers["center"][k, 0]
    y = at[:, None] - numbers["center"][k, 1]
    if corners is None:
      inside = np.hypot(x, y) <= radius
    else:
      inside = np.ones((size, size), bool)
      for here, there in zip(corners, np.roll(corners, -1, axis=0)):
        dx, dy = there - here
        inside &= dx * (y - here[1]) >= dy * (x - here[0])
    painted[inside] = k
  return painted


def test_leaves_against_a_slow_twin():
  cfg = config(num_shapes=40, resolution=16)
  z = normals(latent.size(leaves.fields(cfg)))
  z[:40] += 1.0  # larger leaves than most are: all six kinds must show
  numbers = latent.split(uniform(z), leaves.fields(cfg))
  twin = slow_top(numbers, 16)
  shown = numbers["kind"][np.unique(twin[twin >= 0])] * 6
  assert len(set(shown.astype(int))) == 6
  image, share = jax.jit(
    lambda z: (leaves.image(cfg, z), procedural.coverage(cfg, z[None]))
  )(z)
  colors = np.where(twin[..., None] < 0, -1, 2 * numbers["color"][twin] - 1)
  np.testing.assert_allclose(image, colors, atol=1e-5)
  np.testing.assert_allclose(share, [np.mean(twin >= 0)])


@pytest.mark.parametrize(
  "shapes", [pytest.param("square", marks=pytest.mark.slow), "oriented_square"]
)
def test_squares_have_side_r_root_two(shapes):
  cfg = config(num_shapes=1, resolution=64, shapes=shapes)
  fields = leaves.fields(cfg)
  z = np.zeros(latent.size(fields), np.float32)
  z[0] = 1.8  # of the radius; the center is the image's, the angle pi
  draw = jax.jit(lambda z: leaves.image(cfg, z))
  radius = float(leaves.radii(uniform(1.8)))
  assert 0.1 < radius < 0.5
  leaf = np.asarray(draw(z))[..., 0] > -1
  np.testing.assert_allclose(leaf.mean(), 2 * radius**2, rtol=0.1)
  # An angle of pi turns a square into itself; pi/4 onto its corner.
  np.testing.assert_allclose(
    leaf[32].sum() / 64, np.sqrt(2) * radius, atol=0.04
  )
  if shapes == "oriented_square":
    z[3] = -1.15035  # the normal quantile of 1/8
    leaf = np.asarray(draw(z))[..., 0] > -1
    np.testing.assert_allclose(leaf[32].sum() / 64, 2 * radius, atol=0.04)


@pytest.mark.slow
def test_more_leaves_cover_more():
  shares = []
  for count in (20, 300):
    cfg = config(num_shapes=count, shapes="square", resolution=32)
    z = normals(8, latent.size(leaves.fields(cfg)))
    share = jax.jit(lambda z, cfg=cfg: procedural.coverage(cfg, z))(z)
    shares.append(np.mean(share))
  assert shares[0] < 0.4 and shares[1] > 0.85


def test_gradients_reach_colors_and_nothing_else():
  cfg = config()
  fields = leaves.fields(cfg)
  z = normals(latent.size(fields))
  weights = normals(8, 8, 3)

  @jax.jit
  def run(z):
    return jax.value_and_grad(
      lambda z: jnp.sum(weights * leaves.image(cfg, z))
    )(z)

  gradient = latent.split(np.asarray(run(z)[1]), fields)
  for name in ("radius", "center", "kind", "angles"):
    assert not gradient[name].any()
  colors = gradient["color"].ravel()
  largest = int(np.argmax(np.abs(colors)))
  step = np.zeros_like(z)
  step[z.size - colors.size + largest] = 1e-2
  slope = (run(z + step)[0] - run(z - step)[0]) / 2e-2
  np.testing.assert_allclose(colors[largest], slope, rtol=1e-2)


@pytest.mark.slow
def test_a_leaf_shows_its_texture_from_its_offset():
  cfg = config(shapes="textures", num_shapes=80)
  z = normals(latent.size(leaves.fields(cfg)))
  parts = latent.split(z, leaves.fields(cfg))
  draw = jax.jit(lambda z: spectrum.image(cfg, z, color=True))
  textures = np.stack([draw(one) for one in parts["textures"]])
  numbers = latent.split(latent.uniform(z), leaves.fields(cfg))
  index = np.asarray(leaves.top(cfg, numbers))
  moves = np.int32(np.floor(numbers["offset"] * 8))
  image = np.asarray(jax.jit(lambda z: leaves.image(cfg, z))(z))
  assert len(np.unique(index)) > 4
  for row in range(8):
    for column in range(8):
      k = index[row, column]
      pixel = np.full(3, -1.0)
      if k >= 0:
        r, c = (row + moves[k, 0]) % 8, (column + moves[k, 1]) % 8
        pixel = textures[k % 2, r, c]
      np.testing.assert_allclose(image[row, column], pixel, atol=1e-4)


@pytest.mark.parametrize(
  "options",
  [
    {"kind": "noise"},
    {"shapes": "circles"},
    {"channels": 2},
    {"resolution": 4},
    {"resolution": 24, "kind": "stylegan_random"},
    {"num_shapes": 0},
    {"iterations": 0},
    {"noise_maps": 0},
    {"channel_base": 4, "kind": "stylegan_sparse"},
  ],
)
def test_bad_options_are_refused(options):
  with pytest.raises(errors.UsageError, match=next(iter(options))) as refused:
    make(config(**options))
  assert "\n" not in str(refused.value)

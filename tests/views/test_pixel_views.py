"""T_x as a whole: the recorded chain, laws of its numbers, contracts."""

import json
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.lib import errors, mesh as mesh_lib, plugins, rng
from genrep_jax.views import augmentation
from tests import fixture_files

FIXTURE = fixture_files.arrays("augment.npz")
CHAIN = json.loads(str(FIXTURE["meta"]))["params"]["img128/chain"]
OPS = ("brightness", "contrast", "saturation", "hue")
GRAY = {"mean": (0.5,), "std": (0.5,)}


def config(**options):
  values = plugins.defaults("views/pixel", "genrep") | {"crop_px": 0}
  return ml_collections.ConfigDict(values | options)


def make(shape, name="genrep", **options):
  """The view of images of a shape; all views are it."""
  entry = {"name": name, "crop_px": 0, **options}
  made = plugins.make("views/pixel", entry, shape, 3)
  assert len(made.views) == 3 and len(set(made.views)) == 1
  return made.views[0]


def keys(count, seed=0):
  return rng.per_index(
    rng.stream(seed, "pixel_view"), jnp.arange(count, dtype=jnp.uint32)
  )


def images(count, shape, seed=0):
  values = np.random.RandomState(seed).uniform(-1, 1, (count, *shape))
  return jnp.asarray(values, jnp.float32)


def draws(count, shape=(64, 64, 3), **options):
  cfg = config(**options)
  draw = jax.jit(jax.vmap(lambda key: augmentation.draw(cfg, key, shape)))
  return jax.tree.map(np.asarray, draw(keys(count)))


# Exact distributions are compared at five standard errors.
def is_rate(hits, probability):
  error = math.sqrt(probability * (1 - probability) / hits.size)
  assert abs(np.mean(hits) - probability) <= 5 * error


def is_uniform(x, low, high, rounding=1e-5):
  x = np.sort(np.float64(x).ravel())
  assert low - rounding <= x[0] and x[-1] <= high + rounding
  ecdf = np.arange(1, x.size + 1) / x.size
  distance = np.abs(ecdf - (x - low) / (high - low)).max()
  assert distance < 1.95 / math.sqrt(x.size)


def chain_draw():
  order = [OPS.index(name) for name, _ in CHAIN["order"]]
  factors = np.zeros(4, np.float32)
  factors[order] = [factor for _, factor in CHAIN["order"]]
  return augmentation.Draw(
    *(jnp.float32(x) for x in CHAIN["box_top_left_height_width"]),
    flip=jnp.bool_(CHAIN["flip"]),
    factors=jnp.asarray(factors),
    order=jnp.asarray(order, jnp.int32),
    grayscale=jnp.bool_(False),
    blur_sigma_px=jnp.float32(0),
    solarize=jnp.bool_(False),
  )


@pytest.mark.parametrize("blur_probability", [0.0, 0.5])
def test_chain_fixture(blur_probability):
  # A blur that is possible but not drawn must leave the chain alone.
  cfg = config(crop_px=112, blur_probability=blur_probability)
  assert (cfg.mean, cfg.std) == (tuple(CHAIN["mean"]), tuple(CHAIN["std"]))
  image = jnp.asarray(FIXTURE["in/img128"], jnp.float32) / 127.5 - 1
  chain = jax.jit(lambda d, x: augmentation.apply(cfg, d, x))
  got = chain(chain_draw(), image)
  # The colors' 2e-5, divided by the smallest std.
  np.testing.assert_allclose(
    got, FIXTURE["out/img128/chain"], rtol=0, atol=2e-5 / 0.224
  )
  gray = chain(chain_draw()._replace(grayscale=jnp.bool_(True)), image)
  levels = np.asarray(gray) * cfg.std + np.asarray(cfg.mean)
  np.testing.assert_allclose(np.ptp(levels, axis=-1), 0, atol=1e-6)


def test_defaults_are_genreps():
  cfg = plugins.defaults("views/pixel", "genrep")
  assert cfg["crop_px"] == int(128 * 0.875)
  assert cfg["scale"] == (0.2, 1.0) and cfg["ratio"] == (3 / 4, 4 / 3)
  assert [cfg[name] for name in OPS] == [0.4, 0.4, 0.4, 0.1]
  names = ("flip", "jitter", "grayscale", "blur")
  rates = [cfg[f"{name}_probability"] for name in names]
  assert rates == [0.5, 0.8, 0.2, 0.0]


def torchvision_box(random, height, width, scale, ratio):
  """RandomResizedCrop.get_params, written as its loop; None = fallback."""
  for _ in range(10):
    area = height * width * random.uniform(*scale)
    aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      top = random.randint(0, height - h + 1)
      return top, random.randint(0, width - w + 1), h, w
  return None


def fallback(height, width, ratio):
  h, w = height, width
  if width / height < ratio[0]:
    h = round(width / ratio[0])
  elif width / height > ratio[1]:
    w = round(height * ratio[1])
  return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
  "height, width, scale", [(28, 28, (0.2, 1.0)), (20, 40, (0.5, 1.0))]
)
def test_boxes_follow_torchvisions_law(height, width, scale):
  count, ratio = 20_000, (3 / 4, 4 / 3)
  d = draws(count, (height, width, 3), scale=scale)
  boxes = np.stack([d.top, d.left, d.height, d.width], axis=1)
  assert np.all(boxes == np.round(boxes)) and boxes[:, :2].min() >= 0
  assert np.all(d.top + d.height <= height)
  assert np.all(d.left + d.width <= width)
  random = np.random.RandomState(0)
  twin, fell_back = [], 0
  for _ in range(count):
    box = torchvision_box(random, height, width, scale, ratio)
    fell_back += box is None
    twin.append(box or fallback(height, width, ratio))
  twin = np.asarray(twin)
  # Every one of the four, and the area, has the twin's distribution.
  columns = [(boxes[:, k], twin[:, k]) for k in range(4)]
  columns.append((boxes[:, 2] * boxes[:, 3], twin[:, 2] * twin[:, 3]))
  for got, expected in columns:
    grid = np.unique(np.concatenate([got, expected]))
    a = np.searchsorted(np.sort(got), grid, side="right") / count
    b = np.searchsorted(np.sort(expected), grid, side="right") / count
    assert np.abs(a - b).max() < 1.95 * math.sqrt(2 / count)
  if height != width:
    assert fell_back > 100  # else this shape tests nothing new


def test_area_and_ratio_are_uniform_where_every_candidate_fits():
  side, scale = 2000, (0.2, 0.7)
  d = draws(4000, (side, side, 3), scale=scale)
  # Sides of at least 775 px are rounded by at most half a pixel each.
  area, ratio = d.height * np.float64(d.width) / side**2, d.width / d.height
  is_uniform(area, *scale, rounding=1e-3)
  is_uniform(np.log(ratio), math.log(3 / 4), math.log(4 / 3), rounding=2e-3)
  is_uniform(d.top / (side - d.height), 0, 1)
  is_uniform(d.left / (side - d.width), 0, 1)


@pytest.mark.parametrize("shape", [(10, 100, 3), (100, 10, 3), (10, 10, 3)])
def test_the_fallback_is_the_largest_centered_box(shape):
  # 10 x 10: no candidate of ratio (2, 3) and area 1 fits.
  ratio = (2.0, 3.0) if shape[:2] == (10, 10) else (3 / 4, 4 / 3)
  d = draws(64, shape, scale=(1.0, 1.0), ratio=ratio)
  boxes = np.stack([d.top, d.left, d.height, d.width], axis=1)
  expected = fallback(*shape[:2], ratio)
  np.testing.assert_array_equal(boxes, np.tile(expected, (64, 1)))


def test_rates_and_strengths():
  d = draws(20_000, blur_probability=0.3, saturation=0.2, brightness=1.5)
  jittered = d.factors[:, 1] != 1
  is_rate(jittered, 0.8)
  is_rate(d.flip, 0.5)
  is_rate(d.grayscale, 0.2)
  is_rate(d.blur_sigma_px > 0, 0.3)
  is_uniform(d.blur_sigma_px[d.blur_sigma_px > 0], 0.1, 2.0)
  np.testing.assert_array_equal(
    d.factors[~jittered], np.tile([1, 1, 1, 0], (np.sum(~jittered), 1))
  )
  # torchvision's brightness of strength 1.5 starts at 0, not at -0.5.
  for k, (low, high) in enumerate(
    [(0.0, 2.5), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]
  ):
    is_uniform(d.factors[jittered, k], low, high)
  orders, counts = np.unique(d.order, axis=0, return_counts=True)
  assert len(orders) == 24 and np.all(np.sort(orders) == np.arange(4))
  chi_square = np.sum((counts - 20_000 / 24) ** 2 / (20_000 / 24))
  assert chi_square < 23 + 5 * math.sqrt(2 * 23)
  # Nothing is drawn from a number that something else used.
  together = np.stack(
    # The half makes the mean place 1/2 whatever the box's size.
    [(d.top + 0.5) / (65 - d.height), (d.left + 0.5) / (65 - d.width)]
    + [d.height * d.width, d.flip, d.grayscale, jittered]
    + [d.blur_sigma_px > 0]
    + list(np.where(jittered[:, None], d.factors, [1.25, 1, 1, 0]).T)
    + list(np.argsort(d.order, axis=1)[:, :3].T)
  )
  correlations = np.corrcoef(together)
  correlations[-3:, -3:] = 0  # ranks exclude one another
  np.fill_diagonal(correlations, 0)
  assert np.abs(correlations).max() < 5 / math.sqrt(20_000)


def test_probabilities_zero_and_one():
  off = {f"{x}_probability": 0.0 for x in ("flip", "jitter", "grayscale")}
  d = draws(64, **off, scale=(1.0, 1.0), ratio=(1.0, 1.0))
  assert not d.flip.any() and not d.grayscale.any()
  assert np.all(d.factors == [1, 1, 1, 0])
  image = images(4, (12, 12, 3))
  still = {**off, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), **GRAY}
  got = jax.jit(jax.vmap(make((12, 12, 3), **still)))(keys(4), image)
  np.testing.assert_allclose(got, image, rtol=0, atol=1e-6)
  d = draws(64, **{name: 1.0 for name in off})
  assert d.flip.all() and d.grayscale.all()
  assert np.all(d.factors[:, 1] != 1)


OPTIONS = [
  ((16, 16, 3), {"blur_probability": 0.5, "blur_kernel_px": 5}),
  ((14, 12, 1), {**GRAY, "crop_px": 10}),
]


@pytest.mark.parametrize("shape, options", OPTIONS)
def test_pure_and_the_same_alone_in_a_batch_and_sharded(shape, options):
  view = make(shape, **options)
  image, key = images(16, shape), keys(16)
  batched = jax.jit(jax.vmap(view))
  got = np.asarray(batched(key, image))
  side = options.get("crop_px", shape[0])
  assert got.shape == (16, side, side, shape[2]) and got.dtype == np.float32
  np.testing.assert_array_equal(batched(key, image), got)
  one = jax.jit(view)
  looped = np.stack([one(key[k], image[k]) for k in range(16)])
  np.testing.assert_allclose(looped, got, rtol=0, atol=1e-5)
  if shape[2] == 1:  # op by op is slow to compile: the shorter chain will do
    eager = view(key[3], image[3])
    np.testing.assert_allclose(eager, got[3], rtol=0, atol=1e-5)
  mesh = mesh_lib.make_mesh()
  assert mesh.size == 8
  spread = mesh_lib.batch(mesh)
  program = batched.lower(
    jax.device_put(key, spread), jax.device_put(image, spread)
  ).compile()
  for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert name not in program.as_text()
  sharded = program(jax.device_put(key, spread), jax.device_put(image, spread))
  assert len(sharded.sharding.device_set) == 8
  np.testing.assert_allclose(sharded, got, rtol=0, atol=1e-5)
  other = batched(keys(16, seed=1), image)
  assert np.abs(np.asarray(other) - got).max(axis=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("shape, options", OPTIONS)
def test_gradients(shape, options):
  view = make(shape, **options)
  image, key = 0.9 * images(8, shape), keys(8)
  image = image.at[0].set(0.0).at[1].set(1.0).at[2].set(-1.0)  # flat images

  @jax.jit
  def loss(x):
    return jnp.sum(jax.vmap(view)(key, x) ** 2)

  grad = np.asarray(jax.grad(loss)(image))
  assert np.all(np.isfinite(grad))
  assert np.all(np.abs(grad[3:]).max(axis=(1, 2, 3)) > 0)


def test_gradient_equals_finite_differences():
  # Without clipping and hue the chain is affine in the image.
  weak = dict.fromkeys(("brightness", "contrast", "saturation"), 0.1)
  view = make((8, 8, 3), hue=0.0, **weak)
  image = 0.5 * images(1, (8, 8, 3))[0]
  direction = images(1, (8, 8, 3), seed=1)[0]
  key = keys(1)[0]
  weight = images(1, (8, 8, 3), seed=2)[0]
  loss = jax.jit(lambda x: jnp.sum(view(key, x) * weight))
  step = 0.1
  slope = (loss(image + step * direction) - loss(image - step * direction)) / (
    2 * step
  )
  exact = jnp.vdot(jax.grad(loss)(image), direction)
  np.testing.assert_allclose(slope, exact, rtol=1e-3)


def test_bfloat16_images_are_augmented_in_float32():
  view = jax.jit(make((12, 12, 1), **GRAY))
  image = images(1, (12, 12, 1))[0].astype(jnp.bfloat16)
  got = view(keys(1)[0], image)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(
    got, view(keys(1)[0], image.astype(jnp.float32))
  )


def test_none_normalizes_and_crops_the_center():
  image = images(1, (9, 13, 3))[0]
  view = make(image.shape, "none", crop_px=6)
  mean, std = np.float32(CHAIN["mean"]), np.float32(CHAIN["std"])
  # Margins 3 and 7: torchvision starts at round(1.5) = 2 and round(3.5) = 4.
  expected = ((image[2:8, 4:10] + 1) / 2 - mean) / std
  np.testing.assert_allclose(view(None, image), expected, rtol=0, atol=1e-6)
  whole = make(image.shape, "none", **GRAY)(None, image)
  np.testing.assert_allclose(whole, image, rtol=0, atol=1e-6)


REFUSED = [
  ("genrep", {"crop_px": -1}, "crop_px"),
  ("genrep", {"crop_px": 1}, "crop_px"),
  ("genrep", {"mean": (math.nan,)}, "mean"),
  ("genrep", {"mean": ("a",)}, "mean"),
  ("genrep", {"scale": (math.nan, 1.0)}, "scale"),
  ("genrep", {"scale": (0.5, 0.2)}, "scale"),
  ("genrep", {"scale": (0.0, 1.0)}, "scale"),
  ("genrep", {"scale": (0.5, 1.5)}, "scale"),
  ("genrep", {"ratio": (1.0, math.inf)}, "ratio"),
  ("genrep", {"flip_probability": 1.5}, "flip_probability"),
  ("genrep", {"jitter_probability": -0.1}, "jitter_probability"),
  ("genrep", {"grayscale_probability": 2.0}, "grayscale_probability"),
  ("genrep", {"blur_probability": math.nan}, "blur_probability"),
  ("genrep", {"brightness": -0.1}, "brightness"),
  ("genrep", {"contrast": -0.1}, "contrast"),
  ("genrep", {"saturation": -0.1}, "saturation"),
  ("genrep", {"hue": 0.6}, "hue"),
  ("genrep", {"blur_sigma_px": (0.0, 1.0)}, "blur_sigma_px"),
  ("genrep", {"blur_kernel_px": 4}, "blur_kernel_px"),
  ("genrep", {"std": (0.5, 0.0, 0.5)}, "std"),
  ("genrep", {"mean": (0.5, 0.5)}, "mean"),
  ("none", {"std": (-1.0,)}, "std"),
  ("none", {"crop_px": -2}, "crop_px"),
]


@pytest.mark.parametrize("name, options, what", REFUSED)
def test_refused_options(name, options, what):
  line = rf"^views\.pixel\.{what}: given .*; allowed: "
  with pytest.raises(errors.UsageError, match=line) as error:
    make((28, 28, 3), name, **options)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["genrep", "none"])
def test_images_that_do_not_fit_are_refused(name):
  make((32, 40, 3), name, crop_px=32)
  with pytest.raises(errors.UsageError, match="crop_px: given 32; .* 28, "):
    make((40, 28, 3), name, crop_px=32)
  with pytest.raises(errors.UsageError, match="mean: .*1 channel"):
    make((28, 28, 1), name)
  make((28, 28, 1), name, **GRAY)
  made = plugins.make(
    "views/pixel", {"name": name, "crop_px": 0, **GRAY}, (28, 28, 3), 2
  )
  assert (made.mean, made.std) == ((0.5,), (0.5,))


def test_a_blur_wider_than_the_view_is_refused():
  options = {"blur_probability": 0.5, "blur_kernel_px": 21}
  make((11, 11, 3), **options)
  with pytest.raises(errors.UsageError, match="blur_kernel_px: .*below 20"):
    make((10, 10, 3), **options)
  make((10, 10, 3), **options | {"blur_probability": 0.0})

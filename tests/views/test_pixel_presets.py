"""The presets of T_x: their numbers, how their views differ, gradients."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.lib import errors, plugins
from genrep_jax.views import augmentation, pixel_ops

GRAY = {"mean": (0.5,), "std": (0.5,)}
# No crop, no flip, no colors: what is left is blur and solarize.
STILL = {
  **GRAY,
  "crop_px": 0,
  "scale": (1.0, 1.0),
  "ratio": (1.0, 1.0),
  "flip_probability": 0.0,
  "jitter_probability": 0.0,
  "grayscale_probability": 0.0,
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIMCLR = {  # Chen et al. 2020, appendix A, s = 1
  "crop_px": 224,
  "scale": (0.08, 1.0),
  "ratio": (3 / 4, 4 / 3),
  "flip_probability": 0.5,
  "jitter_probability": 0.8,
  "brightness": 0.8,
  "contrast": 0.8,
  "saturation": 0.8,
  "hue": 0.2,
  "grayscale_probability": 0.2,
  "blur_probability": 0.5,
  "blur_sigma_px": (0.1, 2.0),
  "solarize_probability": 0.0,
  **IMAGENET,
}
GENREP = {  # specs of the original's code
  **SIMCLR,
  "crop_px": 112,
  "scale": (0.2, 1.0),
  "brightness": 0.4,
  "contrast": 0.4,
  "saturation": 0.4,
  "hue": 0.1,
  "blur_probability": 0.0,
}
BYOL = {  # Grill et al. 2020, table 6: T, T'
  **SIMCLR,
  "brightness": 0.4,
  "contrast": 0.4,
  "saturation": 0.2,
  "hue": 0.1,
  "blur_probability": (1.0, 0.1),
  "solarize_probability": (0.0, 0.2),
  "solarize_threshold": 0.5,
}
MULTI_CROP = {  # Caron et al. 2021, section 3.2
  **SIMCLR,
  "num_global": 2,
  "scale": (0.4, 1.0),
  "local_crop_px": 96,
  "local_scale": (0.05, 0.4),
}


def config(name, **options):
  values = plugins.defaults("views/pixel", name) | options
  return ml_collections.ConfigDict(values)


def make(name, shape, count=2, **options):
  entry = {"name": name, **options}
  return plugins.make("views/pixel", entry, shape, count).views


def keys(count):
  return jax.random.split(jax.random.key(5), count)


@pytest.mark.parametrize(
  "name, table",
  [
    ("genrep", GENREP),
    ("simclr", SIMCLR),
    ("byol", BYOL),
    ("multi_crop", MULTI_CROP),
  ],
)
def test_defaults_are_the_papers(name, table):
  cfg = plugins.defaults("views/pixel", name)
  assert {key: cfg[key] for key in table} == table
  # The papers' window: 23 px at 224 (GenRep: a tenth of 112, if it blurred).
  kernel_px = augmentation.blur_kernel_px(config(name), cfg["crop_px"])
  assert kernel_px == {224: 23, 112: 11}[cfg["crop_px"]]


def test_the_blurs_window_is_a_tenth_of_the_side():
  cfg = config("simclr")
  sides = {1: 3, 28: 3, 32: 3, 64: 7, 96: 9, 112: 11, 224: 23}
  got = {side: augmentation.blur_kernel_px(cfg, side) for side in sides}
  assert got == sides
  cfg.blur_kernel_px = 5
  assert augmentation.blur_kernel_px(cfg, 224) == 5


def test_solarize_leaves_all_other_numbers_as_they_are():
  options = {"blur_probability": 0.5, "crop_px": 0}
  off = config("genrep", **options)
  on = config("genrep", **options, solarize_probability=0.3)

  @jax.jit
  @jax.vmap
  def draw(key):
    shape = (20, 20, 3)
    uniform = jax.random.uniform(key, (35,))
    return (
      augmentation.draw(off, key, shape),
      augmentation.draw(on, key, shape),
      uniform,
    )

  without, drawn, u = draw(keys(4000))
  assert not without.solarize.any()
  rate = 5 * math.sqrt(0.3 * 0.7 / 4000)
  assert abs(drawn.solarize.mean() - 0.3) < rate
  jax.tree.map(
    np.testing.assert_array_equal,
    without,
    drawn._replace(solarize=without.solarize),
  )
  # And they are what they have always been: recorded studies rest on them.
  np.testing.assert_array_equal(without.flip, u[:, 30] < 0.5)
  np.testing.assert_array_equal(without.grayscale, u[:, 32] < 0.2)
  np.testing.assert_array_equal(without.order, jnp.argsort(u[:, 26:30]))
  # Solarize is drawn from no number that something else uses.
  others = np.corrcoef(np.vstack([drawn.solarize, u.T]))[0, 1:]
  assert np.abs(others).max() < 5 / math.sqrt(4000)


def test_byols_views_differ_as_its_table_says():
  options = {**STILL, "blur_sigma_px": (1.0, 2.0)}
  views = make("byol", (6, 6, 1), 5, **options)
  assert views[0] is views[2] is views[4] and views[1] is views[3]
  assert views[0] is not views[1]
  # White with a black dot: solarized, white is black; blurred, the dot is not.
  image = jnp.ones((6, 6, 1)).at[3, 3].set(-1.0)
  count = 4000
  for view, blur, solarize in ((views[0], 1.0, 0.0), (views[1], 0.1, 0.2)):
    shown = jax.jit(jax.vmap(view, (0, None)))(keys(count), image)
    is_black, blurred = shown[:, 0, 0, 0] < 0, shown[:, 3, 3, 0] > -1 + 1e-4
    for hits, rate in ((is_black, solarize), (blurred, blur)):
      error = 5 * math.sqrt(rate * (1 - rate) / count)
      assert abs(float(hits.mean()) - rate) <= error
    both = float((is_black & blurred).mean())
    assert abs(both - blur * solarize) < 5 * math.sqrt(0.02 / count)
  # Another experiment may have one number for all views, or three.
  options |= {"blur_probability": 0.3, "solarize_probability": (0.0, 0.1, 1)}
  views = make("byol", (20, 20, 1), 4, **options)
  assert len(set(views)) == 3 and views[3] is views[0]


def test_solarize_comes_after_blur():
  always = {"blur_probability": 1.0, "solarize_probability": 1.0}
  cfg = config("simclr", **STILL | always)

  @jax.jit
  def both(image):
    draw = augmentation.draw(cfg, jax.random.key(1), image.shape)
    draw = draw._replace(blur_sigma_px=jnp.float32(1.3))
    planes = (jnp.moveaxis(image, -1, 0) + 1) / 2
    negative = pixel_ops.solarize(pixel_ops.gaussian_blur(planes, 1.3, 3), 0.5)
    return augmentation.apply(cfg, draw, image)[..., 0], 2 * negative[0] - 1

  image = np.random.RandomState(0).uniform(-1, 1, (12, 12, 1))
  np.testing.assert_allclose(*both(np.float32(image)), rtol=0, atol=1e-5)


def test_multi_crop_has_two_sizes_and_two_areas():
  options = STILL | {"blur_probability": 0.0, "crop_px": 20, "num_global": 3}
  options |= {"local_crop_px": 8, "scale": (0.5, 1.0), "ratio": (3 / 4, 4 / 3)}
  views = make("multi_crop", (20, 24, 1), 6, **options)
  assert views[0] is views[1] is views[2] and views[3] is views[4] is views[5]
  # Column and row numbers as colors say how large the box was.
  options |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
  side = 60
  ramp = jnp.linspace(-1, 1, side)
  image = jnp.stack(
    jnp.broadcast_arrays(ramp[None], ramp[:, None], 0.0), axis=-1
  )
  views = make("multi_crop", image.shape, 4, **options)
  for number, px, low, high in ((2, 20, 0.5, 1.0), (3, 8, 0.05, 0.4)):
    shown = jax.jit(jax.vmap(views[number], (0, None)))(keys(1000), image)
    assert shown.shape == (1000, px, px, 3)
    middle = slice(px // 4, 3 * px // 4)  # away from the crop's edges
    slopes = [
      jnp.mean(jnp.diff(shown[:, middle, middle, channel], axis=axis), (1, 2))
      for channel, axis in ((0, 2), (1, 1))
    ]
    area = slopes[0] * slopes[1] * (px * (side - 1) / side / 2) ** 2
    assert low - 0.02 < area.min() < low + 0.05
    assert high - 0.1 < area.max() < high + 0.02


@pytest.mark.parametrize(
  "name, options, channels",
  [
    ("byol", {"crop_px": 10, "blur_probability": 1.0}, 3),
    ("multi_crop", {**GRAY, "crop_px": 10, "local_crop_px": 6}, 1),
  ],
  ids=("byol", "multi_crop, gray"),
)
def test_gradients_at_flat_images(name, options, channels):
  view = make(name, (12, 12, channels), 3, **options)[-1]
  levels = [-1.0, 0.0, 1.0, 0.3, 1 / 3, -1.0]
  images = jnp.stack([jnp.full((12, 12, channels), x) for x in levels])
  # The last: one color, as far from gray as can be; and noise, after it.
  images = images.at[-1, ..., 0].set(1.0)
  noise = jax.random.uniform(jax.random.key(2), (12, 12, channels), minval=-0.9)
  images = jnp.concatenate([images, noise[None]])

  @jax.jit
  def slopes(images):
    def loss(images):
      one = jax.vmap(jax.vmap(view, (0, None)), (None, 0))(keys(16), images)
      return jnp.sum(one**2), one

    return jax.grad(loss, has_aux=True)(images)

  gradients, shown = slopes(images)
  assert shown.shape[-1] == channels and np.isfinite(shown).all()
  assert np.isfinite(gradients).all()
  assert np.abs(gradients[-1]).max() > 0.01
  # A gray image stays gray, and so moves all channels alike only on average;
  # no slope may explode there (gray has no hue).
  assert np.abs(gradients).max() < 1e4


REFUSED = [
  (
    "multi_crop",
    {"local_crop_px": 29},
    "local_crop_px: given 29; .*at most 28",
  ),
  (
    "multi_crop",
    {"crop_px": 16, "local_crop_px": 17},
    "local_crop_px: given 17; .*at most 16",
  ),
  ("multi_crop", {"local_crop_px": 0}, "local_crop_px: given 0"),
  ("multi_crop", {"num_global": 0}, "num_global: given 0"),
  ("multi_crop", {"local_scale": (0.0, 0.4)}, "local_scale: given "),
  ("multi_crop", {"crop_px": 30}, "crop_px: given 30; .*at most 28"),
  ("byol", {"blur_probability": ()}, r"blur_probability: given \(\)"),
  (
    "byol",
    {"solarize_probability": (0.0, 1.2)},
    r"solarize_probability: given \(0.0, 1.2\)",
  ),
  ("byol", {"solarize_threshold": 1.5}, "solarize_threshold: given 1.5"),
  (
    "simclr",
    {"solarize_probability": -0.1},
    "solarize_probability: given -0.1",
  ),
]


@pytest.mark.parametrize("name, options, what", REFUSED)
def test_refused_options(name, options, what):
  small = {"crop_px": 28}
  if name == "multi_crop":
    small["local_crop_px"] = 8
  with pytest.raises(errors.UsageError, match=f"views.pixel.{what}") as error:
    make(name, (28, 28, 3), 3, **{**small, **options})
  assert "\n" not in str(error.value)

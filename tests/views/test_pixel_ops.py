"""Primitives of T_x: the recorded reference, slow twins, limits."""

import colorsys
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.views import pixel_ops
from tests import fixture_files

FIXTURE = fixture_files.arrays("augment.npz")
META = json.loads(str(FIXTURE["meta"]))
PARAMS = META["params"]
OPS = ("brightness", "contrast", "saturation", "hue")
# Jitted once per shape: op by op, compiling would take most of the time.
ADJUST = {
  "brightness": jax.jit(pixel_ops.adjust_brightness),
  "contrast": jax.jit(pixel_ops.adjust_contrast),
  "saturation": jax.jit(pixel_ops.adjust_saturation),
  "hue": jax.jit(pixel_ops.adjust_hue),
}
resized_crop = jax.jit(
  pixel_ops.resized_crop, static_argnums=5, static_argnames="antialias"
)
color_jitter = jax.jit(pixel_ops.color_jitter, static_argnames="with_hue")
gaussian_blur = jax.jit(pixel_ops.gaussian_blur, static_argnums=2)
grayscale = jax.jit(pixel_ops.grayscale)
resize_matrix = jax.jit(
  pixel_ops.resize_matrix, static_argnums=(2, 3), static_argnames="antialias"
)


def planes(name):
  """A fixture image as [c h w] in [0, 1]."""
  return np.moveaxis(FIXTURE[f"in/{name}"].astype(np.float32) / 255, -1, 0)


def pixels(image):
  return np.moveaxis(np.asarray(image), 0, -1)


def jitter_arguments(steps):
  """Fixture steps [[name, factor], ...] -> (factors, order)."""
  order = np.asarray([OPS.index(name) for name, _ in steps], np.int32)
  factors = np.zeros(4, np.float32)
  factors[order] = [factor for _, factor in steps]
  return factors, order


def run(parameters):
  """Computes what a fixture entry describes, in [h w c]."""
  image, kind = planes(parameters["input"]), parameters["kind"]
  if kind == "resized_crop":
    image = resized_crop(
      image,
      *parameters["box_top_left_height_width"],
      tuple(parameters["size"]),
      antialias=parameters["antialias"] is not False,
    )
  elif kind == "horizontal_flip":
    image = pixel_ops.horizontal_flip(image)
  elif kind == "grayscale":
    image = grayscale(image)
  elif kind == "color_jitter_in_order":
    image = color_jitter(image, *jitter_arguments(parameters["order"]))
  else:
    image = ADJUST[kind](image, parameters["factor"])
  return pixels(image)


ENTRIES = sorted(key for key in PARAMS if not key.endswith("chain"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_fixture(entry):
  got, expected = run(PARAMS[entry]), FIXTURE[f"out/{entry}"]
  assert got.shape == expected.shape
  if expected.dtype == np.uint8:  # Pillow's, in levels
    atol = 1.01 if "resized_crop" in entry else 2
    np.testing.assert_allclose(got * 255, expected, rtol=0, atol=atol)
  else:
    atol = 2e-5 if "hue" in entry or "jitter" in entry else 1e-5
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_every_fixture_is_used():
  outputs = {key[4:] for key in FIXTURE if key.startswith("out/")}
  assert outputs == set(ENTRIES) | {"img128/chain"}


def random_image(shape=(3, 11, 14), seed=0):
  return jnp.asarray(np.random.RandomState(seed).rand(*shape), jnp.float32)


def slow_resize_matrix(start, size, input_px, output_px, antialias):
  """The same as loops over pixels, in float64."""
  matrix = np.zeros((output_px, input_px))
  scale = size / output_px
  for i in range(output_px):
    center = (i + 0.5) * scale
    if antialias:
      reach = max(scale, 1.0)
      for j in range(size):
        matrix[i, start + j] = max(0.0, 1 - abs(j + 0.5 - center) / reach)
      matrix[i] /= matrix[i].sum()
    else:
      source = min(max(center - 0.5, 0.0), size - 1.0)
      below = int(source)
      above = min(below + 1, size - 1)
      matrix[i, start + below] += 1 - (source - below)
      matrix[i, start + above] += source - below
  return matrix


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
  "start, size, input_px, output_px",
  [(0, 28, 28, 28), (3, 1, 28, 28), (5, 17, 32, 28), (100, 412, 512, 112)],
)
def test_resize_matrix_equals_its_slow_twin(
  start, size, input_px, output_px, antialias
):
  matrix = resize_matrix(start, size, input_px, output_px, antialias=antialias)
  np.testing.assert_allclose(
    matrix,
    slow_resize_matrix(start, size, input_px, output_px, antialias),
    rtol=0,
    atol=3e-7,
  )


@pytest.mark.parametrize("antialias", [True, False])
def test_the_whole_image_at_its_own_size_is_itself(antialias):
  image = random_image()
  same = resized_crop(image, 0, 0, 11, 14, (11, 14), antialias=antialias)
  np.testing.assert_array_equal(same, image)


def test_flip_is_an_involution_and_folds_into_the_crop():
  image = random_image()
  flipped = pixel_ops.horizontal_flip(image)
  assert not np.array_equal(flipped, image)
  np.testing.assert_array_equal(pixel_ops.horizontal_flip(flipped), image)
  box, size = (2, 3, 8, 9), (6, 7)
  folded = resized_crop(image, *box, size, flip=jnp.bool_(True))
  plain = resized_crop(image, *box, size, flip=jnp.bool_(False))
  np.testing.assert_allclose(
    folded, pixel_ops.horizontal_flip(plain), rtol=0, atol=1e-6
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_neutral_factors_change_nothing(channels):
  image = random_image((channels, 9, 9))
  for name, neutral in zip(OPS, (1.0, 1.0, 1.0, 0.0), strict=True):
    np.testing.assert_array_equal(ADJUST[name](image, neutral), image)
  nothing = jnp.asarray([1.0, 1.0, 1.0, 0.0])
  same = color_jitter(image, nothing, jnp.asarray([2, 3, 0, 1]))
  np.testing.assert_array_equal(same, image)
  np.testing.assert_array_equal(gaussian_blur(image, 0.0, 5), image)


def test_limits_of_the_color_operations():
  image = random_image()
  gray = pixel_ops.to_gray(image)
  assert np.all(ADJUST["brightness"](image, 0.0) == 0)
  np.testing.assert_allclose(
    ADJUST["contrast"](image, 0.0), np.full(image.shape, gray.mean()), 1e-6
  )
  np.testing.assert_allclose(
    ADJUST["saturation"](image, 0.0), grayscale(image), 1e-6
  )
  for turn in (1.0, -2.0):  # whole turns
    np.testing.assert_allclose(
      ADJUST["hue"](image, turn), image, rtol=0, atol=2e-6
    )
  third = ADJUST["hue"](image, 1 / 3)  # red -> green -> blue -> red
  np.testing.assert_allclose(third, image[jnp.array([2, 0, 1])], atol=2e-6)
  bright = ADJUST["brightness"](image, 3.0)
  assert float(bright.max()) == 1.0


@pytest.mark.parametrize("turn", [0.07, -0.4, 0.5])
def test_hue_equals_colorsys(turn):
  image = np.array(random_image((3, 8, 8), seed=3))
  # Corners: gray, black, white, pure colors, ties for the maximum.
  special = [(0.5, 0.5, 0.5), (0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 0)]
  special += [(0, 0, 1), (1, 1, 0), (0.2, 0.9, 0.9), (0.7, 0.1, 0.7)]
  for k, color in enumerate(special):
    image[:, 0 if k < 8 else 1, k % 8] = color
  got = pixels(ADJUST["hue"](jnp.asarray(image), turn))
  for row, expected_row in zip(got, pixels(image), strict=True):
    for color, original in zip(row, expected_row, strict=True):
      h, s, v = colorsys.rgb_to_hsv(*original.astype(float))
      expected = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
      np.testing.assert_allclose(color, expected, rtol=0, atol=3e-6)


ORDERS = [
  (a, b, c, d)
  for a in range(4)
  for b in range(4)
  for c in range(4)
  for d in range(4)
  if len({a, b, c, d}) == 4
]


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_the_four_steps_in_all_24_orders(channels):
  image = random_image((channels, 7, 6))
  factors = jnp.asarray([1.35, 0.65, 1.4, -0.09])
  jitter = jax.jit(jax.vmap(pixel_ops.color_jitter, in_axes=(None, None, 0)))
  together = jitter(image, factors, jnp.asarray(ORDERS, jnp.int32))
  distinct = set()
  for got, order in zip(together, ORDERS, strict=True):
    expected = image
    for index in order:
      expected = ADJUST[OPS[index]](expected, factors[index])
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)
    distinct.add(np.round(np.asarray(expected), 3).tobytes())
  assert len(distinct) == (2 if channels == 1 else 24)


def test_jitter_without_hue_leaves_the_other_three_in_order():
  image = random_image()
  factors = jnp.asarray([1.35, 0.65, 1.4, 0.0])
  for order in ORDERS[::5]:
    got, expected = (
      color_jitter(
        image, factors, jnp.asarray(order, jnp.int32), with_hue=with_hue
      )
      for with_hue in (False, True)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_one_channel_has_no_color():
  image = random_image((1, 6, 6))
  for same in (
    ADJUST["saturation"](image, 0.3),
    ADJUST["hue"](image, 0.2),
    grayscale(image),
  ):
    np.testing.assert_array_equal(same, image)
  expected = np.clip(0.5 * image + 0.5 * np.mean(image), 0, 1)
  np.testing.assert_allclose(ADJUST["contrast"](image, 0.5), expected, 1e-6)


def test_one_channel_is_the_gray_of_three_equal_channels():
  image = random_image((1, 6, 6))
  factors, order = jnp.asarray([0.8, 1.3, 1.4, 0.1]), jnp.asarray([1, 3, 0, 2])
  one = color_jitter(image, factors, order)
  three = color_jitter(jnp.tile(image, (3, 1, 1)), factors, order)
  # The luma weights sum to 0.9999, so the two agree only to about 1e-4.
  np.testing.assert_allclose(three, jnp.tile(one, (3, 1, 1)), atol=3e-4)


@pytest.mark.parametrize("sigma, kernel_px", [(0.7, 3), (1.6, 7), (2.0, 21)])
def test_blur_equals_its_slow_twin(sigma, kernel_px):
  image = np.asarray(random_image((2, 11, 14)), np.float64)
  r = kernel_px // 2
  window = np.exp(-0.5 * (np.arange(-r, r + 1) / sigma) ** 2)
  window /= window.sum()
  padded = np.pad(image, ((0, 0), (r, r), (r, r)), mode="reflect")
  expected = np.zeros_like(image)
  for dy in range(kernel_px):
    for dx in range(kernel_px):
      part = padded[:, dy : dy + 11, dx : dx + 14]
      expected += window[dy] * window[dx] * part
  got = gaussian_blur(jnp.asarray(image, jnp.float32), sigma, kernel_px)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_normalize():
  image = random_image()
  mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
  got = pixel_ops.normalize(image, mean, std)
  for c in range(3):
    np.testing.assert_allclose(
      got[c], (image[c] - mean[c]) / std[c], rtol=1e-6, atol=1e-7
    )
  np.testing.assert_allclose(
    pixel_ops.normalize(image, (0.5,), (0.5,)), 2 * image - 1, rtol=0, atol=1e-6
  )


@pytest.mark.parametrize("color", [0.0, 0.4, 1.0, None, 1e-30])
def test_hue_gradient_is_finite_on_gray_and_nearly_gray_pixels(color):
  if color is None:
    image = random_image()
  elif color == 1e-30:  # a chroma whose inverse square overflows
    image = jnp.zeros((3, 4, 4)).at[0].set(color)
  else:
    image = jnp.full((3, 4, 4), color)
  grad = jax.grad(lambda x: jnp.sum(ADJUST["hue"](x, 0.1) ** 2))(image)
  assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
def test_solarize_inverts_what_is_bright(threshold):
  image = np.float32(np.random.RandomState(0).uniform(size=(3, 4, 5)))
  image[0, 0, :3] = 0.0, threshold, 1.0
  expected = image.copy()
  for place, x in np.ndenumerate(image):
    if x >= np.float32(threshold):
      expected[place] = 1 - x
  np.testing.assert_array_equal(pixel_ops.solarize(image, threshold), expected)

"""Pixel edits that imitate SimCLR's transforms, and their laws."""

import colorsys
import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.lib import errors, plugins, weights
from genrep_jax.views import edits, pixel_ops, walks

H, W = 12, 16
NOTHING = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
JITTER = tuple(NOTHING)
EVERY = edits.EditDistribution(3, operations=edits.OPERATIONS)
GRAY = np.array([0.2989, 0.587, 0.114])
APPLY = jax.jit(edits.apply)


def image(c=3, seed=0):
  """Pixels of the whole range; some gray, some at its ends."""
  picture = np.random.default_rng(seed).uniform(-1, 1, (H, W, c)).astype("f")
  picture[0, :4] = picture[0, :4, :1]
  picture[1, :2], picture[1, 2:4] = -1, 1
  return picture


def jittered(picture, brightness=1, contrast=1, saturation=1, hue=0):
  """Slow twin, pixel by pixel, by colorsys."""
  x = (np.float64(picture) + 1) / 2

  def clip(x):
    return np.minimum(np.maximum(x, 0), 1)

  x = clip(brightness * x)
  mean = np.mean([pixel @ GRAY for row in x for pixel in row])
  x = clip(mean + contrast * (x - mean))
  for i, j in itertools.product(range(H), range(W)):
    gray = x[i, j] @ GRAY
    pixel = clip(gray + saturation * (x[i, j] - gray))
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    x[i, j] = colorsys.hsv_to_rgb((h + hue) % 1, s, v)
  return 2 * x - 1


def seen(picture, zoom=1, aspect=1, shift_x=0, shift_y=0):
  """Slow twin: the box that is seen, sampled at the middles of its cells."""
  width, height = W * zoom * aspect**0.5, H * zoom / aspect**0.5
  # The picture moves right by s pixels of the result: the box to the left.
  left = (W - width) / 2 - shift_x * H / 256 * width / W
  top = (H - height) / 2 - shift_y * H / 256 * height / H
  out, mask = np.zeros(picture.shape), np.zeros((H, W), bool)
  for i, j in itertools.product(range(H), range(W)):
    y = top + (i + 0.5) * height / H - 0.5
    x = left + (j + 0.5) * width / W - 0.5
    mask[i, j] = -1e-3 <= y <= H - 0.999 and -1e-3 <= x <= W - 0.999
    for row, column in itertools.product(range(H), range(W)):
      weight = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
      out[i, j] += weight * picture[row, column]
  return out, mask


CASES = {
  "aspect": {"aspect": 4 / 3},
  "aspect_tall": {"aspect": 0.75, "zoom": 0.6, "shift_x": 220.0},
  "brightness": {"brightness": 1.4},
  "darkness": {"brightness": 0.6},
  "contrast": {"contrast": 1.4},
  "saturation": {"saturation": 1.4},
  "pale": {"saturation": 0.6},
  "hue": {"hue": 0.1},
  "hue_back": {"hue": -0.3},
  "jitter": {"brightness": 1.3, "contrast": 1.2, "saturation": 0.7, "hue": 0.1},
  "all": {
    **{"zoom": 0.9, "aspect": 1.2, "shift_x": -30.0, "shift_y": 40.0},
    **{"brightness": 0.8, "contrast": 1.4, "saturation": 1.4, "hue": -0.1},
    "color": np.float32([0.3, -0.2, 0.1]),
  },
}


def edited(picture, **parameters):
  values = {"color": np.zeros(picture.shape[-1])} | parameters
  values = {k: np.float32(v) for k, v in values.items()}
  return jax.device_get(APPLY(picture, edits.Edit(**values)))


@pytest.mark.parametrize("case", CASES)
def test_edits_against_a_slow_twin(case):
  parameters, picture = CASES[case].copy(), image()
  out, mask = edited(picture, **NOTHING | parameters)  # compiled once
  # Jitter, then color, then geometry.
  color = parameters.pop("color", 0)
  jitter = {k: parameters.pop(k) for k in JITTER if k in parameters}
  wanted, known = seen(jittered(picture, **jitter) + color, **parameters)
  np.testing.assert_array_equal(mask, known)
  assert known.any() and known.all() == (not parameters)
  np.testing.assert_allclose(out[mask], wanted[mask], atol=2e-5)
  assert np.abs(wanted - picture)[mask].mean() > 0.03


def test_a_box_inside_is_a_resized_crop():
  """What the pixel views cut out and resize, as zoom, aspect and shifts."""
  picture = image()
  top, left, height, width = 3, 2, 7, 12
  crop = jax.jit(
    pixel_ops.resized_crop, static_argnums=5, static_argnames="antialias"
  )(
    np.moveaxis(picture, -1, 0),
    top,
    left,
    height,
    width,
    (H, W),
    antialias=False,
  )
  middle = (left + width / 2 - W / 2, top + height / 2 - H / 2)
  out, mask = edited(
    picture,
    zoom=math.sqrt(height * width / (H * W)),
    aspect=(width / W) / (height / H),
    shift_x=-middle[0] * W / width * 256 / H,
    shift_y=-middle[1] * H / height * 256 / H,
  )
  assert mask.all()
  # At its border the crop repeats the box's edge; the edit sees beyond.
  inner = slice(1, -1), slice(1, -1)
  wanted = np.moveaxis(np.asarray(crop), 0, -1)
  np.testing.assert_allclose(out[inner], wanted[inner], atol=1e-5)


def test_nothing_is_nothing_and_one_channel_has_brightness():
  picture = image()
  out, mask = edited(picture, **NOTHING)
  np.testing.assert_allclose(out, picture, atol=2e-6)
  assert mask.all()
  edit = jax.device_get(EVERY.edit(np.zeros(EVERY.dims, np.float32)))
  named = {
    name: value for name, value in edit._asdict().items() if name in NOTHING
  }
  assert named == NOTHING and edit.aspect == 1
  # What is not drawn is left out: no rounding, and no clipping.
  wide = picture * 1.5
  np.testing.assert_array_equal(edited(wide)[0], wide)
  assert np.abs(edited(wide, hue=0.1)[0]).max() == pytest.approx(1)
  gray = image(1)
  out, _ = edited(gray, brightness=0.7, contrast=1.2)
  three, _ = edited(
    np.repeat(gray, 3, -1), **NOTHING | {"brightness": 0.7, "contrast": 1.2}
  )
  np.testing.assert_allclose(out[..., 0], three[..., 1], atol=1e-4)
  np.testing.assert_allclose(
    edited(gray, brightness=0.5, contrast=1.0)[0], gray / 2 - 0.5, atol=1e-6
  )


def test_gradients():
  """Finite at gray, black and white, and right along a random direction."""
  a = np.float32(np.random.default_rng(1).uniform(-0.7, 0.7, EVERY.dims))

  @jax.jit
  @jax.value_and_grad
  def value(picture, a):
    out, mask = edits.apply(picture, EVERY.edit(a))
    return jnp.sum(jnp.where(mask[..., None], out, 0.0) ** 2)

  for ends in (a, np.zeros_like(a), np.ones_like(a)):
    slope = value(image(), ends)[1]
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
  # Away from the clip and from where another channel becomes the largest.
  picture = np.random.default_rng(2).uniform(-0.1, 0.1, (H, W, 3))
  picture = np.float32(picture + [0.3, 0, -0.3])
  way = np.random.default_rng(3).normal(size=picture.shape).astype("f")
  up, down = (value(picture + d * way, a)[0] for d in (1e-3, -1e-3))
  along = np.sum(value(picture, a)[1] * way)
  assert abs(along) > 0.3
  np.testing.assert_allclose((up - down) / 2e-3, along, rtol=0.03)


def test_distribution():
  """What is drawn, and that GenRep's six draw as before there were more."""
  crop = dataclasses.replace(
    EVERY,
    operations=("zoom", "aspect", "hue"),
    zoom_in_only=True,
    max_zoom=math.sqrt(5),
  )

  def draw(key):
    a, some = EVERY.draw(key), crop.draw(key)
    return a, EVERY.edit(a), some, crop.edit(some)

  keys = jax.random.split(jax.random.key(0), 2000)
  a, edit, some, cut = jax.device_get(jax.jit(jax.vmap(draw))(keys))
  first, six = jax.device_get(
    jax.jit(lambda key: (EVERY.draw(key), edits.EditDistribution(3).draw(key)))(
      jax.random.key(7)
    )
  )
  np.testing.assert_array_equal(first[:8], six)
  recorded = ["0x1.0c24dp-3", "-0x1.a579cp-5", "-0x1.6a92cp-4"]  # the color
  assert [*six[5:]] == [float.fromhex(number) for number in recorded]
  assert np.abs(np.corrcoef(a.T) - np.eye(13)).max() < 0.09
  own = a[:, 8:]
  assert 0.99 < own.max(0).min() <= own.max() <= 1 and own.min(0).max() < -0.99
  np.testing.assert_allclose(own.std(0), 3**-0.5, rtol=0.05)  # uniform
  np.testing.assert_allclose(edit.aspect, (4 / 3) ** own[:, 0], rtol=1e-5)
  for i, name in enumerate(JITTER[:3], 1):
    np.testing.assert_allclose(
      getattr(edit, name), 1 + 0.4 * own[:, i], rtol=1e-5
    )
  np.testing.assert_allclose(edit.hue, 0.1 * own[:, 4], rtol=1e-5)
  # An area U(.2, 1); the same aspect and hue with others left out.
  np.testing.assert_array_equal(some[:, 1:], own[:, [0, 4]])
  area = np.sort(cut.zoom**2)
  np.testing.assert_allclose(area, np.linspace(0.2, 1, len(area)), atol=0.03)
  np.testing.assert_allclose(some[:, 0], np.log(cut.zoom), atol=1e-6)
  assert cut.brightness is None
  ends = {"zoom": (-math.log(5) / 2, 0.0), "aspect": (-1, 1), "hue": (-1, 1)}
  assert crop.ends().keys() == ends.keys()
  np.testing.assert_allclose([*crop.ends().values()], [*ends.values()])


def test_files(tmp_path):
  """One of before there were more operations, and one with them."""
  path = tmp_path / "walks.safetensors"
  distribution = {
    "channels": 3,
    "operations": ["zoom"],
    **{"max_rot3d": 60.0, "max_rot2d": 30.0, "max_zoom": 2.0},
    **{"max_shift": 100.0, "max_color": 0.5},
  }
  own = {"law": distribution, "generator_sha256": "ab"}
  weights.save(path, {"zoom": np.ones((1, 5), "f")}, {"walks": own})
  old = walks.read(path)
  assert old.distribution == edits.EditDistribution(
    3, operations=("zoom",), max_zoom=2.0
  )
  new = edits.EditDistribution(
    3, operations=("zoom", "hue"), max_hue=0.2, zoom_in_only=True
  )
  rows = {"zoom": np.ones((1, 5), "f"), "hue": np.zeros((1, 5), "f")}
  walks.save(path, new, rows, "ab", {})
  assert walks.read(path).distribution == new


def distribution_of(channels, **options):
  cfg = ml_collections.ConfigDict(options)
  plugins.fill(cfg, edits.OPTIONS, "program")
  return edits.make_distribution("program", cfg, channels)


@pytest.mark.parametrize(
  ("channels", "options", "words"),
  [
    (1, {"operations": ("zoom", "hue")}, ["hue", "1 channel", "needs 3"]),
    (1, {"operations": ("saturation",)}, ["saturation", "1 channel"]),
    (4, {"operations": ("contrast",)}, ["contrast", "4 channel", "1 or 3"]),
    (3, {"max_aspect": 1.0}, ["max_aspect", "> 1"]),
    (3, {"max_aspect": math.inf}, ["max_aspect", "inf", "finite"]),
    (3, {"max_brightness": 1.0}, ["max_brightness", "< 1"]),
    (3, {"max_contrast": 0.0}, ["max_contrast", "> 0"]),
    (3, {"max_saturation": math.nan}, ["max_saturation", "nan"]),
    (3, {"max_hue": 0.5}, ["max_hue", "< 0.5"]),
  ],
)
def test_bad_input_is_one_line(channels, options, words):
  with pytest.raises(errors.UsageError) as caught:
    distribution_of(channels, **options)
  line = str(caught.value)
  assert "\n" not in line and "program." in line
  for word in words:
    assert word in line, line


def test_options_become_the_distribution():
  options = {
    **{"operations": ("hue", "aspect", "zoom"), "zoom_in_only": True},
    **{"max_zoom": 2.0, "max_aspect": 1.5, "max_brightness": 0.8},
    **{"max_contrast": 0.7, "max_saturation": 0.6, "max_hue": 0.2},
  }
  made = distribution_of(3, **options)
  options["operations"] = ("zoom", "aspect", "hue")
  assert made == edits.EditDistribution(3, **options)
  assert distribution_of(1) == edits.EditDistribution(1)
  assert edits.EditDistribution(1).operations == edits.GENREP
  assert not edits.EditDistribution(1).zoom_in_only

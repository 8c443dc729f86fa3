"""Pixel edits, their masks and distributions; walks files and their view."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.lib import contracts, errors, plugins, weights
from genrep_jax.views import edits, walks

H, W = 16, 20
PX = 256 / H  # of a 256 px frame, to one pixel
APPLY = jax.jit(edits.apply)
Edit = edits.Edit


def image(h=H, w=W, c=3, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (h, w, c)).astype("f")


def smooth(h, w):
  """A picture without detail, at any resolution; [h w 1]."""
  y, x = np.mgrid[0:h, 0:w]
  y, x = (y + 0.5) / h - 0.5, (x + 0.5) / w - 0.5
  return np.float32(np.sin(4 * x + 1) * np.cos(3 * y))[..., None]


def edited(picture, **parameters):
  values = {k: jnp.float32(v) for k, v in parameters.items()}
  out, mask = APPLY(picture, Edit(**values))
  return np.asarray(out), np.asarray(mask)


def twin(picture, rot3d=0, rot2d=0, zoom=1, shift_x=0, shift_y=0, color=0):
  """The same by 3x3 matrices in homogeneous coordinates, pixel by pixel."""
  h, w, c = picture.shape
  f, px = math.hypot(h, w), h / 256
  yaw, angle = math.radians(rot3d), math.radians(rot2d)
  dx = -px * rot3d / 5
  # A point (x, y) of the plane is at (x cos + dx, y, f + x sin) in space.
  camera = np.diag([f, f, 1.0])
  plane = np.array([[math.cos(yaw), 0, dx], [0, 1, 0], [math.sin(yaw), 0, f]])
  turn = np.array(  # counter-clockwise, where y points down
    [
      [math.cos(angle), math.sin(angle), 0],
      [-math.sin(angle), math.cos(angle), 0],
      [0, 0, 1],
    ]
  )
  move = np.array([[1, 0, px * shift_x], [0, 1, px * shift_y], [0, 0, 1.0]])
  size = np.diag([1 / zoom, 1 / zoom, 1])
  inverse = np.linalg.inv(move @ size @ turn @ camera @ plane)
  out, mask = np.zeros((h, w, c)), np.zeros((h, w), bool)
  for i in range(h):
    for j in range(w):
      x, y, k = inverse @ [j - (w - 1) / 2, i - (h - 1) / 2, 1]
      if k <= 1e-3 / f:
        continue
      x, y = x / k + (w - 1) / 2, y / k + (h - 1) / 2
      if not (-1e-3 <= x <= w - 1 + 1e-3 and -1e-3 <= y <= h - 1 + 1e-3):
        continue
      mask[i, j] = True
      for row in range(h):
        for column in range(w):
          weight = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
          if weight:
            out[i, j] += weight * (picture[row, column] + color)
  return out, mask


CASES = {
  "rot3d": {"rot3d": 50.0},
  "rot3d_left": {"rot3d": -60.0},
  "rot2d": {"rot2d": 25.0},
  "zoom_in": {"zoom": 0.4},
  "zoom_out": {"zoom": 3.1},
  "shift_x": {"shift_x": 2.3 * PX},
  "shift_y": {"shift_y": -4.6 * PX},
  "color": {"color": np.float32([0.3, -0.2, 0.5])},
  "all": {
    "rot3d": -40.0,
    "rot2d": -20.0,
    "zoom": 1.3,
    "shift_x": -20.0,
    "shift_y": 35.0,
    "color": np.float32([0.1, 0.2, -0.5]),
  },
  # The horizon of the turned plane is in the picture.
  "horizon": {"rot3d": 80.0, "zoom": 3.0, "shift_x": -30.0},
}


@pytest.mark.parametrize("case", CASES)
def test_edits_against_a_slow_twin(case):
  picture = image()
  out, mask = edited(picture, **CASES[case])
  wanted, known = twin(picture, **CASES[case])
  np.testing.assert_array_equal(mask, known)
  assert mask.any()
  np.testing.assert_allclose(out[mask], wanted[known], atol=2e-4)
  assert np.isfinite(out).all()


def test_no_edit_is_the_identity():
  picture = image()
  out, mask = edited(picture, color=0.0)
  np.testing.assert_array_equal(out, picture)
  assert mask.all()
  distribution = edits.EditDistribution(3)
  edit = distribution.edit(jnp.zeros(distribution.dims))
  np.testing.assert_allclose(edit.zoom, 1)
  out, mask = APPLY(picture, edit)
  np.testing.assert_array_equal(out, picture)
  assert mask.all()


def test_what_the_edits_look_like():
  """Signs and sizes, by eye: a dot right of the center and its way."""
  picture = np.zeros((17, 17, 1), np.float32)
  picture[8, 12] = 1  # 4 right of the center

  def peak(**parameters):
    out, mask = edited(picture, **parameters)
    return np.unravel_index(np.argmax(out[..., 0] * mask), (17, 17))

  px = 256 / 17
  assert peak(shift_x=3 * px) == (8, 15)
  assert peak(shift_y=3 * px) == (11, 12)
  assert peak(rot2d=90.0) == (4, 8)  # counter-clockwise: up
  assert peak(zoom=2.0) == (8, 10)
  assert peak(zoom=0.5) == (8, 16)
  # The right side goes away from the camera, and the left one comes.
  out, mask = edited(picture + 1, rot3d=50.0)
  assert mask[8].sum() < 17
  edges = np.flatnonzero(mask[8])
  assert mask[:, edges[-1]].sum() < mask[:, edges[0]].sum() == 17


@pytest.mark.parametrize(
  "there, back",
  [
    ({"shift_x": 3 * PX, "shift_y": -2 * PX}, None),
    ({"rot2d": 20.0}, {"rot2d": -20.0}),
    ({"zoom": 0.8}, {"zoom": 1.25}),
  ],
  ids=["shift", "rot2d", "zoom"],
)
def test_there_and_back(there, back):
  back = back or {key: -value for key, value in there.items()}
  picture = smooth(H, W)
  out, first = edited(picture, **there)
  again, second = edited(out, **back)
  # What came back unless it was out of the frame in between.
  kept, _ = edited(np.float32(first)[..., None], **back)
  known = second & (kept[..., 0] > 0.999)
  assert 0.3 * H * W < known.sum() < H * W
  np.testing.assert_allclose(again[known], picture[known], atol=0.02)


def test_masks_compose():
  """A mask after shift and rotation leaves out what either leaves out."""
  picture = image()
  shift, turn = {"shift_x": 5 * PX}, {"rot2d": 20.0}
  _, shifted = edited(picture, **shift)
  _, turned = edited(picture, **turn)
  _, both = edited(picture, **shift, **turn)
  assert not both[:, :3].any()  # uncovered by the shift
  # What the turn leaves out has moved along with the picture.
  np.testing.assert_array_equal(both[:, 5:], turned[:, :-5])
  # The original's way, the last mask alone, would let more in.
  assert (shifted & ~both).sum() > 10
  # Shown nowhere: an empty mask, and nothing that is not a number.
  out, mask = edited(picture, shift_x=400.0)
  assert not mask.any() and np.isfinite(out).all()


def test_resolution_scales():
  """An edit of twice the picture is twice the picture of the edit."""
  parameters = CASES["all"] | {"color": 0.2}
  small, small_mask = edited(smooth(16, 16), **parameters)
  large, large_mask = edited(smooth(32, 32), **parameters)
  mean = large.reshape(16, 2, 16, 2).mean((1, 3))
  sure = large_mask.reshape(16, 2, 16, 2).all((1, 3)) & small_mask
  assert sure.sum() > 80
  np.testing.assert_allclose(mean[sure], small[..., 0][sure], atol=0.02)
  assert abs(small_mask.mean() - large_mask.mean()) < 0.06


def test_distribution():
  distribution = edits.EditDistribution(3)
  assert distribution.dims == 8
  some = dataclasses.replace(distribution, operations=("zoom", "color"))
  keys = jax.random.split(jax.random.key(0), 4000)

  def draw(key):
    a = distribution.draw(key)
    return a, distribution.edit(a), some.draw(key)

  a, edit, a_of_some = jax.device_get(jax.jit(jax.vmap(draw))(keys))
  grids = {
    "rot3d": np.arange(-60, 61, 10),
    "rot2d": np.arange(-30, 31, 5),
    "shift_x": np.arange(-100, 101, 10),
    "shift_y": np.arange(-100, 101, 10),
  }
  column = {"rot3d": 0, "rot2d": 1, "zoom": 2, "shift_x": 3, "shift_y": 4}
  for name, grid in grids.items():
    values, counts = np.unique(
      np.rint(getattr(edit, name)).astype(int), return_counts=True
    )
    np.testing.assert_array_equal(values, grid)
    assert counts.min() > 0.6 * len(keys) / len(grid)
    np.testing.assert_allclose(
      a[:, column[name]], getattr(edit, name) / grid[-1], atol=1e-6
    )
  zoom = np.asarray(edit.zoom)
  np.testing.assert_allclose(a[:, 2], np.log(zoom), atol=1e-6)
  inward = zoom[zoom < 1]
  assert abs(len(inward) / len(zoom) - 0.5) < 0.03
  # U(.25, 1) and U(1, 4): means .625 and 2.5.
  assert 0.25 <= inward.min() < 0.26 and abs(inward.mean() - 0.625) < 0.02
  assert 3.95 < zoom.max() <= 4 and abs(zoom[zoom > 1].mean() - 2.5) < 0.08
  color = a[:, 5:]
  np.testing.assert_array_equal(color, edit.color)
  assert 0.49 < color.max() <= 0.5 and -0.5 <= color.min() < -0.49
  assert np.abs(np.corrcoef(a.T) - np.eye(8)).max() < 0.06
  # Some operations only: the same draws of them, and no others.
  np.testing.assert_array_equal(a_of_some, a[:, [2, 5, 6, 7]])
  assert some.edit(a[0, [2, 5, 6, 7]]).rot3d == 0
  assert some.ends() == {
    "zoom": (-math.log(4), math.log(4)),
    "color": (-0.5, 0.5),
  }


# The view.
SHA = "ab" * 32
GENERATOR = contracts.Generator(
  (8, 8), 1, 5, 0, None, None, lambda variables, z, y: None, sha256=SHA
)


def make(generator=GENERATOR, **options):
  return plugins.make("views/latent", {"name": "walks", **options}, generator)


@pytest.fixture
def file(tmp_path):
  """Walks whose directions are the axes of a 5-dimensional latent space."""
  distribution = edits.EditDistribution(
    1, operations=("rot3d", "zoom", "color")
  )
  directions = {
    name: np.eye(5, dtype=np.float32)[i : i + 1]
    for i, name in enumerate(distribution.operations)
  }
  path = tmp_path / "walks.safetensors"
  digest = walks.save(path, distribution, directions, SHA, {"seed": 3})
  assert digest == weights.sha256(path)
  return path


def moved_by(file, *changes, count=300):
  """What each view adds to the same latents, and the coefficients drawn."""
  made = [make(file=str(file), **options) for options in changes]
  distribution = walks.read(file).distribution

  @jax.jit
  @jax.vmap
  def run(key, z):
    return [view(key, z, 0) - z for view in made], distribution.draw(key)

  z = jax.random.normal(jax.random.key(1), (count, 5))
  keys = jax.random.split(jax.random.key(2), count)
  return jax.device_get(run(keys, z))


def test_a_file_comes_back(file):
  made = walks.read(file)
  assert made.distribution == edits.EditDistribution(
    1, operations=("rot3d", "zoom", "color")
  )
  assert made.generator_sha256 == SHA
  np.testing.assert_array_equal(made.directions["zoom"], [[0, 1, 0, 0, 0]])
  assert weights.read_metadata(file)["seed"] == 3


def test_the_view_adds_the_walks_by_their_distribution(file):
  (moved, far, some), a = moved_by(
    file,
    {},
    {"rot3d_gain": 5.0, "gain": 2.0},
    {"operations": ("color", "zoom")},
  )
  np.testing.assert_allclose(moved[:, :3], a, atol=1e-6)
  assert not moved[:, 3:].any() and np.abs(moved[:, :3]).std(0).min() > 0
  # GenRep's data sets: the third dimension five times as far.
  np.testing.assert_allclose(far, moved * [10, 2, 2, 2, 2], atol=1e-5)
  # Some operations: the others stay, these do as before.
  np.testing.assert_allclose(some, moved * [0, 1, 1, 1, 1], atol=1e-6)


def test_bad_input_of_the_view_is_one_line(file, tmp_path):
  def refuse(options, *words, generator=GENERATOR):
    with pytest.raises(errors.UsageError) as caught:
      make(generator, **options)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("views.latent.")
    for word in words:
      assert word in line, line

  refuse({}, "views.latent.file", "configs/walks")
  refuse({"file": "/no/walks.safetensors"}, "/no/walks.safetensors")
  good = {"file": str(file)}
  refuse({**good, "operations": ("rot2d",)}, "rot2d", "rot3d, zoom")
  refuse({**good, "operations": ("zoom", "zoom")}, "each once")
  refuse({**good, "gain": math.inf}, "gain: given inf")
  other = dataclasses.replace(GENERATOR, latent_dim=7)
  refuse(good, "7 numbers", "have 5", generator=other)
  asset = "asset:fashion_mnist_unconditional.safetensors"
  refuse({"file": asset}, "no walks", "configs/walks")
  text = tmp_path / "text.safetensors"
  text.write_text("no safetensors")
  refuse({"file": str(text)}, "text.safetensors")
  made = walks.read(file)
  bad = tmp_path / "nan.safetensors"
  directions = made.directions | {"zoom": np.full((1, 5), np.nan, "f")}
  walks.save(bad, made.distribution, directions, SHA, {})
  refuse({"file": str(bad)}, "NaN", "zoom")
  del directions["zoom"]
  walks.save(bad, made.distribution, directions, SHA, {})
  refuse({"file": str(bad)}, "wanted", "'zoom': (1,)")
  # Another generator's: another sha256, or random weights, which have none.
  other = dataclasses.replace(GENERATOR, sha256="cd" * 32)
  refuse(good, SHA, "cd" * 32, generator=other)
  random = dataclasses.replace(GENERATOR, sha256="")
  refuse(good, SHA, "random", generator=random)
  # The same of a view within another.
  view = {"name": "mixture", "views": {"walks": good}}
  refuse(view, SHA, "random", generator=random)
  assert make(**view)
  walks.save(bad, made.distribution, made.directions, other.sha256, {"seed": 4})
  assert make(other, file=str(bad))


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"operations": ()}, ["operations", "()", "rot3d, rot2d"]),
    ({"operations": "zoom"}, ["operations", "'zoom'", "a tuple"]),
    ({"operations": ("shear",)}, ["shear", "rot3d, rot2d"]),
    ({"operations": ("zoom", "zoom")}, ["('zoom', 'zoom')", "once"]),
    ({"max_rot3d": 90.0}, ["max_rot3d", "90.0", "< 90"]),
    ({"max_zoom": 1.0}, ["max_zoom", "1.0", "> 1"]),
    ({"max_shift": -3.0}, ["max_shift", "-3.0", "< 256"]),
    ({"max_color": math.nan}, ["max_color", "nan"]),
  ],
)
def test_bad_input_of_the_distribution_is_one_line(options, words):
  cfg = ml_collections.ConfigDict(options)
  with pytest.raises(errors.UsageError) as caught:
    plugins.fill(cfg, edits.OPTIONS, "program")
  line = str(caught.value)
  assert "\n" not in line and "program." in line
  for word in words:
    assert word in line, line

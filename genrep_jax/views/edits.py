"""Pixel edits that latent walks learn to imitate, with valid-pixel masks.

GenRep (`biggan_steer_train.py`, `pixel_transformations.py`), after Jahanian et
al. 2020, "On the steerability of generative adversarial networks". An edit
jitters the colors, adds a color offset, then turns the image out of its
plane, turns it in its plane, stretches, zooms and shifts it:

  T = shift o zoom o aspect o rot2d o rot3d o color o jitter.

Six of these are GenRep's, and the default. The others imitate SimCLR's pixel
transforms (the original's `train_steer_simclr_transforms.py`): aspect, zoom
inwards and shifts are its RandomResizedCrop; brightness, contrast, saturation
and hue its ColorJitter. Two differences. Jitter is in this order, torchvision's
in a random one, which no sum of walks could follow. And as all coefficients are
independent, the box that is seen may reach out of the frame, where
RandomResizedCrop's never does; the mask leaves out what is not known there. The
original also adds an MLP (132 -> 132 -> 128) of latent and coefficients to its
jitter walk; here walks are linear, so that one file says all of what they do.

The geometric six are composed into one inverse map from output to source
pixels: one bilinear sampling, and one mask that is True where the source pixel
lies in the frame, whatever came between. (The original resamples after every
operation, and its later masks overwrite the earlier ones.)

rot3d is a pinhole camera: the image plane yaws by phi about its vertical middle
axis, moves by dx = -phi / 5 (degrees to pixels of a 256 px frame), and is seen
from f = sqrt(h^2 + w^2) pixels away with the focal length f. The original's
`image_transformer` is this plus one pixel: it turns the plane z = 1, not z = 0,
so that its picture shifts by sin(phi) pixels and is not quite the identity at
phi = 0.

Everything here is traced and of static shape: `vmap` it. The sampling gathers,
which a TPU does slowly; a perspective map has no separable, gather-free form.
Beside the generator that rendered the image it is small.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrep_jax.lib import options
from genrep_jax.views import pixel_ops

GENREP = ("rot3d", "rot2d", "zoom", "shift_x", "shift_y", "color")
_JITTER = ("brightness", "contrast", "saturation", "hue")  # in this order
_SIMCLR = ("aspect", *_JITTER)
# The order in which the rows of all walks follow each other. An operation keeps
# its place: what walks start from hangs on it.
OPERATIONS = GENREP + _SIMCLR
_SIMCLR_STREAM = 0x53696D  # their draws; GenRep's come from the key itself
_REFERENCE_PX = 256.0  # frame height that shifts are given for
_ROT3D_SHIFT_PX = -0.2  # dx per degree of yaw
# Values on either side of 0: multiples of 10 and 5 degrees and of 10 pixels.
_GRID = {"rot3d": 6, "rot2d": 6, "shift_x": 10, "shift_y": 10}
# Channels of images that have a gray level, and of those that have colors.
_CHANNELS = {"contrast": (1, 3), "saturation": (3,), "hue": (3,)}
_TOLERANCE_PX = 1e-3  # of the frame's edge, for rounding


class Edit(NamedTuple):
  """Parameters of one edit; the defaults change nothing.

  Attributes:
    rot3d: yaw out of the plane, degrees; positive turns the right side away.
    rot2d: rotation about the center, degrees, counter-clockwise.
    zoom: size of what is seen / size of the frame; < 1 crops, > 1 pads.
    shift_x: to the right, pixels of a frame 256 pixels high.
    shift_y: down, likewise.
    color: offset per channel [c] of an image in [-1, 1], or one for all.
    aspect: width / height of what is seen, as a multiple of the frame's; > 1
      squeezes the picture's width and stretches its height, at the same area.
    brightness: factor towards black (0); None leaves it out, as below.
    contrast: factor towards the image's mean gray.
    saturation: factor towards each pixel's gray.
    hue: turn of the color circle, in circles.
  """

  rot3d: jax.Array | float = 0.0
  rot2d: jax.Array | float = 0.0
  zoom: jax.Array | float = 1.0
  shift_x: jax.Array | float = 0.0
  shift_y: jax.Array | float = 0.0
  color: jax.Array | float = 0.0
  aspect: jax.Array | float = 1.0
  brightness: jax.Array | float | None = None
  contrast: jax.Array | float | None = None
  saturation: jax.Array | float | None = None
  hue: jax.Array | float | None = None


def apply(image, edit: Edit) -> tuple[jax.Array, jax.Array]:
  """Edits an image.

  Args:
    image: [h w c] in [-1, 1].
    edit: its parameters.

  Returns:
    (image [h w c], not clipped but by jitter; mask [h w], True where the pixel
    shows a point of the given image). Other pixels repeat the frame's edge.
  """
  h, w, _ = image.shape
  x, y, ahead = _source(h, w, edit)
  inside = ahead & _within(x, w) & _within(y, h)
  return _bilinear(_jitter(image, edit) + edit.color, x, y), inside


def _jitter(image, edit):
  """Changes the colors of image [h w c] as the pixel views do.

  In [0, 1], x -> (x + 1) / 2, clipped to it before and after each of the steps
  that are there, and back. Contrast's mean is over the whole image.
  """
  steps = [(n, getattr(edit, n)) for n in _JITTER]
  steps = [(name, value) for name, value in steps if value is not None]
  if not steps:
    return image
  planes = jnp.clip((jnp.moveaxis(image, -1, 0) + 1) / 2, 0, 1)
  for name, value in steps:
    planes = getattr(pixel_ops, f"adjust_{name}")(planes, value)
  return jnp.moveaxis(2 * planes - 1, 0, -1)


def _within(x, size):
  return (x >= -_TOLERANCE_PX) & (x <= size - 1 + _TOLERANCE_PX)


def _source(h, w, edit):
  """Where the pixels of the edited image come from.

  Written out, not as products of 3x3 matrices: those would be rounded to
  bfloat16 on a TPU.

  Returns:
    (column, row, in front of the camera), each [h w], in source pixels.
  """
  scale = h / _REFERENCE_PX
  columns = jnp.arange(w, dtype=jnp.float32)[None] - (w - 1) / 2
  rows = jnp.arange(h, dtype=jnp.float32)[:, None] - (h - 1) / 2
  stretch = jnp.sqrt(edit.aspect)
  x = edit.zoom * stretch * (columns - scale * edit.shift_x)
  y = edit.zoom / stretch * (rows - scale * edit.shift_y)
  angle = jnp.deg2rad(edit.rot2d)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  x, y = x * cos - y * sin, x * sin + y * cos
  # x' = f (x cos + dx) / (f + x sin), y' = f y / (f + x sin), solved for x, y.
  yaw = jnp.deg2rad(edit.rot3d)
  cos, sin = jnp.cos(yaw), jnp.sin(yaw)
  slope = sin / math.hypot(h, w)
  denominator = cos - x * slope
  ahead = denominator > 1e-3  # else at or beyond the plane's horizon
  dx = scale * _ROT3D_SHIFT_PX * edit.rot3d
  x = (x - dx) / jnp.where(ahead, denominator, 1.0)
  y = y * (1 + x * slope)
  return x + (w - 1) / 2, y + (h - 1) / 2, ahead


def _bilinear(image, x, y):
  """Samples image [h w c] at columns x and rows y [h w], edges repeated."""
  h, w, c = image.shape
  pixels = image.reshape(h * w, c)

  def neighbors(x, size):
    x = jnp.clip(x, 0, size - 1)
    low = jnp.floor(x)
    first = low.astype(jnp.int32)
    return first, jnp.minimum(first + 1, size - 1), x - low

  left, right, fx = neighbors(x, w)
  top, bottom, fy = neighbors(y, h)
  fx, fy = fx[..., None], fy[..., None]
  above = pixels[top * w + left] * (1 - fx) + pixels[top * w + right] * fx
  below = pixels[bottom * w + left] * (1 - fx) + pixels[bottom * w + right] * fx
  return above * (1 - fy) + below * fy


@dataclasses.dataclass(frozen=True)
class EditDistribution:
  """What edits are drawn, and which latent coefficients stand for them.

  A coefficient a_d belongs to one walk w_d, z' = z + sum_d a_d w_d; the color
  has one per channel. Coefficients and parameters determine each other:

    rot3d, rot2d  a = angle / maximum, angle in 13 equal steps from -maximum up
    zoom          a = ln zoom; half the draws U(1 / maximum, 1), half
                  U(1, maximum); with zoom_in_only zoom^2 is
                  U(1 / maximum^2, 1), the share of the frame that is seen
    shift         a = shift / maximum, in 21 equal steps
    color         a = offset, U(-maximum, maximum)
    aspect        a = ln aspect / ln maximum, U(-1, 1)
    brightness, contrast, saturation
                  a = (factor - 1) / maximum, U(-1, 1)
    hue           a = turn / maximum, U(-1, 1)

  The defaults are GenRep's, and SimCLR's for what GenRep has not. SimCLR's zoom
  is zoom_in_only, max_zoom = sqrt 5. With other maxima the steps scale.

  Attributes:
    channels: c of the images.
    operations: those that are drawn, in the order of OPERATIONS.
    max_rot3d: degrees.
    max_rot2d: degrees.
    max_zoom: in and out.
    max_shift: pixels of a frame 256 pixels high.
    max_color: of an image in [-1, 1].
    zoom_in_only: draw no zoom > 1.
    max_aspect: and 1 / max_aspect.
    max_brightness: distance of the factor from 1.
    max_contrast: likewise.
    max_saturation: likewise.
    max_hue: in circles.
  """

  channels: int
  operations: tuple[str, ...] = GENREP
  max_rot3d: float = 60.0
  max_rot2d: float = 30.0
  max_zoom: float = 4.0
  max_shift: float = 100.0
  max_color: float = 0.5
  zoom_in_only: bool = False
  max_aspect: float = 4 / 3
  max_brightness: float = 0.4
  max_contrast: float = 0.4
  max_saturation: float = 0.4
  max_hue: float = 0.1

  def rows(self, operation: str) -> int:
    """Number of coefficients of an operation."""
    return self.channels if operation == "color" else 1

  @property
  def dims(self) -> int:
    """Number of all coefficients."""
    return sum(self.rows(operation) for operation in self.operations)

  def ends(self) -> dict[str, tuple[float, float]]:
    """The smallest and the largest coefficient of every operation."""
    ends = {"zoom": math.log(self.max_zoom), "color": self.max_color}
    ends = {name: ends.get(name, 1.0) for name in self.operations}
    ends = {name: (-end, end) for name, end in ends.items()}
    if "zoom" in ends and self.zoom_in_only:
      ends["zoom"] = (ends["zoom"][0], 0.0)
    return ends

  def draw(self, key: jax.Array) -> jax.Array:
    """Draws the coefficients a [dims] of one edit.

    What an operation draws does not depend on which others there are.
    """
    # One draw for all: XLA compiles each of its own slowly.
    uniform = jax.random.uniform(key, (len(GENREP) - 1 + self.channels,))
    if set(self.operations) & set(_SIMCLR):
      key = jax.random.fold_in(key, _SIMCLR_STREAM)
      more = jax.random.uniform(key, (len(_SIMCLR),))
    drawn = []
    for name in self.operations:
      if name in _SIMCLR:
        start = _SIMCLR.index(name)
        drawn.append(2 * more[start : start + 1] - 1)
        continue
      start = GENREP.index(name)  # the color's channels come last
      u = uniform[start : start + self.rows(name)]
      if name == "zoom":
        a = self._draw_zoom(u)
      elif name == "color":
        a = self.max_color * (2 * u - 1)
      else:
        steps = _GRID[name]
        a = (jnp.floor((2 * steps + 1) * u) - steps) / steps
      drawn.append(a)
    return jnp.concatenate(drawn)

  def _draw_zoom(self, u):
    if self.zoom_in_only:
      low = self.max_zoom**-2
      return 0.5 * jnp.log(low + (1 - low) * u)
    inward, u = u < 0.5, 2 * u % 1.0
    low = jnp.where(inward, 1.0 / self.max_zoom, 1.0)
    high = jnp.where(inward, 1.0, self.max_zoom)
    return jnp.log(low + (high - low) * u)

  def edit(self, a: jax.Array) -> Edit:
    """Returns the pixel parameters of coefficients a [dims]."""
    most = {
      "rot3d": self.max_rot3d,
      "rot2d": self.max_rot2d,
      "shift_x": self.max_shift,
      "shift_y": self.max_shift,
      "hue": self.max_hue,
    }
    values, start = {}, 0
    for name in self.operations:
      own = a[start : start + self.rows(name)]
      start += self.rows(name)
      if name == "color":
        values[name] = own
      elif name == "zoom":
        values[name] = jnp.exp(own[0])
      elif name == "aspect":
        values[name] = jnp.exp(math.log(self.max_aspect) * own[0])
      elif name in most:
        values[name] = own[0] * most[name]
      else:
        values[name] = 1 + own[0] * getattr(self, f"max_{name}")
    return Edit(**values)


def some_operations(least: int = 1) -> options.Option:
  """Declares an option that names operations, at least so many."""
  return options.several(
    GENREP,
    options.choice(None, OPERATIONS),
    "the edits, all made at once",
    least=least,
    only=("each once", lambda names: len(set(names)) == len(names)),
  )


# Of an EditDistribution; the defaults are GenRep's.
OPTIONS = {
  "operations": some_operations(),
  "max_rot3d": options.number(60.0, "yaw", above=0, below=90, unit="degrees"),
  "max_rot2d": options.number(
    30.0, "rotation", above=0, below=180, unit="degrees"
  ),
  "max_zoom": options.number(4.0, "in and out", above=1, high=100),
  "max_shift": options.number(
    100.0, "of a frame 256 pixels high", above=0, below=256, unit="px"
  ),
  "max_color": options.number(
    0.5, "offset of an image in [-1, 1]", above=0, high=2
  ),
  "zoom_in_only": options.flag(False, "draw no zoom > 1"),
  "max_aspect": options.number(4 / 3, "and its inverse", above=1, high=100),
  **{
    f"max_{name}": options.number(
      0.4, "distance of the factor from 1", above=0, below=1
    )
    for name in ("brightness", "contrast", "saturation")
  },
  "max_hue": options.number(0.1, "in circles", above=0, below=0.5),
}


def make_distribution(path: str, cfg, channels: int) -> EditDistribution:
  """Makes an EditDistribution of options.

  Args:
    path: of the options, for messages.
    cfg: the options of `OPTIONS`, checked, among others.
    channels: c of the images.

  Raises:
    UsageError: an operation that images of so many channels cannot show.
  """
  values = {name: cfg[name] for name in OPTIONS}
  values["operations"] = tuple(n for n in OPERATIONS if n in cfg.operations)
  for name in values["operations"]:
    allowed = _CHANNELS.get(name, (channels,))
    if channels not in allowed:
      options.refuse(
        f"{path}.operations",
        name,
        f"what images of {channels} channel(s) can show; it needs "
        f"{' or '.join(map(str, allowed))}",
      )
  return EditDistribution(channels=channels, **values)

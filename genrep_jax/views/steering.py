"""Six pixel edits that latent walks learn to imitate, with valid-pixel masks.

GenRep (`biggan_steer_train.py`, `pixel_transformations.py`), after Jahanian et
al. 2020, "On the steerability of generative adversarial networks". An edit adds
a colour offset, then turns the image out of its plane, turns it in its plane,
zooms and shifts it:

  T = shift o zoom o rot2d o rot3d o color.

The geometric five are composed into one inverse map from output to source
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

from genrep_jax.lib import errors

# The order in which the rows of all walks follow each other.
OPERATIONS = ("rot3d", "rot2d", "zoom", "shift_x", "shift_y", "color")
_REFERENCE_PX = 256.0  # frame height that shifts are given for
_ROT3D_SHIFT_PX = -0.2  # dx per degree of yaw
# Values on either side of 0: multiples of 10 and 5 degrees and of 10 pixels.
_GRID = {"rot3d": 6, "rot2d": 6, "shift_x": 10, "shift_y": 10}
_TOLERANCE_PX = 1e-3  # of the frame's edge, for rounding


class Edit(NamedTuple):
  """Parameters of one edit; the defaults change nothing.

  Attributes:
    rot3d: yaw out of the plane, degrees; positive turns the right side away.
    rot2d: rotation about the centre, degrees, counter-clockwise.
    zoom: size of what is seen / size of the frame; < 1 crops, > 1 pads.
    shift_x: to the right, pixels of a frame 256 pixels high.
    shift_y: down, likewise.
    color: offset per channel [c] of an image in [-1, 1], or one for all.
  """

  rot3d: jax.Array | float = 0.0
  rot2d: jax.Array | float = 0.0
  zoom: jax.Array | float = 1.0
  shift_x: jax.Array | float = 0.0
  shift_y: jax.Array | float = 0.0
  color: jax.Array | float = 0.0


def apply(image, edit: Edit) -> tuple[jax.Array, jax.Array]:
  """Edits an image.

  Args:
    image: [h w c] in [-1, 1].
    edit: its parameters.

  Returns:
    (image [h w c], not clipped; mask [h w], True where the pixel shows a point
    of the given image). Other pixels repeat the frame's edge.
  """
  h, w, _ = image.shape
  x, y, ahead = _source(h, w, edit)
  inside = ahead & _within(x, w) & _within(y, h)
  return _bilinear(image + edit.color, x, y), inside


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
  x = edit.zoom * (columns - scale * edit.shift_x)
  y = edit.zoom * (rows - scale * edit.shift_y)
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

  def neighbours(x, size):
    x = jnp.clip(x, 0, size - 1)
    low = jnp.floor(x)
    first = low.astype(jnp.int32)
    return first, jnp.minimum(first + 1, size - 1), x - low

  left, right, fx = neighbours(x, w)
  top, bottom, fy = neighbours(y, h)
  fx, fy = fx[..., None], fy[..., None]
  above = pixels[top * w + left] * (1 - fx) + pixels[top * w + right] * fx
  below = pixels[bottom * w + left] * (1 - fx) + pixels[bottom * w + right] * fx
  return above * (1 - fy) + below * fy


@dataclasses.dataclass(frozen=True)
class Law:
  """What edits are drawn, and which latent coefficients stand for them.

  A coefficient a_d belongs to one walk w_d, z' = z + sum_d a_d w_d; the colour
  has one per channel. Coefficients and parameters determine each other:

    rot3d, rot2d  a = angle / maximum, angle in 13 equal steps from -maximum up
    zoom          a = ln zoom; half the draws U(1 / maximum, 1), half
                  U(1, maximum)
    shift         a = shift / maximum, in 21 equal steps
    color         a = offset, U(-maximum, maximum)

  The defaults are GenRep's. With other maxima the steps scale.

  Attributes:
    channels: c of the images.
    operations: those that are drawn, in the order of OPERATIONS.
    max_rot3d: degrees.
    max_rot2d: degrees.
    max_zoom: in and out.
    max_shift: pixels of a frame 256 pixels high.
    max_color: of an image in [-1, 1].
  """

  channels: int
  operations: tuple[str, ...] = OPERATIONS
  max_rot3d: float = 60.0
  max_rot2d: float = 30.0
  max_zoom: float = 4.0
  max_shift: float = 100.0
  max_color: float = 0.5

  def rows(self, operation: str) -> int:
    """Number of coefficients of an operation."""
    return self.channels if operation == "color" else 1

  @property
  def dims(self) -> int:
    """Number of all coefficients."""
    return sum(self.rows(operation) for operation in self.operations)

  def ends(self) -> dict[str, float]:
    """The largest coefficient of every operation; the smallest is minus it."""
    ends = {"zoom": math.log(self.max_zoom), "color": self.max_color}
    return {name: ends.get(name, 1.0) for name in self.operations}

  def draw(self, key: jax.Array) -> jax.Array:
    """Draws the coefficients a [dims] of one edit.

    What an operation draws does not depend on which others there are.
    """
    # One draw for all: XLA compiles each of its own slowly.
    uniform = jax.random.uniform(key, (len(OPERATIONS) - 1 + self.channels,))
    drawn = []
    for name in self.operations:
      start = OPERATIONS.index(name)  # the colour's channels come last
      u = uniform[start : start + self.rows(name)]
      if name == "zoom":
        inward, u = u < 0.5, 2 * u % 1.0
        low = jnp.where(inward, 1.0 / self.max_zoom, 1.0)
        high = jnp.where(inward, 1.0, self.max_zoom)
        a = jnp.log(low + (high - low) * u)
      elif name == "color":
        a = self.max_color * (2 * u - 1)
      else:
        steps = _GRID[name]
        a = (jnp.floor((2 * steps + 1) * u) - steps) / steps
      drawn.append(a)
    return jnp.concatenate(drawn)

  def edit(self, a: jax.Array) -> Edit:
    """Returns the pixel parameters of coefficients a [dims]."""
    most = {
      "rot3d": self.max_rot3d,
      "rot2d": self.max_rot2d,
      "shift_x": self.max_shift,
      "shift_y": self.max_shift,
    }
    values, start = {}, 0
    for name in self.operations:
      own = a[start : start + self.rows(name)]
      start += self.rows(name)
      if name == "color":
        values[name] = own
      else:
        values[name] = (
          jnp.exp(own[0]) if name == "zoom" else own[0] * most[name]
        )
    return Edit(**values)


def default_config() -> dict:
  """Returns the options of a `Law`, with GenRep's values."""
  fields = dataclasses.fields(Law)
  return {field.name: field.default for field in fields[1:]}


def make_law(path: str, cfg, channels: int) -> Law:
  """Makes a Law from options, checked.

  Args:
    path: where the options are, for messages.
    cfg: the options of `default_config`, among others.
    channels: c of the images.

  Raises:
    UsageError: no, unknown or repeated operations; a maximum out of range.
  """
  most = {"max_rot3d": 90, "max_rot2d": 180, "max_shift": 256}
  for name in default_config():
    if name == "operations":
      continue
    value, above = float(cfg[name]), 1 if name == "max_zoom" else 0
    if not above < value < most.get(name, math.inf):
      limit = f" < {most[name]}" if name in most else ", finite"
      raise errors.UsageError(
        f"{path}.{name}: {cfg[name]!r}; allowed: {above} < {name}{limit}"
      )
  values = {name: float(cfg[name]) for name in default_config() if "_" in name}
  operations = chosen(f"{path}.operations", cfg.operations, OPERATIONS)
  return Law(channels=channels, operations=operations, **values)


def chosen(path: str, operations, known) -> tuple[str, ...]:
  """Returns some of the known operations in their order.

  Raises:
    UsageError: none, unknown or repeated ones.
  """
  given = tuple(operations)
  if not given or len(set(given)) < len(given) or set(given) - set(known):
    raise errors.UsageError(
      f"{path}: {given}; allowed: at least one of {', '.join(known)}, each once"
    )
  return tuple(name for name in known if name in given)

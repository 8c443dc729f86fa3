"""Dead leaves: random shapes that occlude each other.

Lee, Mumford & Huang 2001, as Baradad et al. 2021 use it ("Learning to See by
Looking at Noise"). Radii in units of the image's side have density r^-3 - 1 on
[0.03, 1]; centers, colors and angles are uniform.

Departures from the recipe, and why:
- a fixed number of shapes (sizes must be static) where the recipe paints until
  no pixel is black or 5000 shapes are painted; `coverage` says how far it got.
  Pixels under no shape are black, as in the recipe;
- radii, centers and corners are real numbers, not whole pixels, and a pixel is
  covered if its center is; radii interpolate the recipe's 200-point table: so
  that shapes move smoothly with the latent;
- textures are a few spectrum+color images drawn from the latent, which wrap
  around: each leaf sees one of them from an offset of its own. The recipe
  takes one of 10000 stored spectrum+color+WMM images per leaf.

Which shape is on top of a pixel is a step function of the latent: its gradient
is zero almost everywhere. Gradients reach the colors (or the textures) only.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.generators import (
  _procedural_latent as latent,
  _procedural_spectrum as spectrum,
)

SHAPES = ("square", "oriented_square", "mixed", "textures")
_KINDS = (
  6  # circle, square, oriented square, rectangle, triangle, quadrilateral
)
_RADII = np.linspace(0.03, 1.0, 200)  # shares of the image's side
_EXPONENT = 3


def _cumulative() -> np.ndarray:
  """Returns the cumulative distribution of the radii, on their table."""
  density = _RADII**-_EXPONENT - 1.0
  return np.cumsum(density) / np.sum(density)


def fields(cfg) -> latent.Fields:
  """Returns the fields of the latent; per leaf all but those of textures."""
  k = cfg.num_shapes
  found = {"radius": (k,), "center": (k, 2)}
  if cfg.shapes == "oriented_square":
    found["angles"] = (k, 1)
  if cfg.shapes in ("mixed", "textures"):
    found |= {"kind": (k,), "angles": (k, 4)}
  if cfg.shapes == "textures":
    textures = latent.size(spectrum.fields(cfg))
    return found | {"offset": (k, 2), "textures": (cfg.num_textures, textures)}
  return found | {"color": (k, 3)}


def radii(u: jax.Array) -> jax.Array:
  """Maps uniforms to radii, in units of the image's side."""
  return jnp.interp(u, _cumulative(), _RADII)


def corner_angles(shapes: str, numbers) -> tuple[jax.Array, jax.Array]:
  """Places the corners of every leaf on its circle.

  Args:
    shapes: one of SHAPES.
    numbers: uniforms of `fields`.

  Returns:
    ([k 4] rising angles, in radians; [k] bool, which leaves are circles). A
    triangle has one corner twice.
  """
  quarters = jnp.arange(4) * (jnp.pi / 2) + jnp.pi / 4
  square = jnp.broadcast_to(quarters, (numbers["radius"].shape[0], 4))
  circle = jnp.zeros(square.shape[:1], bool)
  if shapes == "square":
    return square, circle
  angles = 2 * jnp.pi * numbers["angles"]
  oriented = square + angles[:, :1]
  if shapes == "oriented_square":
    return oriented, circle
  a = angles[:, :1] / 4  # one corner of a rectangle, in the first quadrant
  rectangle = jnp.concatenate([a, jnp.pi - a, jnp.pi + a, 2 * jnp.pi - a], -1)
  three = jnp.sort(angles[:, :3], axis=-1)
  triangle = jnp.concatenate([three, three[:, 2:]], -1)
  polygons = [square, square, oriented, rectangle, triangle]
  polygons.append(jnp.sort(angles, axis=-1))
  kind = jnp.minimum((numbers["kind"] * _KINDS).astype(int), _KINDS - 1)
  chosen = jnp.stack(polygons)[kind, jnp.arange(kind.shape[0])]
  return chosen, kind == 0


def top(cfg, numbers) -> jax.Array:
  """Finds the leaf on top of every pixel.

  A polygon inscribed in a circle is where all p . n <= cos(h), n being the
  direction of the middle of an edge and h half the angle it spans.

  Args:
    cfg: the generator's config.
    numbers: uniforms of `fields`.

  Returns:
    int32 [h w], from 0; -1 where there is none. Later leaves are on top.
  """
  angles, circle = corner_angles(cfg.shapes, numbers)
  ends = jnp.concatenate([angles[:, 1:], angles[:, :1] + 2 * jnp.pi], -1)
  middle, half = (ends + angles) / 2, (ends - angles) / 2
  reach = jnp.where(circle[:, None], 2.0, jnp.cos(half))  # 2: no constraint
  normals = jnp.stack([jnp.cos(middle), jnp.sin(middle)], -1)
  centers = (jnp.arange(cfg.resolution) + 0.5) / cfg.resolution
  y, x = centers[:, None], centers[None, :]

  def paint(below, leaf):
    index, radius, center, normal, limit = leaf
    dx, dy = (x - center[0]) / radius, (y - center[1]) / radius
    inside = dx * dx + dy * dy <= 1
    for (nx, ny), bound in zip(normal, limit):
      inside &= dx * nx + dy * ny <= bound
    return jnp.where(inside, index, below), None

  leaves = (
    jnp.arange(cfg.num_shapes),
    radii(numbers["radius"]),
    numbers["center"],
    normals,
    reach,
  )
  nothing = jnp.full((cfg.resolution,) * 2, -1)
  painted, _ = jax.lax.scan(paint, nothing, jax.lax.stop_gradient(leaves))
  return painted


def image(cfg, z: jax.Array) -> jax.Array:
  """Draws one image [h w 3] in [-1, 1] of a latent."""
  normals = latent.split(z, fields(cfg))
  numbers = {name: latent.uniform(x) for name, x in normals.items()}
  index = top(cfg, numbers)
  if cfg.shapes == "textures":
    filled = _textured(cfg, index, numbers["offset"], normals["textures"])
  else:
    filled = 2 * numbers["color"][index] - 1
  return jnp.where(index[..., None] < 0, -1.0, filled)


def _textured(cfg, index, offsets, latents):
  """Looks every pixel up in its leaf's texture, moved by the leaf's offset."""
  textures = jax.vmap(lambda z: spectrum.image(cfg, z, color=True))(latents)
  size = cfg.resolution
  moves = jnp.floor(offsets * size).astype(int)[index]
  at = jnp.arange(size)
  rows = (at[:, None] + moves[..., 0]) % size
  columns = (at[None, :] + moves[..., 1]) % size
  return textures[index % cfg.num_textures, rows, columns]


def covered(cfg, z: jax.Array) -> jax.Array:
  """Returns the share of pixels under at least one leaf, of one latent."""
  normals = latent.split(z, fields(cfg))
  numbers = {name: latent.uniform(x) for name, x in normals.items()}
  return jnp.mean(top(cfg, numbers) >= 0)

"""Images of a frozen generator in calls of one size, on all local devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import images as images_lib, mesh as mesh_lib, rng


def anchor_keys(seed: int, stream: str, first: int, count: int) -> jax.Array:
  """Returns keys [count] of one of a run's streams, from anchor first on."""
  indices = jnp.uint32(first) + jnp.arange(count, dtype=jnp.uint32)
  return rng.per_index(rng.stream(seed, stream), indices)


def draw(generator, seed: int, count: int, first=0, *, stream="sample"):
  """Draws the anchors first, first + 1, ... of a seed, as training does.

  Returns:
    (z float32 [count sample_dim], y int32 [count]), numpy.
  """
  keys = anchor_keys(seed, stream, first, count)
  return jax.device_get(jax.jit(jax.vmap(generator.sample))(keys))


class Renderer:
  """Renders any number of latents."""

  def __init__(
    self,
    generator,
    variables,
    batch: int,
    most: int,
    *,
    drawn: bool,
    raw=False,
    uint8=False,
  ):
    """Puts the weights on the devices.

    Args:
      generator: contracts.Generator.
      variables: its weights.
      batch: images per device and call.
      most: latents of the largest request; no call need hold more.
      drawn: it is given z as `sample` draws them, not latents.
      raw: images are in the network's own range.
      uint8: images are bytes.
    """
    mesh = mesh_lib.make_mesh(jax.local_devices())
    devices = mesh.devices.size
    self.batch = min(batch, math.ceil(most / devices)) * devices
    self._split = mesh_lib.batch(mesh)
    whole = mesh_lib.replicated(mesh)
    self.variables = jax.device_put(variables, whole)
    apply = raw and generator.raw or generator.apply

    def render(variables, z, y):
      latents = generator.latents(variables, z, y) if drawn else z
      images = apply(variables, latents, y)
      return images_lib.to_uint8(images) if uint8 else jnp.float32(images)

    self._render = jax.jit(
      render,
      in_shardings=(whole, self._split, self._split),
      out_shardings=self._split,
    )

  def __call__(self, z, y, say=None) -> np.ndarray:
    """Renders z [n d], y int32 [n] -> [n h w c]; say(done, n) as it goes."""
    parts, count = [], len(z)
    for first in range(0, count, self.batch):
      rows = [x[first : first + self.batch] for x in (z, y)]
      size = len(rows[0])
      # The last call is filled up, so that one program serves all.
      filled = [
        np.concatenate([x, np.repeat(x[:1], self.batch - size, 0)])
        for x in rows
      ]
      images = self._render(
        self.variables, *jax.device_put(filled, self._split)
      )
      parts.append(np.asarray(images)[:size])
      if say:
        say(first + size, count)
    return np.concatenate(parts)

"""Rendering in chunks that bound memory."""

import math

import jax
import jax.numpy as jnp


def render(generator, variables, latents, y, *, devices: int, chunk: int = 0):
  """Renders latents, whole or in chunks.

  Args:
    generator: a contracts.Generator.
    variables: its weights.
    latents: [b v latent_dim].
    y: int32 [b], one class per anchor.
    devices: that share the batch axis.
    chunk: images rendered at once, over all devices; 0 renders all at once.

  Returns:
    images [b v h w c], float32.
  """
  b, v, latent_dim = latents.shape
  rows = latents.reshape(b * v, latent_dim)
  classes = jnp.broadcast_to(y[:, None], (b, v)).reshape(b * v)
  if not chunk or chunk >= b * v:
    images = generator.apply(variables, rows, classes)
  else:
    # Each device's rows are cut into the same number of chunks, so that no row
    # changes its device: [devices * chunks * per] -> chunks of [devices * per].
    chunks = math.ceil(b * v / chunk)
    while (b * v // devices) % chunks:
      chunks += 1

    def cut(x):
      x = x.reshape(devices, chunks, -1, *x.shape[1:])
      x = jnp.moveaxis(x, 1, 0)
      return x.reshape(chunks, -1, *x.shape[3:])

    def paste(x):
      x = x.reshape(chunks, devices, -1, *x.shape[2:])
      x = jnp.moveaxis(x, 0, 1)
      return x.reshape(b * v, *x.shape[3:])

    images = paste(
      jax.lax.map(
        lambda row: generator.apply(variables, *row), (cut(rows), cut(classes))
      )
    )
  return images.reshape(b, v, *images.shape[1:]).astype(jnp.float32)

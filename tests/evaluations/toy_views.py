"""A model whose generator and encoder are plain arithmetic.

A latent of 6 numbers is painted on 2x3 pixels; T_z adds noise of `sigma`, T_x
turns the brightness. The encoder multiplies the pixels by a matrix.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, mesh as mesh_lib, plugins

SHAPE = (2, 3, 1)
SIGMA = 0.3
MATRIX = np.random.default_rng(0).normal(size=(6, 8)) * (np.arange(8) > 0)


def noise(stream, index, shape):
  """Uniform noise of mean 0 and variance 1, [n *shape]: hashes compile fast."""
  size = math.prod(shape)
  number = index[:, None] * np.uint32(size) + np.arange(size, dtype=np.uint32)
  x = number + np.uint32(stream * 0x9E3779B9 % 2**32)
  for factor in (0x7FEB352D, 0x846CA68B):
    x = (x ^ (x >> 16)) * np.uint32(factor)
  x = (x ^ (x >> 16)).astype(jnp.float32) / 2.0**32
  return (np.sqrt(np.float32(12)) * (x - 0.5)).reshape(len(index), *shape)


def views(variables, index, count, *, latent=True, pixel=True, sigma=None):
  """See contracts.Model."""
  n = len(index)
  z = jnp.repeat(noise(1, index, (1, 6)), count, axis=1)
  if latent:
    scale = SIGMA if sigma is None else sigma
    z = z + scale * noise(2, index, (count, 6)) * variables["moves"]
  images = jnp.tanh(z).reshape(n, count, *SHAPE)
  if pixel:
    images = 0.5 * images + 0.2 * noise(3, index, (count, 1, 1, 1))
  return contracts.Judged(images, z, (z[:, 0, 0] > 0).astype(jnp.int32))


def encode(variables, images):
  """See contracts.Model."""
  flat = images.reshape(len(images), -1)
  return jnp.matmul(
    flat, variables["matrix"], precision=jax.lax.Precision.HIGHEST
  )


MODEL = contracts.Model(encode=encode, views=views, channels=1)


def variables(mesh, *, moves=(1, 1, 1, 1, 1, 1), matrix=None):
  """Places weights: which latents T_z moves, and the encoder [6 f]."""
  if matrix is None:
    matrix = MATRIX
  tree = {
    "moves": np.asarray(moves, np.float32),
    "matrix": np.asarray(matrix, np.float32),
  }
  return jax.device_put(tree, mesh_lib.replicated(mesh))


def run(name, devices=1, model=MODEL, weights=None, **options):
  """Runs an evaluation as the loop does; returns ({metric: value}, made)."""
  mesh = mesh_lib.make_mesh(jax.devices()[:devices])
  made = plugins.make("evaluations", {"name": name, **options}, model, mesh)
  placed = variables(mesh, **(weights or {}))
  with jax.transfer_guard("disallow"):
    found = dict(made.run(placed))
  assert made.headline in found
  return found, made

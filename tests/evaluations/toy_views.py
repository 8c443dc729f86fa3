"""A model whose generator and encoder are plain arithmetic.

A latent of 6 numbers is painted on 2x3 pixels; T_z adds noise of `sigma`, T_x
turns the brightness. The encoder multiplies the pixels by a matrix.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, mesh as mesh_lib, plugins, rng

SHAPE = (2, 3, 1)
SIGMA = 0.3
MATRIX = np.random.default_rng(0).normal(size=(6, 8)) * (np.arange(8) > 0)


def _normal(name, index, shape):
  keys = rng.per_index(rng.stream(0, name), index)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def views(variables, index, count, *, latent=True, pixel=True, sigma=None):
  """See contracts.Model."""
  n = len(index)
  z = jnp.repeat(_normal("z", index, (1, 6)), count, axis=1)
  if latent:
    scale = SIGMA if sigma is None else sigma
    z = z + scale * _normal("view", index, (count, 6)) * variables["moves"]
  images = jnp.tanh(z).reshape(n, count, *SHAPE)
  if pixel:
    images = 0.5 * images + 0.2 * _normal("pixel", index, (count, 1, 1, 1))
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

"""Stripes for real images, and a generator of the same with noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax import data
from genrep_jax.lib import contracts, mesh as mesh_lib, plugins
from tests.evaluations import toy_views

COUNT = 60


def stripes(count, seed):
  """Images of two classes: vertical and horizontal stripes, with noise."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, count)
  line = np.tile([40, 200], 6)
  images = np.where(labels[:, None, None] == 1, line[:, None], line[None])
  noise = rng.integers(-39, 40, images.shape)
  return (images + noise).astype(np.uint8)[..., None], labels


@functools.cache
def dataset() -> contracts.Dataset:
  """The real images; one object, so that one classifier is trained on them."""
  train, test = (contracts.Split(*stripes(COUNT, seed)) for seed in (0, 1))
  return contracts.Dataset("stripes", 2, (), train, test)


def generate(variables, index):
  """Test images, mixed with noise as far as the weights say."""
  real, labels = (jnp.asarray(x) for x in dataset().test)
  noise = toy_views.noise(0, index, (12, 12, 1))
  images = real[index % COUNT].astype(jnp.float32) / 127.5 - 1
  images = jnp.clip(images + variables["noise"] * noise, -1, 1)
  images = jnp.where(
    index[:, None, None, None] == variables["hole"], jnp.nan, images
  )
  return images, labels[index % COUNT].astype(jnp.int32)


MODEL = contracts.Model(generate=generate, channels=1)


def run(
  name, devices=1, model=MODEL, noise=0.0, hole=-1, dataset=dataset, **options
):
  """Runs an evaluation as the loop does; returns ({metric: value}, made)."""
  mesh = mesh_lib.make_mesh(jax.devices()[:devices])
  entry = {"name": name, "samples": 40, "batch": 20, "epochs": 12, **options}
  before, data.load = data.load, lambda entry, path: dataset()
  try:
    made = plugins.make("evaluations", entry, model, mesh)
  finally:
    data.load = before
  weights = jax.device_put(
    {"noise": np.float32(noise), "hole": np.int32(hole)},
    mesh_lib.replicated(mesh),
  )
  with jax.transfer_guard("disallow"):
    found = dict(made.run(weights))
  assert made.headline in found
  return found, made

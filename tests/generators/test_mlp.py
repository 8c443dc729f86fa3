"""The dense generator: by hand, its priors, its statistics."""

import jax
import numpy as np
import pytest

from genrep_jax.lib import plugins


def made(**options):
  entry = {"name": "mlp", "latent_dim": 4, "widths": (6, 5), "side": 3}
  return plugins.make("generators", entry | options)


def noisy(generator):
  """Variables away from their initial values."""
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: np.float32(x * 5 + random.uniform(0.1, 0.5, x.shape)),
    generator.init(jax.random.key(0)),
  )


@pytest.mark.parametrize("train", [True, False])
def test_by_hand(train):
  generator = made(channels=3)
  variables = noisy(generator)
  params, stats = variables["params"], variables["batch_stats"]
  z = np.random.default_rng(1).uniform(-1, 1, (7, 4)).astype(np.float32)
  y = np.zeros(7, np.int32)
  x = z
  for i in (0, 1):
    x = x @ params[f"dense{i}"]["kernel"]
    if i:
      x = x + z @ params["latent1"]["kernel"]
    norm = stats[f"norm{i}"]
    mean, var = norm["mean"], norm["var"]
    if train:
      mean, var = x.mean(axis=0), x.var(axis=0)
    x = (x - mean) / np.sqrt(var + 1e-5) + params[f"norm{i}"]["bias"]
    x = np.maximum(x, 0)
  pixels = 1 / (1 + np.exp(-(x @ params["to_pixels"]["kernel"])))
  if train:
    got, new = generator.train_apply(variables, z, y, momentum=0.0)
    first = z @ params["dense0"]["kernel"]
    np.testing.assert_allclose(
      new["batch_stats"]["norm0"]["var"], first.var(axis=0), rtol=1e-4
    )
  else:
    got = generator.apply(variables, z, y)
  np.testing.assert_allclose(
    got, 2 * pixels.reshape(7, 3, 3, 3) - 1, rtol=1e-3, atol=1e-4
  )


def test_priors():
  keys = jax.random.split(jax.random.key(0), 4000)
  z, y = jax.vmap(made().sample)(keys)
  assert z.shape == (4000, 4) and not y.any()
  assert -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1
  np.testing.assert_allclose(np.var(z), 1 / 3, rtol=0.02)
  z, _ = jax.vmap(made(prior="gaussian").sample)(keys)
  np.testing.assert_allclose(np.std(z), 1, rtol=0.02)
  assert np.abs(z).max() > 3

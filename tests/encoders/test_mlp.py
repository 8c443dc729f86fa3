"""The dense encoder: by hand, sizes, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import configs, errors, plugins
from tests import support


def made(**options):
  encoder = plugins.make("encoders", {"name": "mlp", **options})
  return encoder, encoder.init(jax.random.key(0), (4, 5, 3))


def lrelu(x):
  return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("train", [True, False])
def test_by_hand(train):
  encoder, variables = made(widths=(7, 6, 5))
  params, stats = variables["params"], variables["batch_stats"]
  random = np.random.default_rng(0)
  stats = jax.tree.map(lambda x: x + random.uniform(0.1, 1, x.shape), stats)
  params = jax.tree.map(lambda x: 10 * x + 0.1, params)
  images = random.normal(size=(9, 4, 5, 3)).astype(np.float32)
  features, new = encoder.apply(
    {"params": params, "batch_stats": stats}, images, train=train, local=True
  )
  x = lrelu(images.reshape(9, -1) @ np.asarray(params["dense0"]["kernel"]))
  for i in (1, 2):
    x = x @ np.asarray(params[f"dense{i}"]["kernel"])
    stored = stats[f"norm{i}"]
    mean, var = stored["mean"], stored["var"]
    if train:
      mean, var = x.mean(axis=0), x.var(axis=0)
      np.testing.assert_allclose(
        new[f"norm{i}"]["mean"],
        0.9 * stored["mean"] + 0.1 * mean,
        rtol=1e-4,
        atol=1e-5,
      )
    x = (x - mean) / np.sqrt(var + 1e-5) + params[f"norm{i}"]["bias"]
    x = lrelu(np.asarray(x))
  assert features.local is None and features.pooled.dtype == jnp.float32
  np.testing.assert_allclose(features.pooled, x, rtol=1e-4, atol=1e-4)


def test_weights_are_those_of_the_recipe():
  encoder = plugins.make("encoders", {"name": "mlp"})
  params = jax.eval_shape(
    lambda k: encoder.init(k, (28, 28, 1)), jax.random.key(0)
  )
  sizes = sorted(x.size for x in jax.tree.leaves(params["params"]))
  assert sizes == [1024, 784 * 1024, 1024 * 1024]
  drawn = made(widths=(256, 256))[1]["params"]["dense1"]["kernel"]
  np.testing.assert_allclose(np.std(drawn), 0.02, rtol=0.02)


def test_objectives_that_compare_local_maps_refuse_it():
  for name in ("dim", "amdim"):
    with pytest.raises(
      errors.UsageError, match="encoder.name: given 'mlp'; al"
    ):
      _ = support.open_run(
        configs.load(
          "configs/quickstart.py",
          ("encoder.name=mlp", f"objective.name={name}"),
        )
      ).program

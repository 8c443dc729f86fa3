"""The weighted sum: its parts, their gradients, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import configs, contracts, errors, heads, plugins
from tests import support

KEY = jax.random.key(0)
TERMS = {"simclr": {"weight": 0.5}, "classes": {"name": "supcon"}}


def _make(**terms):
  return plugins.make("objectives", {"name": "weighted", "terms": terms}, heads)


def _gradients(loss, params, features):
  """(Value, gradients by both), compiled."""
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, features)


def test_the_sum_and_its_gradients_are_those_of_its_terms():
  features = contracts.Features(jax.random.normal(KEY, (4, 2, 16)))
  abstract = jax.eval_shape(lambda: features)
  views = contracts.Views(jnp.zeros((4, 2, 1, 1, 1)), labels=jnp.arange(4) % 2)
  whole = _make(**TERMS)
  assert whole.requires == {"labels"} and whole.min_views == 2
  params, state = jax.eval_shape(lambda: whole.init(KEY, abstract))
  random = np.random.default_rng(0)  # to compile `init` takes seconds
  params = jax.tree.map(
    lambda x: random.normal(scale=0.1, size=x.shape).astype(np.float32), params
  )

  def loss(objective, params, state, features):
    return objective.apply(params, features, views, None, state, KEY)[0]

  value, grads = _gradients(
    lambda p, f: loss(whole, p, state, f), params, features
  )
  total, by_features = 0.0, 0.0
  for label, name, weight in (
    ("simclr", "simclr", 0.5),
    ("classes", "supcon", 1),
  ):
    one = plugins.make("objectives", {"name": name}, heads)
    value_, grads_ = _gradients(
      lambda p, f, one=one: loss(one, p, {}, f), params[label], features
    )
    total += weight * value_
    by_features += weight * grads_[1].pooled
    jax.tree.map(
      lambda g, h, w=weight: np.testing.assert_allclose(g, w * h, rtol=1e-5),
      grads[0][label],
      grads_[0],
    )
  np.testing.assert_allclose(value, total, rtol=1e-6)
  np.testing.assert_allclose(grads[1].pooled, by_features, rtol=1e-4, atol=1e-7)
  measured = jax.jit(
    lambda p, f: whole.apply(p, f, views, None, state, KEY)[1]
  )(params, features)
  assert {"simclr_loss", "classes_loss", "classes_embedding_norm"} <= set(
    measured
  )
  assert whole.chance(4, 2) == pytest.approx(1.5 * np.log(7))


@pytest.mark.parametrize(
  "terms, words",
  [
    ({}, "objective.terms: given {}; allowed: objectives"),
    ({"simclr": {"weight": -1.0}}, "terms.simclr.weight: given -1.0"),
    ({"simclr": {"weight": 0.0}}, "given {'simclr': 0.0}; .* a weight > 0"),
    ({"simclr": {"temprature": 1.0}}, "terms.simclr.temprature: unknown opt"),
    ({"simclr": {"temperature": 0.0}}, "terms.simclr.temperature: given 0.0"),
    ({"simcrl": {}}, "terms.simcrl.name: .*nearest: 'simclr'"),
    ({"weighted": {}}, "terms.weighted.name: .* no sum within a sum"),
    ({"a": {"name": "weighted", "terms": {"simclr": {}}}}, "within a sum"),
    ({"simclr": 1.0}, "terms.simclr: given 1.0; allowed: a dictionary"),
  ],
)
def test_what_it_refuses(terms, words):
  with pytest.raises(errors.UsageError, match=words):
    _make(**terms)


def test_terms_are_options_of_an_experiment(tmp_path):
  file = tmp_path / "both.py"
  file.write_text(
    "import importlib\n"
    "def get_config():\n"
    "  c = importlib.import_module('configs.quickstart').get_config()\n"
    "  c.objective = {'name': 'weighted', 'terms': {'simclr': {}}}\n"
    "  return c\n"
  )
  made = configs.load(
    str(file), ["objective.terms.simclr.temperature=0.3", *support.TINY]
  )
  assert made.objective.terms.simclr.temperature == 0.3
  assert made.objective.terms.simclr.weight == 1.0
  assert made.objective.terms.simclr.head_dim == 128

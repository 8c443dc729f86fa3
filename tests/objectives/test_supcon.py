"""SupCon: its labels decide the positives."""

import functools
import math

import jax
import numpy as np

from genrep_jax.lib import contracts, heads, plugins
from genrep_jax.objectives import simclr, supcon

_loss = jax.jit(functools.partial(supcon.loss, temperature=0.2))


def _normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_only_equality_of_labels_counts():
  z, labels = _normal(8, 2, 6), np.arange(8) % 3
  value = _loss(z, labels)
  assert value == _loss(z, 100 - 7 * labels)
  assert value != _loss(z, np.arange(8) % 2)


def test_one_class_has_no_best_key():
  """All labels equal: the loss of uniform targets, minimal at equal z."""
  labels = np.zeros(8, int)
  same = _loss(np.ones((8, 2, 6), np.float32), labels)
  np.testing.assert_allclose(same, math.log(15), rtol=1e-6)
  assert _loss(_normal(8, 2, 6), labels) > same


def test_order_of_the_anchors_does_not_matter():
  z, labels = _normal(8, 2, 6), np.arange(8) % 3
  order = np.random.default_rng(0).permutation(8)
  value, other = _loss(z, labels), _loss(z[order], labels[order])
  np.testing.assert_allclose(value, other, rtol=1e-6)


def test_objective_takes_the_labels_of_the_views():
  config = {"name": "supcon", "base_temperature": 0.07}
  objective = plugins.make("objectives", config, heads)
  assert objective.requires == {"labels"} and objective.min_views == 1
  np.testing.assert_allclose(
    objective.chance(256, 2), math.log(511) / 0.7, rtol=1e-6
  )
  features = contracts.Features(_normal(8, 2, 6))
  options = {"temperature": 0.1, "base_temperature": 0.07}

  @jax.jit
  def run(labels):
    params, state = objective.init(jax.random.key(1), features)
    views = contracts.Views(images=None, labels=labels)
    value, _, _ = objective.apply(params, features, views, None, state, None)
    variables = {"params": params, "batch_stats": {}}
    z, _ = heads.mlp([0], 128).apply(variables, features.pooled, True)
    return value, supcon.loss(z, labels, **options), simclr.loss(z, **options)

  value, by_label, by_anchor = run(np.arange(8) % 3)
  np.testing.assert_allclose(value, by_label, rtol=1e-5)
  assert abs(by_label - by_anchor) > 0.1
  value, _, by_anchor = run(np.arange(8))
  np.testing.assert_allclose(value, by_anchor, rtol=1e-5)

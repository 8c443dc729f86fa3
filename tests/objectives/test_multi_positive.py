"""Multi-positive cross-entropy: where it meets SimCLR and SupCon."""

import functools

import jax
import numpy as np
import pytest

from genrep_jax.lib import heads, plugins
from genrep_jax.objectives import multi_positive, simclr, supcon

_loss = jax.jit(functools.partial(multi_positive.loss, temperature=0.2))


def _normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_three_names_of_one_function(views):
  z, tau = _normal(6, views, 8), 0.2
  functions = (
    lambda z: multi_positive.loss(z, temperature=tau),
    lambda z: simclr.loss(z, temperature=tau),
    lambda z: supcon.loss(z, np.arange(6), temperature=tau),
  )

  @jax.jit
  def run(z):
    return [jax.value_and_grad(f)(z) for f in functions]

  results = run(z)
  for value, grad in results[1:]:
    np.testing.assert_allclose(value, results[0][0], rtol=1e-6)
    np.testing.assert_allclose(grad, results[0][1], rtol=1e-5, atol=1e-7)


def test_two_views_are_nt_xent():
  """SimCLR's eq. 1 with its own indices: 2i and 2i + 1 are a pair."""
  z, tau = _normal(5, 2, 8), 0.2
  rows = np.asarray(z, np.float64).reshape(10, 8)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  similar = np.exp(rows @ rows.T / tau)
  losses = [
    -np.log(similar[i, i ^ 1] / (similar[i].sum() - similar[i, i]))
    for i in range(10)
  ]
  value = _loss(z)
  np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)


def test_order_of_the_views_does_not_matter():
  z = _normal(6, 4, 8)
  value, other = _loss(z), _loss(z[:, [2, 0, 3, 1]])
  np.testing.assert_allclose(value, other, rtol=1e-6)


def test_objective():
  objective = plugins.make("objectives", {"name": "multi_positive"}, heads)
  assert objective.requires == frozenset() and objective.min_views == 2
  assert objective.chance(64, 4) == pytest.approx(np.log(255))

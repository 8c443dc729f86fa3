"""SimCLR: limits, symmetries, and the objective built from a config."""

import functools
import math

import jax
import numpy as np
import pytest

from genrep_jax.lib import contracts, errors, heads, plugins
from genrep_jax.objectives import _contrastive, simclr

_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
_GENREP = {"temperature": 0.1, "base_temperature": 0.07}
_CHANCE = 1 / 0.7 * math.log(511)  # 8.909: GenRep's loss without information


def _make(**options):
  return plugins.make("objectives", {"name": "simclr", **options}, heads)


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _loss(**options):
  return _jit(functools.partial(simclr.loss, **options))


def _run(objective, pooled):
  """Runs a freshly initialized objective on features [b v f]."""

  @_jit
  def run(pooled):
    features = contracts.Features(pooled)
    params, state = objective.init(jax.random.key(3), features)
    views = contracts.Views(images=None)
    out = objective.apply(params, features, views, None, state, None)
    return params, *out

  return run(pooled)


def test_equal_embeddings_cost_log_of_the_others():
  z = np.broadcast_to(_normal(16), (8, 2, 16))
  np.testing.assert_allclose(_loss(temperature=0.1)(z), math.log(15), rtol=1e-6)


@pytest.mark.parametrize("d", [16384, 128])
def test_independent_embeddings(d):
  """They cost log(n - 1) + 1 / (2 tau^2 d): 8.909 where tau^2 d >> 1.

  The second term is half the variance of a logit, from the mean of exp. At
  GenRep's own d = 128 it is not small: such embeddings would start at 9.47.
  """
  value = _loss(**_GENREP)(_normal(256, 2, d))
  beyond = 1 / 0.7 / (2 * 0.1**2 * d)
  spread = 1 / 0.7 / (0.1 * math.sqrt(d * 256))  # of the mean positive
  assert abs(value - _CHANCE - beyond) < 3 * spread
  assert (abs(value - _CHANCE) < 0.03) == (d == 16384)


def test_orthogonal_embeddings_cost_log_of_the_others():
  z = np.eye(512, dtype=np.float32).reshape(256, 2, 512)
  np.testing.assert_allclose(_loss(**_GENREP)(z), _CHANCE, rtol=1e-6)


def test_start_behind_a_fresh_head():
  """The loss starts at 8.909 because embeddings start nearly equal.

  512 vectors cannot be orthogonal in d = 128; random ones there cost about 9.5.
  But pooled rectified features are all positive, hence nearly parallel, a fresh
  head keeps them so, and equal cosines of any size cost log(n - 1).
  """
  maps = np.maximum(_normal(256, 2, 16, 512), 0)
  objective = _make(base_temperature=0.07)
  _, value, metrics, _ = _run(objective, maps.mean(axis=2))
  assert abs(value - _CHANCE) < 0.03
  assert metrics["positive_cosine"] > 0.85 and metrics["negative_cosine"] > 0.85
  np.testing.assert_allclose(objective.chance(256, 2), _CHANCE, rtol=1e-6)


def test_order_of_the_anchors_does_not_matter():
  z, order = _normal(9, 2, 8), np.random.default_rng(0).permutation(9)
  loss = functools.partial(simclr.loss, temperature=0.2)
  step = _jit(jax.value_and_grad(loss))
  (value, grad), (other, other_grad) = step(z), step(z[order])
  np.testing.assert_allclose(value, other, rtol=1e-6)
  np.testing.assert_allclose(grad[order], other_grad, rtol=1e-4, atol=1e-7)


def test_length_of_the_embeddings_does_not_matter():
  z, loss = _normal(6, 2, 8), _loss(temperature=0.2)
  lengths = np.linspace(0.1, 3, 12, dtype=np.float32).reshape(6, 2, 1)
  np.testing.assert_allclose(loss(z), loss(lengths * z), rtol=1e-5)


def test_base_temperature_is_a_factor():
  z = _normal(6, 2, 8)
  np.testing.assert_allclose(
    _loss(**_GENREP)(z), _loss(temperature=0.1)(z) / 0.7, rtol=1e-6
  )


def test_objective_is_the_loss_of_the_head():
  pooled = _normal(8, 3, 12)
  objective = _make(temperature=0.3, head_hidden=20, head_dim=6)
  assert objective.requires == frozenset() and objective.min_views == 2
  params, value, metrics, state = _run(objective, pooled)
  shapes = [x.shape for x in jax.tree.leaves(params)]
  assert sorted(shapes) == [(6,), (12, 20), (20,), (20, 6)] and state == {}

  @_jit
  def expected(params):
    variables = {"params": params, "batch_stats": {}}
    z, _ = heads.mlp([20], 6).apply(variables, pooled, True)
    return z, _contrastive.terms(z, None, temperature=0.3)

  z, terms = expected(params)
  np.testing.assert_allclose(value, terms.loss, rtol=1e-5)
  want = {
    "contrastive_accuracy": terms.accuracy,
    "positive_cosine": terms.positive_cosine,
    "negative_cosine": terms.negative_cosine,
    "embedding_norm": np.linalg.norm(z, axis=-1).mean(),
  }
  assert metrics.keys() == want.keys()
  for name, number in want.items():
    np.testing.assert_allclose(metrics[name], number, rtol=1e-4, atol=1e-6)


def test_chunked_objective_is_the_objective():
  pooled = _normal(8, 2, 12)
  whole = _run(_make(), pooled)
  chunked = _run(_make(chunk_rows=4), pooled)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole,
    chunked,
  )
  # The default hidden width is that of the features.
  assert {(12, 12), (12, 128)} < {x.shape for x in jax.tree.leaves(whole[0])}


def test_accuracy_of_a_collapse_and_of_separated_anchors():
  run = functools.partial(_run, _make())
  _, _, metrics, _ = run(np.ones((16, 2, 32), np.float32))
  assert metrics["contrastive_accuracy"] == 0
  _, _, metrics, _ = run(np.repeat(_normal(16, 1, 32), 2, axis=1))
  assert metrics["contrastive_accuracy"] == 1
  np.testing.assert_allclose(metrics["positive_cosine"], 1, rtol=1e-5)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("temperature", 0.0),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", 1e-30),
    ("temperature", 1e30),
    ("base_temperature", 1e-30),
    ("base_temperature", -0.07),
    ("chunk_rows", -1),
    ("head_hidden", -1),
    ("head_dim", 0),
    ("head_dim", 10**12),
  ],
)
def test_bad_option(key, value):
  with pytest.raises(errors.UsageError) as caught:
    _make(**{key: value})
  message = str(caught.value)
  assert f"objective.{key}: given {value}; allowed: " in message
  assert "\n" not in message


def test_chunk_is_checked_before_anything_runs():
  objective = _make(chunk_rows=5)
  features = contracts.Features(jax.ShapeDtypeStruct((8, 2, 4), "f4"))
  with pytest.raises(errors.UsageError, match="given 5; .* of the 16 rows"):
    objective.init(jax.random.key(0), features)

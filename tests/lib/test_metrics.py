"""Metrics on the device: averages, and the first step that went wrong."""

import json

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import metrics


def _one(step, loss):
  return metrics.collection(jnp.int32(step), loss=loss, accuracy=2.0 * step)


def test_pieces_are_clu_metrics():
  one = _one(1, 3.0)
  assert isinstance(one, clu.metrics.Metric)
  assert isinstance(one.averages["loss"], clu.metrics.Average)
  assert isinstance(one.first_nonfinite, clu.metrics.Metric)


def test_averages_over_elements_and_steps():
  total = _one(0, jnp.array([1.0, 3.0]))
  for step in (1, 2):
    total = metrics.merge_donated(total, _one(step, jnp.array([4.0, 6.0])))
  assert metrics.compute(total) == {
    "loss": pytest.approx(4.0),
    "accuracy": pytest.approx(2.0),
  }
  assert metrics.first_nonfinite(total) is None


def test_bfloat16_is_averaged_in_float32():
  value = jnp.array([256.0, 1.0], jnp.bfloat16)  # 257 is no bfloat16
  one = metrics.collection(jnp.int32(0), x=value)
  assert metrics.compute(one)["x"] == 128.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_nonfinite_is_the_smallest_step(bad):
  merged = _one(5, 1.0)
  for step, loss in ((6, bad), (7, 1.0), (8, np.nan)):
    merged = metrics.merge(merged, _one(step, jnp.float32(loss)))
  assert metrics.first_nonfinite(merged) == 6
  backwards = metrics.merge(_one(8, jnp.float32(bad)), merged)
  assert metrics.first_nonfinite(backwards) == 6
  assert not np.isfinite(metrics.compute(merged)["loss"])


def test_any_metric_counts_not_only_the_loss():
  one = metrics.collection(jnp.int32(3), loss=1.0, grad_norm=jnp.float32("inf"))
  assert metrics.first_nonfinite(one) == 3


def test_empty_is_neutral():
  empty = metrics.FirstNonFinite.empty()
  some = metrics.FirstNonFinite(jnp.int32(4))
  assert int(empty.merge(some).compute()) == 4
  assert int(some.merge(empty).compute()) == 4


def test_reduce_over_scan_equals_python_loop():
  losses = jnp.array([1.0, 2.0, np.nan, 5.0])

  @jax.jit
  def call(step):
    def body(step, loss):
      return step + 1, _one(step, loss)

    return jax.lax.scan(body, step, losses)[1].reduce()

  scanned = call(jnp.int32(10))
  looped = _one(10, losses[0])
  for i in range(1, 4):
    looped = looped.merge(_one(10 + i, losses[i]))
  assert metrics.first_nonfinite(scanned) == 12
  jax.tree.map(np.testing.assert_array_equal, scanned, looped)


def test_works_as_scan_carry():
  @jax.jit
  def call(total):
    def body(total, step):
      return total.merge(_one(step, step * 1.0)), None

    return jax.lax.scan(body, total, jnp.arange(1, 4))[0]

  assert metrics.compute(call(_one(0, jnp.float32(0.0))))["loss"] == 1.5


@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_packed_numbers_come_back_to_the_bit(bad):
  """Through JSON, as beside a checkpoint; then they are merged with others."""
  first, second = _one(3, 0.1 if bad is None else bad), _one(4, 1 / 3)
  packed = json.loads(json.dumps(metrics.pack(metrics.merge(first, second))))
  like = jax.eval_shape(lambda: _one(0, 0.0))
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  again = metrics.unpack(packed, like, sharding)
  whole = metrics.merge(metrics.merge(first, second), _one(5, 1.7))
  resumed = metrics.merge(again, _one(5, 1.7))
  for a, b in zip(
    jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
  ):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  assert metrics.first_nonfinite(resumed) == (None if bad is None else 3)


def test_nothing_measured_or_other_names_unpack_to_nothing():
  like = jax.eval_shape(lambda: _one(0, 0.0))
  assert metrics.pack(None) == {}
  assert metrics.unpack({}, like, None) is None
  other = metrics.pack(metrics.collection(jnp.int32(1), error=1.0))
  assert metrics.unpack(other, like, None) is None


def test_fetch_is_the_only_transfer():
  one = jax.jit(_one)(1, 3.0)
  metrics.fetch(one)  # compiles
  with jax.transfer_guard("disallow"):
    values, bad = metrics.fetch(
      metrics.merge_donated(one, jax.tree.map(jnp.copy, one))
    )
  assert values["loss"] == 3.0 and bad is None
  assert all(type(value) is float for value in values.values())

"""Eight devices are one device: same loss, same gradients, same state."""

import jax
import numpy as np
import pytest

from genrep_jax.lib import execution, mesh as mesh_lib
from tests import support


def after_one_step(config, devices):
  """Loss and gradients of the first step, the latter read off plain SGD."""
  program, mesh, state, frozen = support.open_program(config, devices)
  before = support.leaves(state.params)
  state, measured = execution.jit(program)(state, frozen)
  after = support.leaves(state.params)
  # SGD without momentum or decay: the update is the gradient times the rate,
  # which is large, so that the parameters' own size costs no digits.
  gradients = {name: (before[name] - after[name]) / RATE for name in before}
  return float(measured.compute()["loss"]), gradients, state


RATE = 1e3
SGD = (
  "optimizer.name=sgd",
  f"optimizer.learning_rate={RATE}",
  "optimizer.momentum=0.0",
  "optimizer.weight_decay=0.0",
  "schedule.name=constant",
)


@pytest.mark.parametrize(
  "overrides",
  [
    (),
    # With the features' batch norm after it, the last gain has no gradient
    # but rounding: it is undone.
    (
      *("encoder.norm=batch", "encoder.feature_norm=layer"),
      *("objective.name=supcon", "generator.num_classes=10"),
    ),
    ("objective.name=multi_positive", "views.num_views=4", "source.name=mix"),
  ],
  ids=["quickstart", "batch_norm_of_classes", "four_views_of_a_mix"],
)
def test_eight_devices_equal_one(overrides):
  config = support.tiny(*SGD, "global_batch=32", *overrides)
  loss_1, gradients_1, _ = after_one_step(config, 1)
  loss_8, gradients_8, state = after_one_step(config, 8)
  np.testing.assert_allclose(loss_8, loss_1, rtol=1e-6)
  assert max(np.abs(g).max() for g in gradients_1.values()) > 1e-3
  for name, gradient in gradients_1.items():
    scale = max(np.abs(gradient).max(), 1e-3)
    np.testing.assert_allclose(
      gradients_8[name], gradient, atol=1e-5 * scale, err_msg=name
    )
  whole = mesh_lib.replicated(support.mesh_of(8))
  for leaf in jax.tree.leaves(state):
    assert leaf.sharding.is_equivalent_to(whole, leaf.ndim)

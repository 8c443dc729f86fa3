"""The target network: an objective gets the average, and no gradient."""

import jax
import numpy as np
import pytest

from genrep_jax import run as run_lib
from genrep_jax.lib import contracts, errors, execution, rng
from tests import support

BYOL = ("objective.name=byol", "global_batch=8", "ema_decay=0.5")
OPTIONS = (
  *BYOL,
  "objective.projector_hidden=(16,)",
  "objective.projector_dim=8",
  "objective.predictor_hidden=(16,)",
)


@pytest.fixture(scope="module")
def run():
  """Three steps: (Run, states, losses, frozen)."""
  run = run_lib.Run(support.tiny(*OPTIONS, *support.SGD), support.mesh_of(1))
  program = run.program
  state, frozen = execution.initial(program), execution.put_frozen(program)
  jitted = execution.jit(program)
  states, losses = [jax.device_get(state)], []
  for _ in range(3):
    state, measured = jitted(state, frozen)
    states.append(jax.device_get(state))
    losses.append(float(measured.compute()["loss"]))
  return run, states, losses, frozen


def test_it_is_the_average_of_encoder_and_head(run):
  _, states, _, _ = run
  average = states[0].params
  for state in states[1:]:
    average = jax.tree.map(lambda a, b: (a + b) / 2, average, state.params)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
      average,
      state.ema["params"],
    )


def test_the_loss_is_that_of_the_averages_features(run):
  run, states, losses, frozen = run

  @jax.jit
  def loss_of(state, frozen):
    views, _ = run.stages.views(state.step, frozen)
    b, v = views.images.shape[:2]

    def features(params, batch_stats):
      rows = views.images.reshape(b * v, *views.images.shape[2:])
      variables = {"params": params["encoder"], "batch_stats": batch_stats}
      pooled = run.encoder.apply(variables, rows, train=True)[0].pooled
      return contracts.Features(pooled.reshape(b, v, -1))

    ema = state.ema["params"]
    target = contracts.Target(
      features(ema, state.ema["batch_stats"]), ema["head"]
    )
    loss, _, _ = run.objective.apply(
      state.params["head"],
      features(state.params, state.batch_stats),
      views,
      target,
      state.objective,
      rng.stream(run.seed, "objective"),
    )
    return loss

  for state, loss in zip(states, losses):
    np.testing.assert_allclose(loss_of(state, frozen), loss, rtol=1e-4)
  # After a few steps the average is another network: so would be the loss.
  last = states[-2]
  same = last.replace(ema={**last.ema, "params": last.params})
  assert abs(float(loss_of(same, frozen)) - losses[-1]) > 1e-4


def test_evaluations_can_take_either_network(run):
  run, states, _, frozen = run
  average = run.program.variables(states[-1], frozen)["params"]
  jax.tree.map(
    np.testing.assert_array_equal,
    average,
    states[-1].ema["params"]["encoder"],
  )
  own = support.tiny(*OPTIONS, "evaluate_ema=False")
  program = run_lib.Run(own, support.mesh_of(1)).program
  jax.tree.map(
    np.testing.assert_array_equal,
    program.variables(states[-1], frozen)["params"],
    states[-1].params["encoder"],
  )


def test_without_an_average_there_is_no_target():
  config = support.tiny(*OPTIONS, "ema_decay=0.0")
  with pytest.raises(errors.UsageError, match="needs a target network"):
    _ = run_lib.Run(config, support.mesh_of(1)).program

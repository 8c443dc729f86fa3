"""The online probe learns, and the encoder does not notice."""

import functools

import jax
import numpy as np
import pytest

from genrep_jax.lib import errors, execution
from tests import support

SMALL = ("encoder.width=0.1", "generator.widths=(4, 4)")
ON = ("program.online_probe=True", "program.online_learning_rate=0.003")


@functools.cache
def run(*overrides, steps=12):
  program = support.open_run(support.tiny(*overrides, *SMALL), 2).program
  state = execution.initial(program)
  step = execution.jit(program)
  logged = []
  for i in range(steps):
    frozen = execution.put_frozen(program, i)
    state, measured = step(state, frozen)
    logged.append({k: float(v) for k, v in measured.compute().items()})
  return jax.device_get(state), logged


def test_the_trunks_bits_do_not_change():
  plain, logged = run()
  probed, also = run(*ON)
  for name in ("params", "batch_stats", "opt_state", "objective"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(plain, name), getattr(probed, name)
    )
  assert [x["loss"] for x in logged] == [x["loss"] for x in also]
  assert plain.online == {} and "online_loss" not in logged[0]
  assert also[0]["online_loss"] == pytest.approx(np.log(10), abs=1e-5)
  assert np.abs(probed.online["params"]["kernel"]).max() > 0


def test_streamed_images_are_the_resident_ones_and_it_learns():
  resident, logged = run(*ON)
  streamed, _ = run(*ON, "program.online_source=stream")
  jax.tree.map(np.testing.assert_array_equal, resident, streamed)
  last = np.mean([x["online_loss"] for x in logged[-3:]])
  assert last < np.log(10) - 0.05


def test_images_of_other_channels_are_refused(monkeypatch):
  made = support.open_run(support.tiny(*ON))
  rgb = made.dataset.train.images.repeat(3, axis=-1)
  split = made.dataset.train._replace(images=rgb)
  made.dataset = type(made.dataset)("rgb", 10, (), split, split)
  with pytest.raises(
    errors.UsageError, match="online_probe: given 'rgb, c = 3"
  ):
    _ = made.program

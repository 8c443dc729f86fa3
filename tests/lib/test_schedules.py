"""Durations in steps, and learning-rate schedules."""

import math
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.lib import errors, schedules


def _config(**changed):
  return ml_collections.ConfigDict({"name": "cosine", **changed})


def _rates(schedule, steps):
  """Evaluates a schedule as the program does: traced, on int32."""
  return np.asarray(jax.jit(jax.vmap(schedule))(np.asarray(steps, np.int32)))


@pytest.mark.parametrize(
  ("keys", "steps"),
  [
    ({"total_steps": 7}, 7),
    ({"total_epochs": 2.0}, 40),  # 19.53 steps an epoch: 39.06, rounded up
    ({"total_epochs": 0.5}, 10),
    ({"total_examples": 512}, 2),
    ({"total_examples": 513}, 3),
    ({"total_steps": 0, "total_epochs": 0.0, "total_examples": 1}, 1),
  ],
)
def test_steps_of(keys, steps):
  cfg = ml_collections.ConfigDict(keys)
  got = schedules.steps_of(cfg, "total", examples_per_epoch=5000, batch=256)
  assert got == steps and isinstance(got, int)


def test_steps_of_is_not_fooled_by_rounding():
  cfg = {"total_epochs": 0.1 * 3}
  assert cfg["total_epochs"] * 10 > 3
  got = schedules.steps_of(cfg, "total", examples_per_epoch=10, batch=1)
  assert got == 3


def test_steps_of_may_be_optional():
  cfg = {"warmup_steps": 0, "warmup_epochs": 0.0}
  options = {"examples_per_epoch": 0, "batch": 1, "required": False}
  assert schedules.steps_of(cfg, "warmup", **options) == 0
  with pytest.raises(errors.UsageError, match="at most one of warmup_steps"):
    schedules.steps_of(
      {"warmup_steps": 1, "warmup_epochs": 1.0}, "warmup", **options
    )


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    (
      {"total_steps": 0, "total_epochs": 0.0, "total_examples": 0},
      "exactly one of total_steps, total_epochs, total_examples",
    ),
    (
      {"total_steps": 5, "total_epochs": 2.0},
      "given {'total_steps': 5, 'total_epochs': 2.0}; allowed: exactly one",
    ),
    ({"total_epochs": 2.0}, "total_epochs: given 2.0; .*endless.*total_steps"),
  ],
)
def test_bad_durations(keys, message):
  with pytest.raises(errors.UsageError, match=message):
    schedules.steps_of(keys, "total", examples_per_epoch=0, batch=256)


def test_cosine_with_warmup():
  schedule = schedules.make(
    _config(warmup_steps=10, warmup_start_fraction=0.1, final_fraction=0.01),
    base=2.0,
    total_steps=110,
  )
  rates = _rates(schedule, range(130))
  want = [2 * (0.1 + 0.9 * t / 10) for t in range(10)] + [
    2 * (0.01 + 0.99 * (1 + math.cos(math.pi * t / 100)) / 2)
    for t in range(101)
  ]
  np.testing.assert_allclose(rates[:111], want, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(rates[110:], 0.02, rtol=1e-5)
  assert rates.dtype == np.float32
  np.testing.assert_allclose(schedule(60), rates[60], rtol=1e-6)


def test_genrep_cosine():
  """Epoch e of 20: eta_min + (lr - eta_min) (1 + cos(pi e / 20)) / 2."""
  schedule = schedules.make(_config(), base=0.03, total_steps=20 * 50)
  lowest = 0.03 * 1e-3
  want = [
    lowest + (0.03 - lowest) * (1 + math.cos(math.pi * e / 20)) / 2
    for e in range(21)
  ]
  np.testing.assert_allclose(
    _rates(schedule, range(0, 1001, 50)), want, rtol=1e-4
  )


@pytest.mark.parametrize(
  "milestones",
  [
    {"milestone_steps": (600, 800)},
    {"milestone_epochs": (120, 160)},
    {"milestone_fractions": (0.6, 0.8)},
  ],
)
def test_genrep_step(milestones):
  schedule = schedules.make(
    _config(name="step", **milestones),
    base=0.03,
    total_steps=1000,
    steps_per_epoch=5,
  )
  got = _rates(schedule, [0, 599, 600, 799, 800, 999])
  want = 0.03 * np.array([1, 1, 0.1, 0.1, 0.01, 0.01])
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_milestones_count_from_the_start_of_the_run():
  schedule = schedules.make(
    _config(name="step", milestone_steps=(20,), warmup_epochs=2.0),
    base=1.0,
    total_steps=50,
    steps_per_epoch=4,
  )
  np.testing.assert_allclose(
    _rates(schedule, [0, 4, 8, 19, 20, 49]), [0, 0.5, 1, 1, 0.1, 0.1], rtol=1e-6
  )


def test_constant():
  schedule = schedules.make(_config(name="constant"), base=0.5, total_steps=9)
  np.testing.assert_array_equal(_rates(schedule, [0, 4, 100]), 0.5)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"name": "cosin"}, "name: given 'cosin'.*constant.*nearest: 'cosine'"),
    ({"warmup_steps": 100}, "warmup_steps: given 100; .* the run's 100 steps"),
    ({"warmup_steps": -5}, "warmup_steps: given -5; allowed: an integer >= 0"),
    ({"warmup_epochs": math.nan}, "warmup_epochs: given nan"),
    ({"warmup_steps": 1, "warmup_epochs": 1.0}, "at most one"),
    ({"warmup_epochs": 1.0}, "warmup_epochs: given 1.0; allowed: 0.*endless"),
    ({"warmup_start_fraction": 1.1}, "warmup_start_fraction: given 1.1"),
    ({"final_fraction": 2.0}, "final_fraction: given 2.0; .* number in 0..1"),
    ({"milestone_steps": (5,)}, "schedule.milestone_steps: unknown option"),
    ({"name": "step"}, "given {}; allowed: exactly one of milestone_steps"),
    (
      {"name": "step", "milestone_steps": (5,), "milestone_epochs": (1,)},
      "given {'milestone_steps': \\(5,\\), 'milestone_epochs'.*exactly one",
    ),
    ({"name": "step", "milestone_steps": (9, 5)}, "given \\(9, 5\\).*incr"),
    ({"name": "step", "milestone_steps": (0, 5)}, "given .*an integer >= 1"),
    ({"name": "step", "milestone_steps": ("a",)}, "given \\('a',\\); allowed"),
    ({"name": "step", "milestone_steps": "50"}, "given '50'; allowed: a tuple"),
    ({"name": "step", "milestone_steps": (5, 100)}, "the run's 100 steps"),
    ({"name": "step", "milestone_fractions": (0.5, 1.5)}, "given .* < 1"),
    ({"name": "step", "milestone_epochs": (1,)}, "no epochs"),
  ],
)
def test_bad_schedules(changed, message):
  with pytest.raises(errors.UsageError, match=message) as caught:
    schedules.make(_config(**changed), base=1.0, total_steps=100)
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith("schedule")


def test_a_warm_up_in_epochs_that_leaves_nothing_names_its_key():
  words = "schedule.warmup_epochs: given 2.0; .* 4 steps \\(it is 8\\)"
  with pytest.raises(errors.UsageError, match=words):
    schedules.make(
      _config(warmup_epochs=2.0), base=1.0, total_steps=4, steps_per_epoch=4
    )


def test_a_schedule_from_outside(monkeypatch):
  module = types.ModuleType("my_rates")
  monkeypatch.setitem(sys.modules, "my_lab.rates", module)

  def rates(function):
    module.make = lambda cfg, **_: function
    return schedules.make(
      _config(name="my_lab.rates", warmup_steps=2), base=2.0, total_steps=8
    )

  got = _rates(rates(lambda t: 1 / (1 + t)), range(5))
  np.testing.assert_allclose(got, [0, 1, 2 / 3, 2 / 4, 2 / 5], rtol=1e-6)
  for function, words in (
    (lambda t: jnp.stack([t, t]), r"float32\[2\]; allowed: a float32 scalar"),
    (lambda t: jnp.int32(1), r"int32\[\]"),
    (lambda t: t.nonsense, "my_lab.rates failed in .* AttributeError"),
    (3, "my_lab.rates failed in .*TypeError"),
  ):
    with pytest.raises(errors.PluginError, match=words) as caught:
      rates(function)
    assert "\n" not in str(caught.value)

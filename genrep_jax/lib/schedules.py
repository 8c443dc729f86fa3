"""Durations in steps, and learning rates as functions of the step."""

import math

import jax.numpy as jnp

from genrep_jax.lib import choices, errors

_UNITS = ("steps", "epochs", "examples")


def steps_of(cfg, what, *, examples_per_epoch, batch, required=True) -> int:
  """Turns `{what}_steps`, `{what}_epochs` or `{what}_examples` into steps.

  Args:
    cfg: mapping with some of the three keys; 0 means not set.
    what: e.g. "total" or "warmup".
    examples_per_epoch: anchors or images of one epoch; 0: there is no epoch.
    batch: examples of one step.
    required: exactly one key must be set; else none may be, and is 0 steps.

  Returns:
    Steps, rounded up: every example asked for is used.

  Raises:
    UsageError: none or several are set, one is negative, or epochs of a set
      without an end.
  """
  keys = [f"{what}_{unit}" for unit in _UNITS if f"{what}_{unit}" in cfg]
  given = {key: cfg[key] for key in keys if cfg[key]}
  shown = ", ".join(f"{key}={value}" for key, value in given.items())
  for key, value in given.items():
    if not (value > 0 and math.isfinite(value)):
      raise errors.UsageError(f"{key}: {value} is not >= 0 and finite")
  if len(given) > 1 or (required and not given):
    number = "exactly one" if required else "at most one"
    raise errors.UsageError(
      f"set {number} of {', '.join(keys)} (> 0); given: {shown or 'none'}"
    )
  if not given:
    return 0
  ((key, value),) = given.items()
  if key.endswith("steps"):
    steps = value
  elif key.endswith("epochs"):
    if not examples_per_epoch:
      raise errors.UsageError(
        f"{key}={value}: there is no epoch: the source is endless (set "
        f"sampler.num_anchors, or use {what}_steps)"
      )
    steps = value * examples_per_epoch / batch
  else:
    steps = value / batch
  # Not a step more because of a rounding error, as in 0.1 * 3 epochs.
  return math.ceil(steps * (1 - 1e-12))


def default_config() -> dict:
  """Returns the options of all schedules and their defaults."""
  return {
    "name": "cosine",  # constant | cosine | step
    "warmup_steps": 0,  # linear, before any of them; at most one of the two
    "warmup_epochs": 0.0,
    "warmup_start_fraction": 0.0,  # of the learning rate, at step 0
    "final_fraction": 1e-3,  # cosine: of the learning rate, at the end (GenRep)
    "milestone_steps": (),  # step: exactly one of the three
    "milestone_epochs": (),  # GenRep: (120, 160) of 200
    "milestone_fractions": (),  # of the run: GenRep's are (0.6, 0.8)
    "milestone_factor": 0.1,  # step: at each milestone
  }


def make(cfg, *, base, total_steps, steps_per_epoch=0.0):
  """Makes a learning-rate schedule.

  "cosine": from `base` at the end of the warm-up to final_fraction * base at
  total_steps. GenRep and its ancestor SupContrast compute the cosine over the
  whole run and let the warm-up end on it; without warm-up the two are equal.
  They also change it once an epoch; here it changes every step.
  "step": times milestone_factor from each milestone on.

  Args:
    cfg: see `default_config`.
    base: learning rate.
    total_steps: steps of the run.
    steps_per_epoch: for the keys in epochs; 0: there is no epoch.

  Returns:
    Function: step (int or int32 scalar, traceable) -> float32 scalar.

  Raises:
    UsageError: unknown name, or an option that is out of range.
  """
  choices.check("schedule.name", cfg.name, _SHAPES)
  for key in ("warmup_start_fraction", "final_fraction", "milestone_factor"):
    if not 0 <= cfg[key] <= 1:
      raise errors.UsageError(f"schedule.{key}: {cfg[key]} is not in [0, 1]")
  warmup = steps_of(
    cfg, "warmup", examples_per_epoch=steps_per_epoch, batch=1, required=False
  )
  if warmup >= total_steps:
    raise errors.UsageError(
      f"schedule: a warm-up of {warmup} steps leaves nothing of the run's "
      f"{total_steps} steps"
    )
  shape = _SHAPES[cfg.name](cfg, warmup, total_steps, steps_per_epoch)
  start = cfg.warmup_start_fraction

  def learning_rate(step):
    t = jnp.asarray(step, jnp.float32)
    fraction = shape(t)
    if warmup:
      rising = start + (1 - start) * t / warmup
      fraction = jnp.where(t < warmup, rising, fraction)
    return jnp.float32(base) * fraction

  return learning_rate


def _constant(cfg, warmup, total_steps, steps_per_epoch):
  """Returns t -> 1."""
  del cfg, warmup, total_steps, steps_per_epoch
  return jnp.ones_like


def _cosine(cfg, warmup, total_steps, steps_per_epoch):
  """Returns t -> half a cosine from 1 to the final fraction."""
  del steps_per_epoch
  final = cfg.final_fraction

  def fraction(t):
    done = jnp.clip((t - warmup) / (total_steps - warmup), 0, 1)
    return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * done))

  return fraction


def _step(cfg, warmup, total_steps, steps_per_epoch):
  """Returns t -> factor ** (number of milestones passed)."""
  del warmup
  keys = [f"milestone_{unit}" for unit in ("steps", "epochs", "fractions")]
  given = [key for key in keys if len(cfg[key])]
  if len(given) != 1:
    raise errors.UsageError(
      f"schedule step: set exactly one of {', '.join(keys)}; given: "
      f"{', '.join(given) or 'none'}"
    )
  (key,) = given
  values = tuple(cfg[key])
  rising = all(a < b for a, b in zip(values, values[1:], strict=False))
  if not rising or values[0] <= 0:
    raise errors.UsageError(
      f"schedule.{key}: {values} is not positive and increasing"
    )
  if key == "milestone_fractions" and values[-1] >= 1:
    raise errors.UsageError(f"schedule.{key}: {values} is not below 1")
  if key == "milestone_epochs" and not steps_per_epoch:
    raise errors.UsageError(
      f"schedule.{key}: {values}: there is no epoch: the source is endless"
    )
  unit = {
    "milestone_steps": 1,
    "milestone_epochs": steps_per_epoch,
    "milestone_fractions": total_steps,
  }[key]
  at = [value * unit for value in values]

  def fraction(t):
    passed = sum(jnp.where(t >= milestone, 1, 0) for milestone in at)
    return jnp.float32(cfg.milestone_factor) ** passed

  return fraction


_SHAPES = {"constant": _constant, "cosine": _cosine, "step": _step}

"""Durations in steps, and learning rates as functions of the step."""

import math

import jax
import jax.numpy as jnp
import ml_collections

from genrep_jax.lib import errors, options, plugins

_UNITS = ("steps", "epochs", "examples")


def steps_of(
  cfg, what, *, examples_per_epoch, batch, required=True, path=""
) -> int:
  """Turns `{what}_steps`, `{what}_epochs` or `{what}_examples` into steps.

  Args:
    cfg: mapping with some of the three keys, none negative; 0 means not set.
    what: e.g. "total" or "warmup".
    examples_per_epoch: anchors or images of one epoch; 0: there is no epoch.
    batch: examples of one step.
    required: exactly one key must be set; else none may be, and is 0 steps.
    path: of `cfg` in the config, for messages.

  Returns:
    Steps, rounded up: every example asked for is used.

  Raises:
    UsageError: none or several are set, or epochs of a set without an end.
  """
  keys = [f"{what}_{unit}" for unit in _UNITS if f"{what}_{unit}" in cfg]
  given = {key: cfg[key] for key in keys if cfg[key]}
  if len(given) > 1 or (required and not given):
    number = "exactly one" if required else "at most one"
    options.refuse(
      path or keys[0], given, f"{number} of {', '.join(keys)}, > 0"
    )
  if not given:
    return 0
  ((key, value),) = given.items()
  if key.endswith("steps"):
    steps = value
  elif key.endswith("epochs"):
    if not examples_per_epoch:
      options.refuse(
        f"{path}.{key}" if path else key,
        value,
        f"0: the source is endless, without epochs (set sampler.num_anchors, "
        f"or use {what}_steps)",
      )
    steps = value * examples_per_epoch / batch
  else:
    steps = value / batch
  # Not a step more because of a rounding error, as in 0.1 * 3 epochs.
  return math.ceil(steps * (1 - 1e-12))


def make(entry, *, base, total_steps, steps_per_epoch=0.0, path="schedule"):
  """Makes a learning-rate schedule, with its warm-up.

  Args:
    entry: of the config, `plugins.make` completes and checks it.
    base: learning rate.
    total_steps: steps of the run.
    steps_per_epoch: for the keys in epochs; 0: there is no epoch.
    path: of the entry in the config, for messages.

  Returns:
    Function: step (int or int32 scalar, traceable) -> float32 scalar.

  Raises:
    UsageError: an option is wrong, or the warm-up leaves nothing of the run.
    PluginError: the plug-in's function fails, or gives no float32 scalar.
  """
  cfg = ml_collections.ConfigDict(entry).copy_and_resolve_references()
  plugins.complete(cfg, "schedules", path)
  warmup = steps_of(
    cfg,
    "warmup",
    examples_per_epoch=steps_per_epoch,
    batch=1,
    required=False,
    path=path,
  )
  if warmup >= total_steps:
    key = "warmup_steps" if cfg.warmup_steps else "warmup_epochs"
    options.refuse(
      f"{path}.{key}",
      cfg[key],
      f"fewer than the run's {total_steps} steps (it is {warmup})",
    )
  shape = plugins.make(
    "schedules",
    cfg,
    path=path,
    warmup_steps=warmup,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
  )
  label = plugins.label_of("schedules", cfg.name)
  with plugins.guard(label, "the function that make returned"):
    given = jax.eval_shape(shape, jax.ShapeDtypeStruct((), jnp.float32))
  if (given.shape, given.dtype) != ((), jnp.float32):
    raise errors.PluginError(
      f"plug-in {label}: its function returned {given.dtype}"
      f"{list(given.shape)}; allowed: a float32 scalar"
    )
  start = cfg.warmup_start_fraction

  def learning_rate(step):
    t = jnp.asarray(step, jnp.float32)
    fraction = shape(t)
    if warmup:
      rising = start + (1 - start) * t / warmup
      fraction = jnp.where(t < warmup, rising, fraction)
    return jnp.float32(base) * fraction

  return learning_rate

"""A factor at each milestone; milestones count from the start of the run."""

import jax.numpy as jnp

from genrep_jax.lib import options


def _milestones(unit, help, *, of):
  rising = (
    "increasing",
    lambda x: all(a < b for a, b in zip(x, x[1:], strict=False)),
  )
  return options.several((), of, help, only=rising, unit=unit)


OPTIONS = {
  "milestone_steps": _milestones(
    "steps", "exactly one of the three is given", of=options.integer(low=1)
  ),
  "milestone_epochs": _milestones(
    "epochs", "GenRep: (120, 160) of 200", of=options.number(above=0)
  ),
  "milestone_fractions": _milestones(
    "", "of the run; GenRep's: (0.6, 0.8)", of=options.number(above=0, below=1)
  ),
  "milestone_factor": options.number(0.1, "at each of them", low=0, high=1),
}


def make(cfg, *, warmup_steps, total_steps, steps_per_epoch):
  """Makes t -> factor ** (number of milestones passed).

  Raises:
    UsageError: none or several of the milestones, one that lies beyond the
      run's end, or epochs of a source without an end.
  """
  del warmup_steps
  lengths = {  # in steps
    "milestone_steps": 1,
    "milestone_epochs": steps_per_epoch,
    "milestone_fractions": total_steps,
  }
  given = {key: tuple(cfg[key]) for key in lengths if cfg[key]}
  if len(given) != 1:
    options.refuse("schedule", given, f"exactly one of {', '.join(lengths)}")
  ((key, values),) = given.items()
  if not lengths[key]:
    options.refuse(f"schedule.{key}", values, "(): the source has no epochs")
  at = [value * lengths[key] for value in values]
  if at[-1] >= total_steps:
    options.refuse(
      f"schedule.{key}", values, f"within the run's {total_steps} steps"
    )

  def fraction(t):
    passed = sum(jnp.where(t >= milestone, 1, 0) for milestone in at)
    return jnp.float32(cfg.milestone_factor) ** passed

  return fraction

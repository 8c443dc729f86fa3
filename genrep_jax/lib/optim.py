"""Optimisers by name, and the moving average of weights."""

import re

import jax
import jax.numpy as jnp
import optax

from genrep_jax.lib import choices, errors, trees


def default_config() -> dict:
  """Returns the options of all optimisers; the defaults are GenRep's SGD."""
  return {
    "name": "sgd",  # sgd | adam | adamw | lars
    "learning_rate": 0.03,  # before the schedule
    "weight_decay": 1e-4,
    # Regular expressions on "encoder/conv0/kernel": these are not decayed, and
    # LARS leaves their step alone. GenRep decays all; LARS wants
    # ("bias", "scale").
    "decay_exclude": (),
    "clip_norm": 0.0,  # of the whole gradient, before decay; 0: off
    "momentum": 0.9,  # sgd, lars
    "nesterov": False,  # sgd, lars
    "b1": 0.9,  # adam, adamw
    "b2": 0.999,  # adam, adamw
    "eps": 1e-8,  # adam, adamw
    "trust_coefficient": 1e-3,  # lars
  }


def make(cfg, schedule) -> optax.GradientTransformation:
  """Makes the optimiser `cfg.name`.

  sgd and adam add weight_decay * w to the gradient, as PyTorch does; adamw
  subtracts learning_rate * weight_decay * w from the weights; lars scales
  (gradient + weight_decay * w) by trust_coefficient * |w| / |that| per leaf.

  Args:
    cfg: see `default_config`.
    schedule: step -> learning rate; `cfg.learning_rate` is the base it was
      made with and is only checked here.

  Returns:
    The transformation; its state is a pytree of arrays. `init` raises
    UsageError if a pattern of decay_exclude matches no parameter.

  Raises:
    UsageError: unknown name, or an option that is out of range.
  """
  choices.check("optimizer.name", cfg.name, _MAKERS)
  for key in ("learning_rate", "weight_decay", "clip_norm"):
    if not 0 <= cfg[key] < float("inf"):
      raise errors.UsageError(f"optimizer.{key}: {cfg[key]} is not >= 0")
  for key in ("momentum", "b1", "b2"):
    if not 0 <= cfg[key] < 1:
      raise errors.UsageError(f"optimizer.{key}: {cfg[key]} is not in [0, 1)")
  for key in ("eps", "trust_coefficient"):
    if not cfg[key] > 0:
      raise errors.UsageError(f"optimizer.{key}: {cfg[key]} is not > 0")
  patterns = tuple(cfg.decay_exclude)
  if isinstance(cfg.decay_exclude, str):
    raise errors.UsageError(
      f"optimizer.decay_exclude: {cfg.decay_exclude!r} is a string; give a "
      f"tuple of them: ({cfg.decay_exclude!r},)"
    )
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      raise errors.UsageError(
        f"optimizer.decay_exclude: {pattern!r} is not a regular expression: "
        f"{error}"
      ) from error

  def decayed(params):
    for pattern in patterns:
      if not any(jax.tree.leaves(trees.mask(params, [pattern]))):
        raise errors.UsageError(
          f"optimizer.decay_exclude: {pattern!r} matches no parameter; one is "
          f"{next(iter(trees.named(params)), '(none)')!r}"
        )
    return jax.tree.map(lambda x: not x, trees.mask(params, patterns))

  # Always present, so that a changed norm does not change the state's shape.
  clip = optax.identity()
  if cfg.clip_norm:
    clip = optax.clip_by_global_norm(cfg.clip_norm)
  return optax.chain(clip, *_MAKERS[cfg.name](cfg, schedule, decayed))


def _sgd(cfg, schedule, decayed):
  return (
    optax.add_decayed_weights(cfg.weight_decay, decayed),
    optax.trace(cfg.momentum, cfg.nesterov),
    optax.scale_by_learning_rate(schedule),
  )


def _adam(cfg, schedule, decayed):
  return (
    optax.add_decayed_weights(cfg.weight_decay, decayed),
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.scale_by_learning_rate(schedule),
  )


def _adamw(cfg, schedule, decayed):
  return (
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.add_decayed_weights(cfg.weight_decay, decayed),
    optax.scale_by_learning_rate(schedule),
  )


def _lars(cfg, schedule, decayed):
  return (
    optax.lars(
      schedule,
      weight_decay=cfg.weight_decay,
      weight_decay_mask=decayed,
      trust_coefficient=cfg.trust_coefficient,
      trust_ratio_mask=decayed,
      momentum=cfg.momentum,
      nesterov=cfg.nesterov,
    ),
  )


_MAKERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "lars": _lars}


def ramp(start: float, end: float, total_steps: int):
  """Returns step -> decay: from start to end along half a cosine.

  BYOL's and MoCo v3's schedule of the target's decay: 1 - (1 - start) *
  (1 + cos(pi step / total)) / 2 with end = 1.

  Args:
    start: decay of the first step, in [0, 1].
    end: decay of the last; negative: as at the start, all the time.
    total_steps: length of the run.

  Raises:
    UsageError: outside [0, 1].
  """
  for name, value in (("ema_decay", start), ("ema_final_decay", end)):
    if value > 1 or value < 0 and name == "ema_decay":
      raise errors.UsageError(f"{name}: {value} is not in [0, 1]")
  if end < 0:
    return lambda step: start

  def decay(step):
    share = jnp.minimum(jnp.asarray(step, jnp.float32) / total_steps, 1.0)
    return end - (end - start) * (1 + jnp.cos(jnp.pi * share)) / 2

  return decay


def ema(average, new, decay, step, *, warmup: bool = False):
  """Moves an exponential moving average towards `new`.

  Args:
    average: pytree; its integer leaves are replaced, not averaged.
    new: pytree of the same structure.
    decay: in [0, 1].
    step: t, updates done before this one; int or int32 scalar.
    warmup: use min(decay, (1 + t) / (10 + t)), so that the start is forgotten
      early; without it the first 1/(1 - decay) steps remember it.

  Returns:
    decay * average + (1 - decay) * new, leaf by leaf.
  """
  if warmup:
    t = jnp.asarray(step, jnp.float32)
    decay = jnp.minimum(decay, (1 + t) / (10 + t))

  def move(old, new):
    if not jnp.issubdtype(jnp.asarray(new).dtype, jnp.floating):
      return new
    return old + (1 - decay) * (new - old)

  return jax.tree.map(move, average, new)

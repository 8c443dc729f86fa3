"""An optimizer with its clipping, and the moving average of weights."""

import jax
import jax.numpy as jnp
import ml_collections
import optax

from genrep_jax.lib import errors, options, plugins, trees


def make(entry, schedule, path="optimizer") -> optax.GradientTransformation:
  """Makes the optimizer that an entry of the config names.

  Args:
    entry: of the config, `plugins.make` completes and checks it.
    schedule: step -> learning rate; `learning_rate` is the base it was made
      with, and not used here.
    path: of the entry in the config, for messages.

  Returns:
    The transformation; its state is a pytree of arrays. `init` raises
    UsageError if a pattern of decay_exclude matches no parameter.

  Raises:
    UsageError: no such optimizer, or an option is wrong.
    PluginError: it is no optax.GradientTransformation.
  """
  cfg = ml_collections.ConfigDict(entry).copy_and_resolve_references()
  plugins.complete(cfg, "optimizers", path)

  def decayed(params):
    for pattern in cfg.decay_exclude:
      if not any(jax.tree.leaves(trees.mask(params, [pattern]))):
        options.refuse(
          f"{path}.decay_exclude",
          pattern,
          "a pattern that matches a parameter, of which one is "
          f"{next(iter(trees.named(params)), '(none)')!r}",
        )
    return jax.tree.map(lambda x: not x, trees.mask(params, cfg.decay_exclude))

  # Always present, so that a changed norm does not change the state's shape.
  clip = optax.identity()
  if cfg.clip_norm:
    clip = optax.clip_by_global_norm(cfg.clip_norm)
  made = plugins.make("optimizers", cfg, schedule, decayed, path=path)
  if not isinstance(made, optax.GradientTransformation):
    raise errors.PluginError(
      f"plug-in {plugins.label_of('optimizers', cfg.name)}: make returned "
      f"{type(made).__name__}; allowed: an optax.GradientTransformation"
    )
  return optax.chain(clip, made)


def ramp(start: float, end: float, total_steps: int):
  """Returns step -> decay: from start to end along half a cosine.

  BYOL's and MoCo v3's schedule of the target's decay: 1 - (1 - start) *
  (1 + cos(pi step / total)) / 2 with end = 1.

  Args:
    start: decay of the first step, in [0, 1].
    end: decay of the last; negative: as at the start, all the time.
    total_steps: length of the run.
  """
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

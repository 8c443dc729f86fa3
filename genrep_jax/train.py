"""The loop. It alone knows time, files and the process index.

Its order is a contract; do not change it without a reason as good as these:
  1. restore       before anything is drawn, so that a resumed run is the run
  2. compile       ahead of time: one executable, its seconds are its own
  3. step          nothing moves between host and device (transfer guard)
  4. log           the only regular wait for the device; a NaN is found here
  5. save          after the finite check: a bad state never replaces a good one
  6. evaluate      after the save: a crash in it loses nothing; a run that was
                   killed between the two evaluates when it is resumed
  7. preempt       last, when state, log and checkpoint agree on the step
"""

import contextlib
import pathlib
import signal

import jax

from genrep_jax import data, state as state_lib, step as step_lib
from genrep_jax.evaluations import features
from genrep_jax.lib import (
  checkpoint,
  contracts,
  errors,
  mesh as mesh_lib,
  metrics,
  pictures,
  plugins,
  writers,
)

# Keys a resumed run may change: they do not change what step k computes.
MAY_DIFFER = (
  "job",
  "title",
  "log_every_steps",
  "evaluate_every_steps",
  "steps_per_call",
  "stop_at_step",
  "compilation_cache",
  "cpu_devices",
  "checkpoint",
  "writers",
  "report",
  "distributed",
  "evaluations",
)


def make_evaluations(cfg, program: contracts.Program, mesh, encode=None):
  """Makes every evaluation of the config.

  Args:
    cfg: the resolved config.
    program: its encoder is evaluated.
    mesh: the devices.
    encode: evaluated instead of the program's encoder (for the floors).

  Returns:
    List of (name, every_steps, run).
  """
  made = []
  for name, entry in cfg.evaluations.items():
    module = plugins.resolve("evaluations", entry.name)
    every = entry.every_steps
    entry = entry.copy_and_resolve_references()
    if not entry.data.name:
      with entry.unlocked():
        entry.data = cfg.data
    _check_channels(name, entry, program)
    run = module.make(entry, encode or program.encode, mesh)
    made.append((name, cfg.evaluate_every_steps if every < 0 else every, run))
  return made


def _check_channels(name, entry, program):
  if program.image_shape is None:
    return
  dataset = data.load(entry.data)
  given, wanted = dataset.test.images.shape[-1], program.image_shape[-1]
  if given != wanted:
    raise errors.UsageError(
      f"evaluations.{name}: images of {dataset.name} have {given} channel(s), "
      f"those the encoder is trained on {wanted}"
    )


def evaluate(evaluations, variables, *, step=None, last=True):
  """Runs the evaluations that are due; returns {metric: value}.

  Args:
    evaluations: from `make_evaluations`.
    variables: what their `encode` wants.
    step: steps done; None runs everything.
    last: the run is over, everything is due.
  """
  results = {}
  for _, every, run in evaluations:
    if last or step is None or (every and step % every == 0):
      results.update(run(variables))
  return results


def floors(cfg, program, mesh, evaluations) -> dict[str, dict[str, float]]:
  """Evaluates what a trained encoder must beat, with the same code.

  Returns:
    {"raw pixels": metrics, "random initialisation": metrics}.
  """
  raw = make_evaluations(cfg, program, mesh, encode=features.raw_pixels)
  untrained = program.encoder_variables(state_lib.initial(program, mesh))
  return {
    "raw pixels": evaluate(raw, {}),
    "random initialisation": evaluate(evaluations, untrained),
  }


def restore(cfg, workdir, program, mesh, side):
  """Opens a run's checkpoints and restores the newest sound one.

  Args:
    cfg: the resolved config.
    workdir: folder of the run.
    program: what the loop runs.
    mesh: the devices; any number of them.
    side: what this run would write beside its checkpoints.

  Returns:
    (Checkpoints, state or None).

  Raises:
    UsageError: the folder holds another experiment, or only damaged states.
  """
  folder = pathlib.Path(workdir).resolve() / "checkpoints"
  store = checkpoint.Checkpoints(folder, keep=cfg.checkpoint.keep, side=side)
  earlier = store.latest_side()
  if earlier is not None:
    keys = checkpoint.differing_keys(
      earlier["config"], side["config"], may_differ=MAY_DIFFER
    )
    if keys:
      store.close()
      raise errors.UsageError(
        f"workdir: {str(workdir)!r} holds another experiment's checkpoint; "
        f"differing keys: {', '.join(keys)}"
      )
  abstract_state, _ = state_lib.abstract(program, mesh)
  restored = store.restore_newest_sound(abstract_state)
  return store, None if restored is None else restored[0]


class StopSignal:
  """Turns SIGTERM and the first Ctrl-C into a request to save and stop."""

  def __init__(self):
    self._asked = False
    self._old = {}

  def __enter__(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      with contextlib.suppress(ValueError):  # not the main thread
        self._old[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *_):
    for number, handler in self._old.items():
      signal.signal(number, handler)
    self._old = {}

  def _ask(self, number, frame):
    del frame
    self._asked = True
    signal.signal(number, self._old.get(number, signal.SIG_DFL))

  def requested(self, step: int) -> bool:
    """Whether all processes stop after `step`; called by all at every step."""
    if jax.process_count() == 1:
      return self._asked
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def train(cfg, workdir, program, mesh, evaluations, side, clock) -> dict:
  """Runs the program to its last step, from wherever the workdir stands.

  Args:
    cfg: the resolved config.
    workdir: folder of the run.
    program: step.build(cfg, mesh), or a game's.
    mesh: the devices.
    evaluations: from `make_evaluations`; [] for a game.
    side: what a checkpoint is stored with: config, seed, sha256, versions.
    clock: lib.clock.Clock, which times phases and prints progress.

  Returns:
    {"state": the final state, "step": int, "results": the last evaluation}.

  Raises:
    UsageError: workdir of another experiment.
    Diverged: a loss or gradient was not finite; names the step.
    Preempted: stopped by a signal, state saved.
  """
  total = program.total_steps
  per_call = cfg.steps_per_call
  # 1. Restore before anything is drawn.
  with clock.pause("restore"):
    store, state = restore(cfg, workdir, program, mesh, side)
    if state is None:
      state = state_lib.initial(program, mesh)
    frozen = state_lib.put_frozen(program, mesh)
    step = int(state.step)
  writer = writers.make_writer(
    workdir,
    resume_step=step or None,
    tensorboard=cfg.writers.tensorboard,
    wandb=_wandb_options(cfg) if cfg.writers.wandb else None,
  )
  # 2. Compile ahead of time.
  with clock.pause("compile"):
    train_step = step_lib.jit(program, mesh, per_call)
    train_step = train_step.lower(state, frozen).compile()
  if step == 0:
    save_previews(writer, workdir, program, mesh, state, frozen)
  results, measured = {}, None

  def due(every):
    return bool(every) and step // every > (step - per_call) // every

  def evaluation_due():
    return bool(evaluations) and (
      step >= total or any(due(every) for _, every, _ in evaluations)
    )

  def evaluate_now():
    with clock.pause("evaluate"), jax.transfer_guard("allow"):
      return evaluate(
        evaluations,
        program.encoder_variables(state),
        step=step,
        last=step >= total,
      )

  def log_evaluation():
    writer.write_scalars(step, results)
    values = " ".join(f"{k} {v:.4f}" for k, v in results.items())
    say(f"step {step} {values}")

  def fetch():
    scalars, bad = metrics.fetch(measured)
    if bad is not None:
      saved = store.all_steps()
      kept = f"step {saved[-1]} is saved" if saved else "nothing is saved yet"
      raise errors.Diverged(
        f"step {bad}: the loss or its gradient is not finite; {kept} in "
        f"{workdir}"
      )
    return scalars

  # Several CPU devices share one pool of threads, which the collectives of two
  # steps in flight can use up: both then wait for ever.
  one_at_a_time = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
  clock.start(step)
  try:
    if step and evaluation_due():  # of the restored state
      results = evaluate_now()
      if not writer.resumed_with.issuperset(results):
        log_evaluation()  # the run was killed between its save and this
    with StopSignal() as stop, jax.transfer_guard("disallow"):
      while step < total:
        # 3. Step.
        state, new = train_step(state, frozen)
        step += per_call
        if one_at_a_time:
          jax.block_until_ready(new)
        measured = (
          new if measured is None else metrics.merge_donated(measured, new)
        )
        last = step >= total
        # 4. Log.
        if last or due(cfg.log_every_steps):
          scalars, measured = fetch(), None
          rate = clock.measure(step)
          writer.write_scalars(step, _with_rate(scalars, rate))
          say(clock.line(step, _headline(scalars), rate))
        # 5. Save.
        if last or due(cfg.checkpoint.every_steps):
          if measured is not None:
            fetch()
          with clock.pause("checkpoint"):
            store.save(step, state)
        # 6. Evaluate.
        if evaluation_due():
          results = evaluate_now()
          log_evaluation()
        # 7. Preempt.
        if not last and (stop.requested(step) or step == cfg.stop_at_step):
          store.save(step, state)
          store.wait()
          raise errors.Preempted(
            f"state of step {step} is saved in {workdir}; run the same "
            "command again to go on"
          )
    store.wait()
  finally:
    store.close()
    writer.close()
  return {"state": state, "frozen": frozen, "step": step, "results": results}


def say(text: str) -> None:
  """Prints on the first process only."""
  if jax.process_index() == 0:
    print(text, flush=True)


def _headline(scalars):
  return {k: v for k, v in scalars.items() if k in ("loss", "d_loss", "g_loss")}


def _with_rate(scalars, rate):
  return scalars if rate is None else {**scalars, "views_per_second": rate}


def _wandb_options(cfg):
  return {"project": cfg.writers.wandb_project, "name": cfg.title}


def save_previews(writer, workdir, program, mesh, state, frozen) -> None:
  """Writes the program's pictures as PNGs and to the metric writer."""
  draw = jax.jit(program.preview, out_shardings=mesh_lib.replicated(mesh))
  for name, images in jax.device_get(draw(state, frozen)).items():
    picture = pictures.grid(images, scale=max(1, 64 // images.shape[2]))
    writer.write_images(int(state.step), {name: picture[None]})
    if jax.process_index() == 0:
      pictures.save_png(pathlib.Path(workdir) / f"{name}.png", picture)

"""The loop. It alone knows time, files and the process index.

Its order is a contract; do not change it without a reason as good as these:
  1. restore       before anything is drawn, so that a resumed run is the run
  2. compile       ahead of time: one executable, its seconds are its own
  3. step          nothing moves between host and device (transfer guard)
  4. log           the only regular wait for the device; a NaN is found here
  5. save          after the finite check: a bad state never replaces a good one
  6. evaluate      after the save, which is then finished: neither a crash nor a
                   signal loses anything; a run that was killed between the two
                   evaluates when it is resumed
  7. preempt       last, when state, log and checkpoint agree on the step, in
                   all processes on the same
"""

import pathlib

import jax
import numpy as np

from genrep_jax.lib import (
  checkpoint,
  configs,
  errors,
  execution,
  feeding,
  metrics,
  options,
  pictures,
  plugins,
  processes,
  stopping,
  versions,
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
  "study",
  "distributed",
  "evaluations",
)


def evaluate(run, evaluations, variables, *, step=None, last=True) -> dict:
  """Runs the evaluations that are due.

  Args:
    run: the Run.
    evaluations: as `run.evaluations` lists them.
    variables: what their model wants.
    step: steps done; None runs everything.
    last: the run is over, everything is due.

  Returns:
    {"<entry>/<metric>": value}.

  Raises:
    PluginError: an evaluation failed, or a metric is no number or comes twice.
  """
  results = {}
  for name, every, one in evaluations:
    if not (last or step is None or (every and step % every == 0)):
      continue
    plugin = run.config.evaluations[name].name
    label = plugins.label_of("evaluations", plugin)
    with plugins.guard(label, "run"):
      pairs = [(metric, value) for metric, value in one.run(variables)]
    for metric, value in pairs:
      shape, kind = np.shape(value), np.asarray(value).dtype.kind
      number = shape == () and kind in "biuf" and np.isfinite(value)
      named = isinstance(metric, str) and metric.isprintable() and metric
      if not (named and number) or f"{name}/{metric}" in results:
        given = " ".join(f"{value!r:.60}".split())
        raise errors.PluginError(
          f"plug-in {label}: metric {metric!r} is {given}; allowed: one "
          "finite number for each name"
        )
      results[f"{name}/{metric}"] = float(value)
    if f"{name}/{one.headline}" not in results:
      raise errors.PluginError(
        f"plug-in {label}: its metrics are {[m for m, _ in pairs]}; allowed: "
        f"its headline {one.headline!r} among them"
      )
  return results


def restore(run, workdir, metadata, *, read_only=False):
  """Opens a run's checkpoints and restores the newest sound one.

  Args:
    run: the Run; its devices may be others than the checkpoint's.
    workdir: folder of the run.
    metadata: what this run would write beside its checkpoints.
    read_only: leave the folder as it is; another run may write to it.

  Returns:
    (Checkpoints, state or None, what was measured since the last line of the
    log).

  Raises:
    UsageError: the folder holds another experiment, or only damaged states.
  """
  store = checkpoint.Checkpoints(
    checkpoints_of(workdir),
    keep=run.config.checkpoint.keep,
    metadata=metadata,
    read_only=read_only,
  )
  earlier = store.latest_metadata()
  if earlier is not None:
    keys = checkpoint.differing_keys(
      earlier["config"],
      metadata["config"],
      may_differ=MAY_DIFFER,
      defaults={
        leaf.key: leaf.option.default for leaf in configs.leaves(run.config)
      },
    )
    if keys:
      wrote = earlier.get("versions", {}).get("genrep_jax")
      other = ""
      if wrote != versions.versions()["genrep_jax"]:
        other = f"; genrep_jax {wrote} began it, and can finish it"
      raise errors.UsageError(
        f"workdir: {str(workdir)!r} holds another experiment's checkpoint; "
        f"differing keys: {', '.join(keys)}{other}"
      )
  abstract_state, _ = execution.abstract(run.program)
  restored = store.restore_newest_sound(abstract_state)
  if restored is None:
    return store, None, {}
  state, _, earlier = restored
  return store, state, earlier.get("measured", {})


def checkpoints_of(workdir) -> pathlib.Path:
  """Returns where a run's checkpoints lie."""
  return pathlib.Path(workdir).resolve() / "checkpoints"


def train(run, workdir, metadata, clock) -> dict:
  """Runs the program to its last step, from wherever the workdir stands.

  Args:
    run: the Run.
    workdir: folder of the run.
    metadata: what a checkpoint is stored with: config, seed, versions, ...
    clock: lib.clock.Clock, which times phases and prints progress.

  Returns:
    {"state": the final state, "frozen": its other argument, "step": int,
    "results": the last evaluation}.

  Raises:
    UsageError: workdir of another experiment, or a plug-in that breaks its
      contract.
    Diverged: a loss or gradient was not finite; names the step.
    Preempted: stopped by a signal or `stop_at_step`, state saved.
  """
  config, program, mesh = run.config, run.program, run.mesh
  evaluations = run.evaluations
  total, per_call = program.total_steps, config.steps_per_call
  # 1. Restore before anything is drawn.
  with clock.pause("restore"):
    store, state, pending = restore(run, workdir, metadata)
    if state is None:
      state = execution.initial(program)
    step = int(state.step)
    frozen = execution.put_frozen(program, step)
  if (total - step) % per_call:
    store.close()
    options.refuse(
      "steps_per_call", per_call, f"a divisor of the {total - step} steps left"
    )
  if step < total:
    with clock.pause("check"):
      program.check(state, frozen)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  writer = writers.make_writer(
    workdir,
    resume_step=step or None,
    tensorboard=config.writers.tensorboard,
    wandb=_wandb_options(config) if config.writers.wandb else None,
  )
  # 2. Compile ahead of time.
  with clock.pause("compile"):
    _, given = execution.abstract(program, per_call)
    lowered = execution.jit(program, per_call).lower(state, given)
    train_step = lowered.compile()
  if step == 0:
    save_previews(writer, workdir, program, state, frozen)
  _, like = lowered.out_info
  results, measured = {}, metrics.unpack(pending, like, program.shardings)
  new = None  # what the devices are at

  def due(every):
    return bool(every) and step // every > (step - per_call) // every

  def evaluation_due():
    return bool(evaluations) and (
      step >= total or any(due(every) for _, every, _ in evaluations)
    )

  def evaluate_now():
    with clock.pause("checkpoint"):
      store.wait()
    with (
      stopping.saved(),
      clock.pause("evaluate"),
      jax.transfer_guard("allow"),
    ):
      return evaluate(
        run,
        evaluations,
        program.variables(state, frozen),
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
  stop_together = processes.StopTogether(mesh, ahead=not one_at_a_time)
  feeder = feeding.feeder(program, step, per_call)
  clock.start(step)
  try:
    if step and evaluation_due():  # of the restored state
      results = evaluate_now()
      if not writer.resumed_with.issuperset(results):
        log_evaluation()  # the run was killed between its save and this
    with stopping.deferred(), jax.transfer_guard("disallow"):
      while step < total:
        # 3. Step.
        state, new = train_step(state, feeder.next(frozen, new))
        step += per_call
        if one_at_a_time:
          jax.block_until_ready(new)
        measured = (
          new if measured is None else metrics.merge_donated(measured, new)
        )
        last = step >= total
        # 4. Log.
        if last or due(config.log_every_steps):
          scalars, measured = fetch(), None
          rate = clock.measure(step)
          rates = {} if rate is None else {"views_per_second": rate}
          rates |= feeder.shares()
          writer.write_scalars(step, scalars | rates)
          say(clock.line(step, _headline(scalars), rate))
        # 5. Save.
        if last or due(config.checkpoint.every_steps) or evaluation_due():
          if measured is not None:
            fetch()
          with clock.pause("checkpoint"):
            store.save(step, state, measured=metrics.pack(measured))
        # 6. Evaluate.
        if evaluation_due():
          results = evaluate_now()
          log_evaluation()
        # 7. Preempt.
        if not last and (stop_together() or step == config.stop_at_step):
          store.save(step, state, measured=metrics.pack(measured))
          store.wait()
          raise errors.Preempted(
            f"state of step {step} is saved in {workdir}; run the same "
            "command again to go on"
          )
      store.wait()
    if program.preview_at_end:
      with jax.transfer_guard("allow"):
        save_previews(writer, workdir, program, state, frozen)
  finally:
    feeder.close()
    store.close()
    writer.close()
  return {"state": state, "frozen": frozen, "step": step, "results": results}


def say(text: str) -> None:
  """Prints on the first process only."""
  if jax.process_index() == 0:
    print(text, flush=True)


def _headline(scalars):
  return {k: v for k, v in scalars.items() if k.endswith("loss")}


def _wandb_options(config):
  return {"project": config.writers.wandb_project, "name": config.title}


def save_previews(writer, workdir, program, state, frozen) -> None:
  """Writes the program's pictures as PNGs and to the metric writer."""
  draw = jax.jit(program.preview, out_shardings=program.shardings)
  for name, images in jax.device_get(draw(state, frozen)).items():
    picture = pictures.grid(images, scale=max(1, 64 // images.shape[2]))
    writer.write_images(int(state.step), {name: picture[None]})
    if jax.process_index() == 0:
      pictures.save_png(pathlib.Path(workdir) / f"{name}.png", picture)

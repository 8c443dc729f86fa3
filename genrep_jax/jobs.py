"""What can be done with an experiment: one function a job, over any program."""

import dataclasses
import pathlib

import jax
from clu import parameter_overview

from genrep_jax import train as train_lib
from genrep_jax.lib import (
  checkpoint,
  clock as clock_lib,
  configs,
  devices,
  errors,
  execution,
  export,
  files,
  frozen,
  hlo,
  lock,
  plugins,
  processes,
  report,
  results as results_lib,
  versions,
  weights,
)
from genrep_jax.run import Run
from genrep_jax.train import say


def train(config, workdir, clock) -> int:
  """Trains the program, evaluates it, and leaves its files and a report.

  Args:
    config: from lib.configs.load.
    workdir: folder of the run.
    clock: lib.clock.Clock, already running.

  Returns:
    The exit code.
  """
  mesh = devices.start(config, workdir)
  with processes.first_holds(workdir):
    run = _open(config, mesh, workdir, clock)
    recorded = results_lib.recorded(config.report.recorded)  # fail now
    _ = run.evaluations
    _banner(run)
    metadata = _metadata(run)
    ran = train_lib.train(run, workdir, metadata, clock)
    with clock.pause("baselines"):
      ran["results"] |= run.program.measure(ran["state"], ran["frozen"])
      rows = [results_lib.row(config.title, [ran["results"]], [config.seed])]
      rows = [*_baselines(run, ran["frozen"]), *rows]
    with clock.pause("pictures"):
      ran["pictures"] = _pictures(run, workdir, ran)
    _finish(run, workdir, metadata, ran, rows, recorded, clock)
  return errors.EXIT_OK


def evaluate(config, workdir, clock) -> int:
  """Evaluates the newest sound checkpoint and prints the logged numbers.

  With `encoder.weights`, that file's encoder instead.
  """
  run = _open(config, devices.start(config, workdir), workdir, clock)
  evaluations = run.evaluations
  _banner(run)
  if config.encoder.get("weights"):
    say(f"encoder         {config.encoder.weights}")
    state, measured = execution.initial(run.program), {}
    frozen = execution.put_frozen(run.program)
    variables = run.program.variables(state, frozen) | _encoder_weights(run)
  else:
    store, state, _ = train_lib.restore(
      run, workdir, _metadata(run), read_only=True
    )
    store.close()
    if state is None:
      raise errors.UsageError(
        f"evaluate: no checkpoint in {str(store.directory)!r}"
      )
    say(f"step {int(state.step)}")
    frozen = execution.put_frozen(run.program, int(state.step))
    variables = run.program.variables(state, frozen)
    measured = run.program.measure(state, frozen)
  found = train_lib.evaluate(run, evaluations, variables) | dict(measured)
  for name, value in found.items():
    say(f"{name} {value!r}")
  if not found:
    say("nothing to evaluate: the config has no evaluations")
  return errors.EXIT_OK


def compile_only(config, workdir, clock) -> int:
  """Compiles the step for these devices and prints what it costs."""
  run = _open(config, devices.start(config, workdir), workdir, clock)
  _banner(run)
  state, given = execution.abstract(run.program)
  jitted = execution.jit(run.program, config.steps_per_call)
  say(hlo.describe(jitted.lower(state, given).compile()))
  return errors.EXIT_OK


JOBS = {"train": train, "evaluate": evaluate, "compile_only": compile_only}


def _open(config, mesh, workdir, clock: clock_lib.Clock) -> Run:
  """Compares the processes of the run, then makes the program."""
  processes.compare(
    lambda: _facts(config, workdir), config.distributed.start_seconds
  )
  run = Run(config, mesh)
  clock.plan(run.program.total_steps, run.program.images_per_step)
  return run


def _facts(config, workdir) -> dict:
  """What all processes of a run must have alike, by names that users know."""
  facts = {
    leaf.key: leaf.value
    for leaf in configs.leaves(config)
    if not leaf.key.startswith("distributed.")
  }
  facts |= {f"version of {k}": v for k, v in versions.packages().items()}
  facts["version of the source"] = versions.git_commit()
  if workdir and config.job == "train":
    token = lock.read(workdir).get("token")
    facts[f"workdir (one folder for all), its {lock.NAME}"] = token
  if workdir:
    store = checkpoint.Checkpoints(
      train_lib.checkpoints_of(workdir), keep=1, metadata={}, read_only=True
    )
    facts["workdir's checkpoints"] = store.all_steps()
  return facts


def _banner(run):
  """Prints what is about to run, and on what."""
  config, program, mesh = run.config, run.program, run.mesh
  first = mesh.devices.flat[0]
  lines = {
    "experiment": f"{config.title} (job {config.job}, program "
    f"{config.program.name}, seed {config.seed})",
    "devices": f"{mesh.devices.size} x {first.device_kind} "
    f"({first.platform}), {jax.process_count()} process(es), "
    f"mesh {dict(mesh.shape)}",
    "batch": f"{run.batch} anchors, {program.images_per_step} images a step, "
    f"{config.precision}",
    **program.facts,
  }
  for name, value in lines.items():
    say(f"{name:<15} {value}")
  state, _ = execution.abstract(program)
  say(
    parameter_overview.get_parameter_overview(
      state.params, include_stats=False, max_lines=60
    )
  )


def _metadata(run) -> dict:
  """What is stored beside every checkpoint: enough to repeat the run."""
  return {
    "config": run.plain(),
    "seed": run.seed,
    "facts": dict(run.program.facts),
    "versions": versions.versions(),
  }


def _encoder_weights(run):
  """Reads the encoder that `encoder.weights` names, checked."""
  entry = run.config.encoder
  metadata = weights.read_metadata(entry.weights)
  frozen.check_options(entry.weights, metadata, entry, "encoders")
  program = run.program
  expected = jax.eval_shape(lambda: program.variables(program.init(), {}))
  return weights.load(entry.weights, entry.sha256, expected)


def _raw_pixels(variables, images):
  """The baseline under every encoder: features that are the pixels."""
  del variables
  return images.reshape(len(images), -1)


def _baselines(run, frozen) -> list[dict]:
  """Evaluates what a trained encoder must beat, with the same code."""
  encoded = [
    name for name, _, one in run.evaluations if "encode" in one.requires
  ]
  if not run.config.report.baselines or not encoded:
    return []
  program = run.program
  model = dataclasses.replace(program.model, encode=_raw_pixels)
  raw = run.make_evaluations(model, encoded)
  ours = [one for one in run.evaluations if one[0] in encoded]
  untrained = program.variables(execution.initial(program), frozen)
  found = {
    "raw pixels": train_lib.evaluate(run, raw, untrained),
    "random initialization": train_lib.evaluate(run, ours, untrained),
  }
  return [
    results_lib.row(name, [one], [run.seed], baseline=True)
    for name, one in found.items()
  ]


def _pictures(run, workdir, ran) -> dict[str, str]:
  """Draws the evaluations' pictures; returns {file: caption}."""
  if not run.config.report.pictures:
    return {}
  variables, captions = None, {}
  for name, _, one in run.evaluations:
    if one.pictures is None:
      continue
    if variables is None:
      variables = run.program.variables(ran["state"], ran["frozen"])
    label = plugins.label_of("evaluations", run.config.evaluations[name].name)
    with plugins.guard(label, "pictures"):
      found = one.pictures(variables)
      for key, picture in found.items():
        file = f"{name}_{key}.png"
        captions[file] = f"{name}: {picture.caption}"
        if jax.process_index() == 0:
          picture.draw(pathlib.Path(workdir) / file)
  return captions


def _finish(run, workdir, metadata, ran, rows, recorded, clock):
  """Writes the exports, summary.json and the report; prints the table."""
  config, program, workdir = run.config, run.program, pathlib.Path(workdir)
  exported = program.export(ran["state"], ran["frozen"])
  if jax.process_index() != 0:
    return
  digests = {}
  for name, (tree, about) in exported.items():
    digests[name] = export.save(
      workdir / name, jax.device_get(tree), about, ran["results"]
    )
    if "encoder" in about:
      export.write_model_card(workdir, about, ran["results"])
  columns = results_lib.columns_of({n: one for n, _, one in run.evaluations})
  table = results_lib.merge(results_lib.Table(columns, rows), recorded)
  first = run.mesh.devices.flat[0]
  summary = {
    **metadata,
    "title": config.title,
    "program": config.program.name,
    **table._asdict(),
    "results": ran["results"],
    "steps": ran["step"],
    "seconds": clock.seconds(),
    "facts": {
      **program.facts,
      "devices": f"{run.mesh.devices.size} x {first.device_kind}",
      "steps": ran["step"],
      "images per step": program.images_per_step,
    },
    "about": {name: one.about for name, _, one in run.evaluations},
    "metrics": {
      f"{name}/{metric}": text
      for name, _, one in run.evaluations
      for metric, text in one.metrics.items()
    },
    "pictures": {f"{n}.png": text for n, text in program.captions.items()}
    | ran["pictures"],
    "chance": program.chance,
    "exports": digests,
  }
  with clock.pause("report"):
    path = report.write(workdir, summary)
  files.write_json(workdir / "summary.json", summary)
  if rows:
    say("")
    say(results_lib.text_table(table))
  for name, text in summary["about"].items():
    say(f"({name}: {text})")
  for name, value in ran["results"].items():
    if name.split("/")[0] not in summary["about"]:
      say(f"{name} {value:.4f}")
  for name, digest in digests.items():
    say(f"{workdir / name} sha256 {digest}")
  spent = "  ".join(f"{k} {v:.1f} s" for k, v in clock.seconds().items())
  say(f"seconds         {spent}")
  say(f"report          {path}")

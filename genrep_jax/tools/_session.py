"""What main.py does around the loop: devices, banner, summary, report."""

import json
import logging
import os
import pathlib
import re

import jax
from clu import parameter_overview

from genrep_jax import (
  parts as parts_lib,
  state as state_lib,
  step as step_lib,
  train,
)
from genrep_jax.lib import (
  errors,
  frozen,
  mesh as mesh_lib,
  plugins,
  versions,
  weights,
)
from genrep_jax.tools import report

# Jobs with a program of their own, of the games' room, and the entry of the
# config that names it.
_OWN_PROGRAM = {"game": "game", "steer": "steering"}
_COUNT_FLAG = "xla_force_host_platform_device_count"
_THREADS_PER_DEVICE = 4
# Set by a launcher that starts several processes; any of them means: join.
_CLUSTER_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def start(config, workdir):
  """Joins the other processes, opens the compilation cache, makes the mesh.

  Args:
    config: the resolved config.
    workdir: folder of the run, or None.

  Returns:
    The mesh over all devices of all processes.

  Raises:
    UsageError: unknown distributed.mode, or no device answers.
  """
  logging.getLogger("absl").setLevel(logging.WARNING)
  _split_cpu(config.cpu_devices)
  _join(config.distributed)
  folder = _cache_folder(config.compilation_cache, workdir)
  if folder:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return mesh_lib.make_mesh()


def _split_cpu(count):
  """Makes JAX count the CPU as several devices, unless XLA_FLAGS say so.

  XLA's CPU backend runs most of a program's operations on one thread a device:
  two devices on two cores take a step of the quick start from 209 to 134 ms.
  A device that waits in a collective holds a thread of XLA's pool, which has
  one thread a core (NPROC, if set); with all of them held, nothing arrives any
  more and XLA aborts after 40 s. So there are more threads than can be held by
  a few programs in flight. Their number changes no result.
  """
  if count < 0:
    raise errors.UsageError(f"cpu_devices: {count} is negative")
  given = re.search(_COUNT_FLAG + r"=(\d+)", os.environ.get("XLA_FLAGS", ""))
  if given:
    count = int(given[1])
  elif count:
    jax.config.update("jax_num_cpu_devices", count)
  if count > 1:
    threads = max(os.cpu_count() or 1, _THREADS_PER_DEVICE * count)
    os.environ.setdefault("NPROC", str(threads))


def _join(distributed):
  if distributed.mode not in ("auto", "on", "off"):
    raise errors.UsageError(
      f"distributed.mode: unknown {distributed.mode!r}; known: auto, on, off"
    )
  several = any(int(os.environ.get(v, 1)) > 1 for v in _CLUSTER_VARIABLES)
  several |= "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
  if distributed.mode == "off" or distributed.mode == "auto" and not several:
    return
  options = {}
  if distributed.coordinator:
    options = {
      "coordinator_address": distributed.coordinator,
      "num_processes": distributed.num_processes,
      "process_id": distributed.process_id,
    }
  jax.distributed.initialize(**options)


def _cache_folder(name, workdir):
  if name == "off" or name == "workdir" and not workdir:
    return None
  if name == "user":
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "genrep_jax" / "xla"
  if name == "workdir":
    return pathlib.Path(workdir).resolve() / "xla_cache"
  return pathlib.Path(name)


def build(config, mesh):
  """Builds the config's program: a training run, a game, or walks.

  Raises:
    UsageError: the config does not fit together or the devices.
  """
  _check_intervals(config)
  if config.job == "train" and config.encoder.weights:
    raise errors.UsageError(
      f"encoder.weights: {config.encoder.weights!r} is for job=evaluate only"
    )
  report.recorded_rows(config.report.recorded)  # fail now, not after training
  own = _own_program(config)
  if own:
    module = plugins.resolve("games", config[own].name)
    if own == "game":
      given = plugins.resolve("data", config.data.name).make(config.data)
    else:
      parts_lib.check_batch(config.global_batch, mesh)
      given = parts_lib.load_generator(config, parts_lib.compute_dtype(config))
    program = module.make(config, mesh, given)
  else:
    program = step_lib.build(config, mesh)
  if program.total_steps % config.steps_per_call:
    raise errors.UsageError(
      f"steps_per_call: {config.steps_per_call} does not divide the "
      f"{program.total_steps} steps of the run"
    )
  return program


def _own_program(config):
  """Returns the entry of the config's own program; "" for a training run."""
  for job, entry in _OWN_PROGRAM.items():
    if config.job == job and entry not in config:
      raise errors.UsageError(
        f"job: {job!r} needs a config with an entry {entry!r}; "
        f"{config.title!r} has none"
      )
    if config.job == job or config.job == "compile_only" and entry in config:
      return entry
  return ""


def _check_intervals(config):
  calls = config.steps_per_call
  if calls < 1:
    raise errors.UsageError(f"steps_per_call: {calls} is not positive")
  if config.checkpoint.keep < 1:
    raise errors.UsageError(
      f"checkpoint.keep: {config.checkpoint.keep} is not positive"
    )
  for name, value in (
    ("log_every_steps", config.log_every_steps),
    ("evaluate_every_steps", config.evaluate_every_steps),
    ("checkpoint.every_steps", config.checkpoint.every_steps),
  ):
    if value < 0 or value % calls:
      raise errors.UsageError(
        f"{name}: {value} is not a multiple of steps_per_call {calls}"
      )


def banner(config, program, mesh):
  """Prints what is about to run, and on what."""
  devices = mesh.devices.flat
  train.say(
    f"experiment      {config.title} (job {config.job}, seed {config.seed})"
  )
  train.say(
    f"devices         {mesh.devices.size} x {devices[0].device_kind} "
    f"({devices[0].platform}), {jax.process_count()} process(es), "
    f"mesh {dict(mesh.shape)}"
  )
  train.say(
    f"batch           {config.global_batch} anchors, "
    f"{program.images_per_step} images a step, {config.precision}"
  )
  for name, value in program.facts.items():
    train.say(f"{name:<15} {value}")
  if config.job != "game" and not config.generator.sha256:
    if config.source.name != "array":
      train.say(
        "warning         generator.sha256 is empty: weights are not checked"
      )
  state, _ = state_lib.abstract(program, mesh)
  train.say(
    parameter_overview.get_parameter_overview(
      state.params, include_stats=False, max_lines=60
    )
  )


def side(config, program) -> dict:
  """What is stored beside every checkpoint: enough to repeat the run."""
  return {
    "config": json.loads(config.to_json_best_effort()),
    "seed": config.seed,
    "facts": dict(program.facts),
    "versions": versions.versions(),
  }


def compile_only(config, program, mesh) -> int:
  """Compiles the step for these devices and prints what it costs."""
  from genrep_jax.lib import hlo

  state, frozen = state_lib.abstract(program, mesh)
  jitted = step_lib.jit(program, mesh, config.steps_per_call)
  train.say(hlo.describe(jitted.lower(state, frozen).compile()))
  return errors.EXIT_OK


def evaluate(config, workdir, program, mesh, evaluations, side_) -> int:
  """Evaluates the newest sound checkpoint and prints the logged numbers.

  With `encoder.weights`, that file's encoder instead.
  """
  if config.encoder.weights:
    train.say(f"encoder         {config.encoder.weights}")
    variables = _encoder_weights(config, program)
    for name, value in train.evaluate(evaluations, variables).items():
      train.say(f"{name} {value!r}")
    return errors.EXIT_OK
  store, state = train.restore(config, workdir, program, mesh, side_)
  store.close()
  if state is None:
    raise errors.UsageError(
      f"evaluate: no checkpoint in {str(store.directory)!r}"
    )
  variables = program.encoder_variables(state)
  train.say(f"step {int(state.step)}")
  for name, value in train.evaluate(evaluations, variables).items():
    train.say(f"{name} {value!r}")
  return errors.EXIT_OK


def _encoder_weights(config, program):
  """Reads the encoder that `encoder.weights` names, checked."""
  entry = config.encoder
  module = plugins.resolve("encoders", entry.name)
  metadata = weights.read_metadata(entry.weights)
  frozen.check_options(entry.weights, metadata, module, entry, "encoder")
  expected = jax.eval_shape(lambda: program.encoder_variables(program.init()))
  return weights.load(entry.weights, entry.sha256, expected)


def finish(config, workdir, program, mesh, evaluations, side_, ran, clock):
  """Writes summary.json and the report, and prints the table."""
  workdir = pathlib.Path(workdir)
  own = _own_program(config)
  if own:
    module = plugins.resolve("games", config[own].name)
    written = module.export(config, program, ran["state"], workdir, side_)
    for name, value in written.items():
      train.say(f"{name} {value}")
    return
  rows = [report.as_row(config.title, ran["results"], [config.seed])]
  if config.report.floors and evaluations:
    with clock.pause("floors"):
      for name, results in train.floors(
        config, program, mesh, evaluations
      ).items():
        rows.append(report.as_row(name, results, [config.seed], floor=True))
  rows = report.order_rows(rows, report.recorded_rows(config.report.recorded))
  if jax.process_index() != 0:
    return
  for name, (tree, metadata) in program.exports(ran["state"]).items():
    digest = weights.save(workdir / name, jax.device_get(tree), metadata)
    train.say(f"{workdir / name} sha256 {digest}")
  with clock.pause("report"):
    summary = {
      **side_,
      "title": config.title,
      "rows": rows,
      "results": ran["results"],
      "steps": ran["step"],
      "seconds": clock.seconds(),
      "facts": {
        **program.facts,
        "devices": f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}",
        "steps": ran["step"],
        "images per step": program.images_per_step,
      },
      "protocol": protocol(config),
    }
    write_json(workdir / "summary.json", summary)
    path = report.write_html(workdir, summary)
  summary["seconds"] = clock.seconds()
  write_json(workdir / "summary.json", summary)
  train.say("")
  train.say(report.text_table(rows))
  train.say(f"({protocol(config)})")
  spent = "  ".join(f"{k} {v:.1f} s" for k, v in clock.seconds().items())
  train.say(f"seconds         {spent}")
  train.say(f"report          {path}")


def protocol(config) -> str:
  """One sentence on how the accuracies were measured."""
  return f"evaluations {', '.join(config.evaluations)} on {config.data.name}"


def write_json(path, value):
  """Writes JSON whole or not at all."""
  partial = path.with_name(path.name + ".partial")
  partial.write_text(json.dumps(value, indent=1, default=str) + "\n")
  partial.rename(path)

"""Runs an experiment: `python -m genrep_jax.main --config X.py --workdir D`.

The same command resumes. `--config.job` says what to do with the experiment:
train an encoder and report on it; evaluate the newest sound checkpoint;
compile_only, which says what the program costs on these devices; game, which
trains a generator; steer, which trains latent walks; study, which runs a table
of runs and seeds.
"""

import pathlib

from genrep_jax.lib import errors
from genrep_jax.tools import _cli

JOBS = ("train", "evaluate", "compile_only", "game", "steer", "study")


def main(argv) -> int:
  """Runs the job that the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.main", __doc__)
  _cli.add_config(arguments)
  arguments.add_argument(
    "--workdir", help="folder of the run: checkpoints, logs, report"
  )
  flags, overrides = _cli.parse(arguments, argv)
  # Imported here, so that --help and a misspelt flag answer at once.
  from genrep_jax.lib import clock as clock_lib, configs

  clock = clock_lib.Clock()
  config = configs.load(flags.config, overrides)
  if config.job not in JOBS:
    raise errors.UsageError(
      f"job: unknown {config.job!r}; known: {', '.join(JOBS)}"
    )
  if not flags.workdir and config.job != "compile_only":
    raise errors.UsageError(f"--workdir: job {config.job!r} needs a folder")
  if config.job == "study":
    from genrep_jax.tools import study

    return study.run(flags.config, overrides, config, flags.workdir)
  return run(config, flags.workdir, clock)


def run(config, workdir, clock) -> int:
  """Runs one job of a resolved config on the devices of this process.

  Args:
    config: from lib.configs.load.
    workdir: folder of the run; None for compile_only.
    clock: lib.clock.Clock, already running.

  Returns:
    The exit code.
  """
  from genrep_jax import train
  from genrep_jax.tools import _session as session

  mesh = session.start(config, workdir)
  program = session.build(config, mesh)
  clock.plan(program.total_steps, program.images_per_step)
  session.banner(config, program, mesh)
  if config.job == "compile_only":
    return session.compile_only(config, program, mesh)
  evaluations = []
  if program.encode is not None:
    evaluations = train.make_evaluations(config, program, mesh)
  side = session.side(config, program)
  if config.job == "evaluate":
    return session.evaluate(config, workdir, program, mesh, evaluations, side)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  ran = train.train(config, workdir, program, mesh, evaluations, side, clock)
  session.finish(config, workdir, program, mesh, evaluations, side, ran, clock)
  return errors.EXIT_OK


if __name__ == "__main__":
  _cli.run(main)

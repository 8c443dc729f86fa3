"""Runs an experiment: `python -m genrep_jax.main --config X.py --workdir D`.

The same command resumes. `--config.job` says what to do with the experiment:
train the program that the config names and report on it; evaluate the newest
sound checkpoint; compile_only, which says what the program costs on these
devices; study, which runs a table of runs and seeds. `--describe` prints every
option as it is resolved, with its help and range, and stops.
"""

from genrep_jax.lib import errors
from genrep_jax.tools import _cli


def main(argv) -> int:
  """Runs the job that the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.main", __doc__)
  _cli.add_config(arguments)
  arguments.add_argument(
    "--workdir", help="folder of the run: checkpoints, logs, report"
  )
  arguments.add_argument(
    "--describe",
    action="store_true",
    help="print the resolved options with help and ranges, and stop",
  )
  flags, overrides = _cli.parse(arguments, argv)
  # Imported here, so that --help and a misspelt flag answer at once.
  from genrep_jax.lib import clock as clock_lib, configs, files

  clock = clock_lib.Clock()
  config = configs.load(flags.config, overrides)
  if flags.describe:
    print(configs.describe(flags.config, config))
    return errors.EXIT_OK
  if not flags.workdir and config.job != "compile_only":
    raise errors.UsageError(f"--workdir: job {config.job!r} needs a folder")
  workdir = flags.workdir and files.folder(flags.workdir)
  if config.job == "study":
    from genrep_jax.lib import study

    return study.run(flags.config, overrides, config, workdir)
  from genrep_jax import jobs

  return jobs.JOBS[config.job](config, workdir, clock)


if __name__ == "__main__":
  _cli.run(main)

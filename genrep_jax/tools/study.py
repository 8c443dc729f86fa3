"""Makes a study's tables and plots again, from its recorded runs alone.

  python -m genrep_jax.tools.study --config STUDY.py --runs runs.jsonl --out DIR

main.py runs a study (`job = "study"`); see lib/study.py.
"""

import pathlib

from genrep_jax.lib import configs, options, study
from genrep_jax.tools import _cli


def main(argv) -> None:
  """Command line: tables and plots of recorded runs."""
  arguments = _cli.parser("genrep_jax.tools.study", __doc__.splitlines()[0])
  _cli.add_config(arguments)
  arguments.add_argument("--runs", required=True, help="a study's runs.jsonl")
  arguments.add_argument("--out", required=True, help="folder to write to")
  flags, overrides = _cli.parse(arguments, argv)
  config = configs.load(flags.config, overrides)
  if config.job != "study":
    options.refuse("--config", flags.config, "a study (job = 'study')")
  study.check(config)
  lines = study.read(flags.runs, config)
  folder = pathlib.Path(flags.out)
  _cli.check_writable(folder)
  folder.mkdir(parents=True, exist_ok=True)
  command = f"python -m genrep_jax.tools.study --config {flags.config}"
  print(study.write(config, lines, folder, f"{command} --runs {flags.runs}"))


if __name__ == "__main__":
  _cli.run(main)

"""Writes `report.html` of a finished run again, and prints its table.

Everything comes from the run's workdir: metrics.jsonl, summary.json, pictures.
"""

from genrep_jax.lib import errors, report, results
from genrep_jax.tools import _cli


def main(argv) -> None:
  """Command line: writes the report of a finished run again."""
  arguments = _cli.parser("genrep_jax.tools.report", __doc__.splitlines()[0])
  arguments.add_argument("--workdir", required=True)
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("report takes no --config overrides")
  summary = report.read(flags.workdir)
  print(results.text_table(results.Table(summary["columns"], summary["rows"])))
  print(report.write(flags.workdir, summary))


if __name__ == "__main__":
  _cli.run(main)

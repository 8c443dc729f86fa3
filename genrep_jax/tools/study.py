"""Runs a study: rows x seeds of one base experiment, then a table.

A study is a config with `job = "study"` (configs/studies/*.py); main.py runs
it. Every run is a process of its own in `workdir/<row>/seed<k>`, resumes by
itself, and is skipped when it is complete, so the same command goes on after
an interruption. `workdir` then holds `runs.jsonl`, a line per run with all its
numbers, and what is made of it: `table.json` and `table.md` with mean and
spread, and a plot per accuracy. Made again from the runs alone, or anywhere:

  python -m genrep_jax.tools.study --config STUDY.py --runs runs.jsonl --out DIR
"""

import json
import os
import pathlib
import re
import subprocess
import sys

from genrep_jax.lib import configs, errors, plots, versions
from genrep_jax.tools import _cli, report


def commands(config, overrides, workdir) -> list[tuple[str, int, list[str]]]:
  """Lists the study's runs as (row name, seed, command).

  Args:
    config: the study's resolved config.
    overrides: given on the command line; those of `study.*` are the study's
      own, all others go to every run.
    workdir: folder of the study.
  """
  passed = [text for text in overrides if not text.startswith("study.")]
  runs = []
  for name, row_overrides in config.study.rows:
    for seed in config.study.seeds:
      folder = pathlib.Path(workdir) / slug(name) / f"seed{seed}"
      given = [
        *row_overrides,
        *passed,
        f"seed={seed}",
        f"title={name}",
        "report.recorded=",
      ]
      command = [sys.executable, "-m", "genrep_jax.main"]
      command += ["--config", config.study.base, "--workdir", str(folder)]
      command += [f"--config.{text}" for text in given]
      runs.append((name, seed, command))
  return runs


def slug(name: str) -> str:
  """Turns a row's name into a folder's name."""
  return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def run(file, overrides, config, workdir) -> int:
  """Runs what is missing, then writes and prints the table.

  Args:
    file: the study's config file, for the record.
    overrides: the command line's.
    config: the resolved study config.
    workdir: folder of the study.

  Returns:
    Exit code: 0, or 1 if a run failed.

  Raises:
    UsageError: the study names no rows, or an impossible `study.parallel`.
  """
  if not config.study.rows or not config.study.seeds:
    raise errors.UsageError(f"study: {file!r} names no rows or no seeds")
  passed = [text for text in overrides if not text.startswith("study.")]
  for _, row_overrides in config.study.rows:  # fail now, not after hours
    configs.load(config.study.base, [*row_overrides, *passed])
  cores = sorted(os.sched_getaffinity(0))
  parallel = config.study.parallel
  if not 1 <= parallel <= len(cores):
    raise errors.UsageError(
      f"study.parallel: {parallel} is not in 1..{len(cores)} (cores)"
    )
  waiting = [r for r in commands(config, overrides, workdir) if not done(r[2])]
  failed = _run_all(waiting, parallel, cores)
  lines = gather(commands(config, overrides, workdir))
  folder = pathlib.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "runs.jsonl").write_text(text)
  command = f"python -m genrep_jax.main --config {file} --workdir {workdir}"
  command += "".join(f" --config.{text}" for text in overrides)
  print(write(config, lines, folder, command))
  print(folder / "table.json")
  for name, seed in failed:
    print(f"failed: {name} seed {seed}", file=sys.stderr)
  return 1 if failed else errors.EXIT_OK


def _workdir(command) -> pathlib.Path:
  return pathlib.Path(command[command.index("--workdir") + 1])


def done(command) -> bool:
  """Whether a run has written its summary."""
  return (_workdir(command) / "summary.json").exists()


def _run_all(waiting, parallel, cores):
  """Runs commands, `parallel` at a time, each on its share of the cores."""
  shares = [cores[i::parallel] for i in range(parallel)]
  running, failed = {}, []
  waiting = list(waiting)
  while waiting or running:
    while waiting and len(running) < parallel:
      share = next(
        s for s in shares if s not in [r[1] for r in running.values()]
      )
      name, seed, command = waiting.pop(0)
      folder = _workdir(command)
      folder.mkdir(parents=True, exist_ok=True)
      print(f"running {name} seed {seed} -> {folder}", flush=True)
      with open(folder / "log.txt", "a") as log:
        process = subprocess.Popen(
          command,
          stdout=log,
          stderr=subprocess.STDOUT,
          preexec_fn=lambda share=share: os.sched_setaffinity(0, share),
        )
      running[process.pid] = (process, share, name, seed)
    pid, status = os.wait()
    if pid in running:
      _, _, name, seed = running.pop(pid)
      if status:
        failed.append((name, seed))
  return failed


def gather(runs) -> list[dict]:
  """Reads the finished runs and the floors that came with the first row.

  Args:
    runs: as `commands` lists them.

  Returns:
    A dictionary per line of runs.jsonl: row, seed and results of a run, its
    seconds, steps, versions and command; of a floor, `floor` instead of those.
  """
  lines, floors = [], []
  for name, seed, command in runs:
    if not done(command):
      continue
    summary = json.loads((_workdir(command) / "summary.json").read_text())
    if not lines or name == lines[0]["row"]:
      for row in summary["rows"]:
        if row.get("floor"):
          results = {"knn": row["knn"], "linear_accuracy": row["linear"]}
          floor = {"row": row["name"], "seed": seed, "floor": True}
          floors.append({**floor, "results": results})
    lines.append(
      {
        "row": name,
        "seed": seed,
        "results": summary["results"],
        "seconds": summary["seconds"],
        "steps": summary["steps"],
        "versions": summary["versions"],
        "command": " ".join(["python", *command[1:]]),
      }
    )
  return floors + lines


def rows_of(lines) -> list[dict]:
  """Mean and spread over the seeds of every row, floors first."""
  by_name = {}
  for line in lines:
    by_name.setdefault((line["row"], line.get("floor", False)), []).append(line)
  return [
    report.as_row(
      name,
      [line["results"] for line in found],
      [line["seed"] for line in found],
      floor=floor,
    )
    for (name, floor), found in sorted(by_name.items(), key=lambda x: -x[0][1])
  ]


def write(config, lines, folder, command) -> str:
  """Writes table.json, table.md and the plots; returns the table as text.

  Args:
    config: the study's resolved config.
    lines: from `gather`, or read from a runs.jsonl.
    folder: where to.
    command: what made the runs, for the record.
  """
  rows = rows_of(lines)
  table = {"rows": rows, "command": command, "versions": versions.versions()}
  (folder / "table.json").write_text(json.dumps(table, indent=1) + "\n")
  text = report.markdown_table(rows)
  (folder / "table.md").write_text(text + "\n")
  trained = [row for row in rows if not row["floor"]]
  for metric, label in (("knn", "kNN"), ("linear", "linear")):
    if trained and all(row[metric] is not None for row in trained):
      _plot(config, lines, rows, metric, label, folder / f"{metric}.svg")
  return text


def _plot(config, lines, rows, metric, label, path):
  """Draws one accuracy: the study's curves, or a dot for every row."""
  study = config.study
  by_name = {row["name"]: row for row in rows}
  levels = [(row["name"], 100 * row[metric]) for row in rows if row["floor"]]
  levels += [
    (name, 100 * by_name[name][metric])
    for name in study.levels
    if name in by_name
  ]
  axis, title = f"{label} accuracy, %", f"{config.title}: {label} accuracy"

  def spread(row):
    return 100 * (row["spread"][metric] or 0.0)

  if study.curves:
    series = []
    for name, points in study.curves:
      found = [(x, by_name[row]) for x, row in points if row in by_name]
      xs, ys = [x for x, _ in found], [100 * r[metric] for _, r in found]
      series.append((name, xs, ys, [spread(r) for _, r in found]))
    plots.line_plot(
      path,
      series,
      title=title,
      x_label=study.x_label,
      y_label=axis,
      log_x=study.log_x,
      levels=levels,
    )
    return
  values = {}
  for line in lines:
    row = report.as_row(line["row"], line["results"], [line["seed"]])
    values.setdefault(line["row"], []).append(100 * row[metric])
  dots = [
    (row["name"], 100 * row[metric], spread(row), values[row["name"]])
    for row in rows
    if not row["floor"] and row["name"] not in study.levels
  ]
  plots.dot_plot(path, dots, title=title, x_label=axis, levels=levels)


def main(argv) -> None:
  """Command line: tables and plots of recorded runs."""
  arguments = _cli.parser("genrep_jax.tools.study", __doc__.splitlines()[0])
  _cli.add_config(arguments)
  arguments.add_argument("--runs", required=True, help="a study's runs.jsonl")
  arguments.add_argument("--out", required=True, help="folder to write to")
  flags, overrides = _cli.parse(arguments, argv)
  config = configs.load(flags.config, overrides)
  if config.job != "study":
    raise errors.UsageError(f"--config: {flags.config!r} is no study")
  file = pathlib.Path(flags.runs)
  try:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    known = {line["row"] for line in lines if not line.get("floor")}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f"--runs: {flags.runs!r} does not hold a study's runs: {error}"
    ) from error
  strange = sorted(known - {name for name, _ in config.study.rows})
  if strange or not known:
    raise errors.UsageError(
      f"--runs: {flags.runs!r} has rows {strange or 'none'}; allowed: the rows "
      f"of {flags.config}"
    )
  folder = pathlib.Path(flags.out)
  _cli.check_writable(folder)
  folder.mkdir(parents=True, exist_ok=True)
  command = f"python -m genrep_jax.tools.study --config {flags.config}"
  print(write(config, lines, folder, f"{command} --runs {flags.runs}"))


if __name__ == "__main__":
  _cli.run(main)

"""Runs a study: rows x seeds of one base experiment, then a table.

A study is a config with `job = "study"` (configs/studies/*.py); main.py runs
it. Every run is a process of its own in `workdir/<row>/seed<k>`, resumes by
itself, and is skipped when it is complete, so the same command goes on after
an interruption. `workdir/table.json` and `table.md` hold mean and spread.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

from genrep_jax.lib import configs, errors, versions


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
  table = collect(file, config, overrides, workdir)
  path = pathlib.Path(workdir) / "table.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  from genrep_jax.tools import report

  path.write_text(json.dumps(table, indent=1) + "\n")
  text = report.markdown_table(table["rows"])
  path.with_suffix(".md").write_text(text + "\n")
  print(text)
  print(path)
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


def collect(file, config, overrides, workdir) -> dict:
  """Gathers the finished runs' numbers into a table with its provenance."""
  from genrep_jax.tools import report

  finished = {}  # row name -> [(seed, command, summary)]
  for name, seed, command in commands(config, overrides, workdir):
    if done(command):
      text = (_workdir(command) / "summary.json").read_text()
      finished.setdefault(name, []).append((seed, command, json.loads(text)))
  rows = _floors(next(iter(finished.values()), []))
  for name, runs in finished.items():
    results = [summary["results"] for _, _, summary in runs]
    rows.append(report.as_row(name, results, [seed for seed, _, _ in runs]))
  return {
    "rows": rows,
    "command": f"python -m genrep_jax.main --config {file} --workdir {workdir}"
    + "".join(f" --config.{text}" for text in overrides),
    "runs": [
      {
        "row": name,
        "seed": seed,
        "results": summary["results"],
        "seconds": summary["seconds"],
        "steps": summary["steps"],
        "command": " ".join(["python", *command[1:]]),
      }
      for name, runs in finished.items()
      for seed, command, summary in runs
    ],
    "versions": versions.versions(),
  }


def _floors(runs) -> list[dict]:
  """The floors that every run computed, from one row's runs over its seeds."""
  from genrep_jax.tools import report

  by_name = {}
  for seed, _, summary in runs:
    for row in summary["rows"]:
      if row.get("floor"):
        results = {"knn": row["knn"], "linear_accuracy": row["linear"]}
        by_name.setdefault(row["name"], []).append((seed, results))
  return [
    report.as_row(
      name, [results for _, results in found], [s for s, _ in found], floor=True
    )
    for name, found in by_name.items()
  ]

"""Studies: rows x seeds of one base experiment, then a table and plots.

A study is a config with `job = "study"` (configs/studies/*.py). Every run is a
process of its own in `workdir/<row>/seed<k>`, resumes by itself, and is skipped
when it is complete, so the same command goes on after an interruption.
`workdir` then holds `runs.jsonl`, a line per run with all its numbers, and what
is made of it: `table.json`, `table.md`, and a plot for every headline.
"""

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

from genrep_jax.lib import (
  configs,
  errors,
  figures,
  files,
  lock,
  options,
  report,
  results,
  stopping,
  versions,
)

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_LONGEST = 80  # characters of a folder's name


def check(config) -> None:
  """Refuses a study whose options do not fit together.

  Args:
    config: the study's resolved config.

  Raises:
    UsageError: names the key.
  """
  study = config.study
  names = [name for name, _ in study.rows]
  if not names:
    options.refuse("study.rows", study.rows, "at least one row")
  points = [point for _, points in study.curves for point in points]
  named = [("study.curves", row) for _, row in points]
  named += [("study.levels", row) for row in study.levels]
  for key, row in named:
    if row not in names:
      near = options.nearest(row, names)
      options.refuse(key, row, f"names of study.rows{near}")
  if study.log_x and not all(x > 0 for x, _ in points):
    options.refuse("study.log_x", True, "where every x of study.curves is > 0")


def base_of(config, file: str) -> str:
  """Finds the experiment that a study varies.

  Args:
    config: the study's.
    file: the study's file: `study.base` is looked for in the current folder,
      in those above the file, and in this repository.

  Raises:
    UsageError: it is in none of them.
  """
  base = config.study.base
  for folder in ("", *pathlib.Path(file).resolve().parents, _ROOT):
    found = os.path.join(folder, base)
    if os.path.isfile(found) or os.path.isfile(found.rpartition(":")[0]):
      return found
  options.refuse(
    "study.base", base, f"an experiment, as seen from here, {file} or {_ROOT}"
  )


def folders(names) -> dict[str, str]:
  """Returns a folder's name for each row, legible and its own.

  A digest is added where letters were lost that the slug cannot show, and
  where several names have the same slug.
  """
  slugs = {
    name: re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in names
  }
  counts = collections.Counter(slugs.values())
  for name, slug in slugs.items():
    clear = slug and name.isascii() and counts[slug] == 1
    if not clear or len(slug) > _LONGEST:
      digest = hashlib.sha256(name.encode()).hexdigest()[:8]
      slugs[name] = f"{slug[:_LONGEST]}_{digest}".lstrip("_")
  return slugs


def commands(
  config, overrides, workdir, file: str = ""
) -> list[tuple[str, int, list[str]]]:
  """Lists the study's runs as (row name, seed, command).

  Args:
    config: the study's resolved config.
    overrides: given on the command line; those of `study.*` are the study's
      own, all others go to every run.
    workdir: folder of the study.
    file: the study's.
  """
  passed = [text for text in overrides if not text.startswith("study.")]
  base = base_of(config, file)
  where = folders([name for name, _ in config.study.rows])
  runs = []
  for name, row_overrides in config.study.rows:
    for seed in config.study.seeds:
      folder = pathlib.Path(workdir) / where[name] / f"seed{seed}"
      given = [
        *row_overrides,
        *passed,
        f"seed={seed}",
        f"title={name}",
        "report.recorded=",
      ]
      command = [sys.executable, "-m", "genrep_jax.main"]
      command += ["--config", base, "--workdir", str(folder)]
      command += [f"--config.{text}" for text in given]
      runs.append((name, seed, command))
  return runs


def run(file, overrides, config, workdir) -> int:
  """Runs what is missing, then writes and prints the table.

  Args:
    file: the study's config file.
    overrides: the command line's.
    config: the resolved study config.
    workdir: folder of the study.

  Returns:
    Exit code: 0, or 1 if a run failed.

  Raises:
    UsageError: the study does not fit together, or this machine; or another
      process works in its folder.
    Preempted: stopped by a signal, and so were its runs.
  """
  check(config)
  runs = commands(config, overrides, workdir, file)
  passed = [text for text in overrides if not text.startswith("study.")]
  for _, row_overrides in config.study.rows:  # fail now, not after hours
    configs.load(base_of(config, file), [*row_overrides, *passed])
  cores = range(os.cpu_count() or 1)
  if hasattr(os, "sched_getaffinity"):  # not on a Mac
    cores = sorted(os.sched_getaffinity(0))
  parallel = config.study.parallel
  if parallel > len(cores):
    allowed = f"an integer in 1..{len(cores)}, the cores of this machine"
    options.refuse("study.parallel", parallel, allowed)
  gather(runs)  # refuses what other rows have left in these folders
  folder = pathlib.Path(workdir)
  with lock.Lock(folder):
    waiting = [one for one in runs if not done(one[2])]
    failed = _run_all(waiting, parallel, cores)
    return _summarize(file, overrides, config, folder, runs, failed)


def _summarize(file, overrides, config, folder, runs, failed) -> int:
  """Writes and prints what the finished runs have in common."""
  lines = gather(runs)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  files.write_text(folder / "runs.jsonl", text)
  command = f"python -m genrep_jax.main --config {file} --workdir {folder}"
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

  def stop():
    for pid in list(running):  # not `terminate`, which reaps who has ended
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)

  with stopping.deferred(stop):
    while running or waiting and not stopping.requested():
      while waiting and len(running) < parallel and not stopping.requested():
        share = next(
          s for s in shares if s not in [r[1] for r in running.values()]
        )
        name, seed, command = waiting.pop(0)
        process = _start(name, seed, command, share)
        running[process.pid] = (process, share, name, seed)
        if stopping.requested():  # while it was started
          stop()
      pid, status = os.wait()
      if pid in running:
        process, _, name, seed = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
          failed.append((name, seed))
    if stopping.requested():
      raise errors.Preempted(
        f"{len(waiting) + len(failed)} runs of the study are left; run the "
        "same command again to go on"
      )
  return failed


def _start(name, seed, command, share) -> subprocess.Popen:
  """Starts a run that ends when this process does, however it does."""
  folder = _workdir(command)
  folder.mkdir(parents=True, exist_ok=True)
  print(f"running {name} seed {seed} -> {folder}", flush=True)
  environment = {**os.environ, stopping.PARENT: str(os.getpid())}
  with open(folder / "log.txt", "a") as log:
    process = subprocess.Popen(
      command, stdout=log, stderr=subprocess.STDOUT, env=environment
    )
  if hasattr(os, "sched_setaffinity"):
    with contextlib.suppress(ProcessLookupError):  # it has ended already
      os.sched_setaffinity(process.pid, share)
  return process


def gather(runs) -> list[dict]:
  """Reads the finished runs and the baselines that came with the first row.

  Args:
    runs: as `commands` lists them.

  Returns:
    A dictionary per line of runs.jsonl: row, seed, columns and results of a
    run, its seconds, steps, versions and command; of a baseline, `baseline`
    instead of the last four.

  Raises:
    UsageError: a folder holds the run of another row.
  """
  lines, baselines = [], []
  for name, seed, command in runs:
    if not done(command):
      continue
    folder = _workdir(command)
    summary = report.read(folder)
    if summary["title"] != name:
      allowed = f"{summary['title']!r}, whose run {folder} holds"
      options.refuse("study.rows", name, allowed)
    columns = {"columns": summary["columns"]}
    if not lines or name == lines[0]["row"]:
      baselines += [
        {"row": row["name"], "seed": seed, "baseline": True}
        | {**columns, "results": row["results"]}
        for row in summary["rows"]
        if row["baseline"]
      ]
    kept = ("results", "seconds", "steps", "versions")
    lines.append(
      {"row": name, "seed": seed, **columns}
      | {key: summary[key] for key in kept}
      | {"command": " ".join(["python", *command[1:]])}
    )
  return baselines + lines


def read(path, config) -> list[dict]:
  """Reads a runs.jsonl.

  Args:
    path: of the file.
    config: the study's, whose rows it may have.

  Raises:
    UsageError: it does not hold this study's runs.
  """
  try:
    text = files.regular(path).read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
  except (OSError, ValueError, RecursionError) as error:
    reason = " ".join(str(error).split())
    options.refuse("--runs", path, f"a study's runs.jsonl ({reason})")
  names = [name for name, _ in config.study.rows]
  for number, line in enumerate(lines, 1):
    reason = f"line {number} is no dictionary"
    if isinstance(line, dict):
      line.setdefault("baseline", False)
      row = {"name": line.get("row"), "seeds": [line.get("seed")], "spread": {}}
      table = {"columns": line.get("columns"), "rows": [{**line, **row}]}
      reason = results.wrong(table)
      reason = f"line {number}: {reason}" if reason else ""
      if not reason and not line["baseline"] and line["row"] not in names:
        reason = f"line {number}: {line['row']!r} is no row of this study"
    if reason:
      options.refuse("--runs", path, f"this study's runs.jsonl ({reason})")
  if all(line["baseline"] for line in lines):
    options.refuse("--runs", path, "this study's runs.jsonl (it has no runs)")
  return lines


def table_of(lines) -> results.Table:
  """Returns mean and spread over the seeds of every row, baselines first."""
  by_name, columns = {}, {}
  for line in lines:
    by_name.setdefault((line["row"], line.get("baseline", False)), []).append(
      line
    )
    columns |= {one["metric"]: one for one in line["columns"]}
  rows = [
    results.row(
      name,
      [line["results"] for line in found],
      [line["seed"] for line in found],
      baseline=baseline,
      source="study",
    )
    for (name, baseline), found in sorted(
      by_name.items(), key=lambda x: -x[0][1]
    )
  ]
  return results.Table(list(columns.values()), rows)


def write(config, lines, folder, command) -> str:
  """Writes table.json, table.md and the plots; returns the table as text.

  Args:
    config: the study's resolved config.
    lines: from `gather` or `read`.
    folder: where to.
    command: what made the runs, for the record.
  """
  table = table_of(lines)
  record = {"command": command, "versions": versions.versions()}
  files.write_json(folder / "table.json", {**table._asdict(), **record})
  text = results.markdown_table(table)
  files.write_text(folder / "table.md", text + "\n")
  names = folders(results.titles(table.columns))
  for column, name in zip(table.columns, names.values(), strict=True):
    plot = folder / f"{name}.svg"
    _plot(config.study, config.title, lines, table, column, plot)
  return text


def _plot(study, title, lines, table, column, path):
  """Draws one headline: the study's curves, or a dot for every row."""
  metric, unit = column["metric"], column["unit"]

  def shown(row, what, default=None):
    return results.shown(row[what].get(metric, default), unit)

  rows = {row["name"]: row for row in table.rows if metric in row["results"]}
  found = {
    name: (shown(row, "results"), shown(row, "spread", 0.0))
    for name, row in rows.items()
  }
  levels = [
    (name, mean)
    for name, (mean, _) in found.items()
    if rows[name]["baseline"] or name in study.levels
  ]
  axis, title = results.axis_label(column), f"{title}: {column['title']}"
  if study.curves:
    series = [
      (name, [(x, *found[row]) for x, row in points if row in found])
      for name, points in study.curves
    ]
    labels = title, study.x_label, axis
    panel = figures.Panel(*labels, series, levels, study.log_x)
    figures.line_plot(path, panel)
    return
  dots = {name: [] for name in found if name not in dict(levels)}
  for line in lines:
    if line["row"] in dots and metric in line["results"]:
      dots[line["row"]].append(shown(line, "results"))
  figures.dot_plot(
    path,
    [(name, *found[name], values) for name, values in dots.items()],
    title=title,
    x_label=axis,
    levels=levels,
  )

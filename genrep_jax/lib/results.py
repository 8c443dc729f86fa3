"""Results: rows of metrics, and the tables that show some of them.

A metric is called `<entry>/<metric>`, after the entry of `config.evaluations`
that measured it. A row is what one encoder or generator achieved:

  {"name": "GenRep", "source": "run", "seeds": [0, 1, 2], "baseline": False,
   "results": {metric: mean over the seeds},
   "spread": {metric: sample standard deviation; of two seeds or more}}

and a column says which metric a table shows, and how:

  {"metric": "knn/knn20_accuracy", "title": "knn", "unit": "%"}

Both are plain JSON: summary.json and table.json hold them as they are.
"""

import html
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genrep_jax.lib import errors, options

Row = Mapping[str, Any]
Column = Mapping[str, str]


class Table(NamedTuple):
  """Rows, and the columns in which they are shown."""

  columns: Sequence[Column]
  rows: Sequence[Row]


def columns_of(evaluations: Mapping[str, Any]) -> list[Column]:
  """Returns a column for the headline of every evaluation.

  Args:
    evaluations: {entry: contracts.Evaluation}.
  """
  return [
    {"metric": f"{entry}/{one.headline}", "title": entry, "unit": one.unit}
    for entry, one in evaluations.items()
    if one.headline
  ]


def row(name, results, seeds, *, baseline=False, source="run") -> Row:
  """Makes a row from the metrics of one or several runs.

  Args:
    name: of the row.
    results: {metric: value} of each run, one per seed.
    seeds: the runs' seeds.
    baseline: what a trained network must beat.
    source: "run", "study" or "recorded".

  Returns:
    The row; only metrics that every run has are averaged.
  """
  known = [name for name in results[0] if all(name in one for one in results)]
  values = {name: [float(one[name]) for one in results] for name in known}
  return {
    "name": name,
    "source": source,
    "seeds": list(seeds),
    "baseline": baseline,
    "results": {name: statistics.fmean(v) for name, v in values.items()},
    "spread": {name: _deviation(v) for name, v in values.items() if len(v) > 1},
  }


def merge(table: Table, recorded: Table) -> Table:
  """Puts the rows of earlier runs around a run's own.

  Baselines come first, then the others by the first column that all of them
  have, or as they are given. A recorded row of the same name as one of the
  run's stays, unless it is a baseline: it is the figure of several seeds that
  the single run should be read against.
  """
  columns = {one["metric"]: one for one in (*table.columns, *recorded.columns)}
  baselines = [row for row in table.rows if row["baseline"]]
  names = {row["name"] for row in baselines}
  others = [row for row in recorded.rows if row["name"] not in names]
  others += [row for row in table.rows if not row["baseline"]]
  for metric in columns:
    values = [row["results"].get(metric, math.nan) for row in others]
    if all(map(math.isfinite, values)):
      others.sort(key=lambda row: (row["results"][metric], row["source"]))
      break
  return Table(list(columns.values()), baselines + others)


def recorded(path: str) -> Table:
  """Reads the table of earlier runs that a report shows beside its own rows.

  Args:
    path: a study's table.json, or asset:NAME; empty for none.

  Returns:
    Its columns, and its rows marked "recorded".

  Raises:
    UsageError: the file is missing or is no such table.
  """
  if not path:
    return Table([], [])
  from genrep_jax.lib import weights  # it needs JAX

  key, allowed = "report.recorded", "a study's table.json, of this version"
  try:
    found = json.loads(pathlib.Path(weights.resolve(path)).read_text("utf-8"))
  except errors.UsageError as error:  # no such file
    raise errors.UsageError(f"{key}: {error}") from None
  except (OSError, ValueError, RecursionError) as error:
    options.refuse(key, path, f"{allowed} ({' '.join(str(error).split())})")
  reason = wrong(found)
  if reason:
    options.refuse(key, path, f"{allowed} ({reason})")
  rows = [{**row, "source": "recorded"} for row in found["rows"]]
  return Table(found["columns"], rows)


def wrong(found) -> str:
  """Says what of a parsed table.json or summary.json is no table; or ""."""
  if not isinstance(found, dict):
    return "it is no dictionary"
  parts = ("columns", _is_column), ("rows", _is_row)
  for key, right in parts:
    if not isinstance(found.get(key), list):
      return f"no list {key!r}"
    for i, one in enumerate(found[key]):
      if not right(one):
        return f"{key}[{i}] is none of its {key}"
  return ""


def titles(columns: Sequence[Column]) -> list[str]:
  """Returns a heading for each column: titles that differ, with their units."""
  words = [one["title"] for one in columns]
  return [
    f"{one['title' if words.count(one['title']) == 1 else 'metric']}"
    f"{' ' * bool(one['unit'])}{one['unit']}"
    for one in columns
  ]


def axis_label(column: Column) -> str:
  """Returns the words of an axis, e.g. "knn20 accuracy, %"."""
  name = column["metric"].rpartition("/")[2].replace("_", " ")
  return f"{name}, {column['unit']}".removesuffix(", ")


def shown(value: float, unit: str) -> float:
  """Returns a value as it is shown: a share in percent where that is its unit.

  A spread is shown likewise.
  """
  return 100 * value if unit == "%" else value


def text_table(table: Table) -> str:
  """Formats a table for a terminal: mean ± spread."""
  cells = _cells(table)
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "  ".join(
      word.ljust(width) if i < 3 else word.rjust(width)
      for i, (word, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in cells
  ]
  return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(table: Table) -> str:
  """Formats a table in Markdown."""
  head, *body = [
    [word.replace("|", "\\|") for word in line] for line in _cells(table)
  ]
  rule = ["---"] * 3 + ["---:"] * len(table.columns)
  return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def html_table(table: Table) -> str:
  """Formats a table in HTML, numbers of class "figure", own rows "run"."""
  tags = ["td", "td", "td"] + ["td class=figure"] * len(table.columns)

  def line(words, tags):
    return "".join(
      f"<{tag}>{html.escape(word)}</{tag[:2]}>"
      for tag, word in zip(tags, words, strict=True)
    )

  head, *body = _cells(table)
  text = f"<tr>{line(head, [tag.replace('td', 'th') for tag in tags])}</tr>"
  for one, words in zip(table.rows, body, strict=True):
    own = one["source"] != "recorded" and not one["baseline"]
    text += f"<tr{' class=run' * own}>{line(words, tags)}</tr>"
  return f"<table>{text}</table>"


def _cells(table: Table) -> list[list[str]]:
  """Returns the words of a table, its head first."""
  cells = [["name", "from", "seeds", *titles(table.columns)]]
  for one in table.rows:
    seeds = ",".join(map(str, one["seeds"])) or "-"
    figures = [_figure(one, column) for column in table.columns]
    cells.append([one["name"], one["source"], seeds, *figures])
  return cells


def _figure(one: Row, column: Column) -> str:
  metric, unit = column["metric"], column["unit"]
  if metric not in one["results"]:
    return "-"
  form = "{:.2f}" if unit == "%" else "{:.4g}"
  text = form.format(shown(one["results"][metric], unit))
  spread = one["spread"].get(metric)
  if spread is None:
    return text
  return f"{text} ± {form.format(shown(spread, unit))}"


def _deviation(values) -> float:
  finite = all(map(math.isfinite, values))
  return statistics.stdev(values) if finite else math.nan


def _is_column(one) -> bool:
  return isinstance(one, dict) and all(
    isinstance(one.get(key), str) for key in ("metric", "title", "unit")
  )


def _is_row(one) -> bool:
  return (
    isinstance(one, dict)
    and isinstance(one.get("name"), str)
    and type(one.get("baseline")) is bool
    and isinstance(one.get("seeds"), list)
    and all(type(seed) is int for seed in one["seeds"])
    and all(
      isinstance(one.get(key), dict)
      and all(type(x) in (int, float) for x in one[key].values())
      for key in ("results", "spread")
    )
  )

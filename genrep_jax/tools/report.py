"""Writes a run's summary, table and `report.html` from what it left behind.

`python -m genrep_jax.tools.report --workdir DIR` writes the report again from
`metrics.jsonl`, `summary.json` and the PNGs of a finished run.
"""

import base64
import html
import json
import pathlib
import statistics

from genrep_jax.lib import errors, writers
from genrep_jax.tools import _cli

COLUMNS = ("name", "source", "seeds", "knn", "linear")


def recorded_rows(path: str) -> list[dict]:
  """Reads the rows of earlier runs that a report shows beside its own.

  Args:
    path: JSON file written by tools/study, or asset:NAME; empty for none.

  Returns:
    Rows marked "recorded".

  Raises:
    UsageError: the file is missing or is no such table.
  """
  if not path:
    return []
  from genrep_jax.lib import weights

  file = pathlib.Path(weights.resolve(path))
  try:
    rows = json.loads(file.read_text())["rows"]
    return [{**row, "source": "recorded"} for row in rows]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f"report.recorded: {str(file)!r} is no table of rows: {error}"
    ) from error


def order_rows(run_rows, recorded) -> list[dict]:
  """Puts recorded rows around this run's: floors first, then by accuracy.

  A recorded row of the same name as this run's stays: it is the 3-seed figure
  that the single run should be read against.
  """
  floors = [row for row in run_rows if row.get("floor")]
  trained = [row for row in run_rows if not row.get("floor")]
  names = {row["name"] for row in floors}
  kept = [row for row in recorded if row["name"] not in names]
  return floors + sorted(
    kept + trained, key=lambda row: (row["linear"] or 0.0, row["source"])
  )


def _figure(row, metric) -> str:
  if row.get(metric) is None:
    return "-"
  spread = (row.get("spread") or {}).get(metric)
  text = f"{100 * row[metric]:.2f}"
  return text if spread is None else f"{text} ± {100 * spread:.2f}"


def _cells(row) -> list[str]:
  seeds = ",".join(str(seed) for seed in row["seeds"]) or "-"
  return [
    row["name"],
    row["source"],
    seeds,
    _figure(row, "knn"),
    _figure(row, "linear"),
  ]


def as_row(name, results, seeds, floor=False) -> dict:
  """Makes a row of the table from the metrics of one or several runs.

  Args:
    name: of the row.
    results: {metric: value}, or a list of such, one per seed.
    seeds: the runs' seeds.
    floor: an encoder that a trained one must beat.

  Returns:
    name, source "run", seeds, floor, knn, linear (means) and spread (sample
    standard deviations over seeds; None for one seed).
  """
  several = results if isinstance(results, list) else [results]
  row = {"name": name, "source": "run", "seeds": list(seeds), "floor": floor}
  row["spread"] = {}
  for column, prefix in (("knn", "knn"), ("linear", "linear_accuracy")):
    values = [
      float(value)
      for metrics in several
      for metric, value in metrics.items()
      if metric.startswith(prefix)
    ]
    row[column] = statistics.fmean(values) if values else None
    row["spread"][column] = (
      statistics.stdev(values) if len(values) > 1 else None
    )
  return row


def text_table(rows) -> str:
  """Formats rows for a terminal; accuracies in percent, mean ± spread."""
  cells = [["encoder", "from", "seeds", "kNN %", "linear %"]]
  cells += [_cells(row) for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(5)]
  lines = [
    "  ".join(
      word.ljust(width) if i < 3 else word.rjust(width)
      for i, (word, width) in enumerate(zip(line, widths))
    )
    for line in cells
  ]
  return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows) -> str:
  """Formats rows as a Markdown table."""
  lines = [
    "| encoder | from | seeds | kNN % | linear % |",
    "| --- | --- | --- | ---: | ---: |",
  ]
  return "\n".join(lines + [f"| {' | '.join(_cells(row))} |" for row in rows])


def read_metrics(path) -> dict[str, list[tuple[int, float]]]:
  """Reads metrics.jsonl as curves: name -> [(step, value)]."""
  curves = {}
  for record in writers.read_jsonl(path):
    for name, value in record.items():
      if name not in ("step", "wall_time") and isinstance(value, int | float):
        curves.setdefault(name, []).append((record["step"], value))
  return curves


def plot_curves(curves, rows, chance, path) -> None:
  """Draws the loss and the kNN accuracy over the steps, with the floors."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), dpi=110)
  steps, values = zip(*curves["loss"])
  axes[0].plot(steps, values, color="#1f5fa8")
  if chance is not None:
    axes[0].axhline(chance, color="#999999", linestyle="--", label="chance")
    axes[0].legend(frameon=False)
  axes[0].set(xlabel="step", ylabel="loss", title="contrastive loss")
  knn = [name for name in curves if name.startswith("knn")]
  for name in knn:
    steps, values = zip(*curves[name])
    axes[1].plot(
      steps, [100 * v for v in values], marker="o", color="#1f5fa8", label=name
    )
  for row, style in zip([r for r in rows if r.get("floor")], ("--", ":")):
    axes[1].axhline(
      100 * row["knn"], color="#999999", linestyle=style, label=row["name"]
    )
  if knn:
    axes[1].legend(frameon=False, fontsize=8, loc="center right")
  axes[1].set(xlabel="step", ylabel="%", title="kNN accuracy, real test images")
  for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
  figure.tight_layout()
  partial = pathlib.Path(path).with_suffix(".partial")
  figure.savefig(partial, format="png")
  plt.close(figure)
  partial.rename(path)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em;
  margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .3em .9em;
  text-align: left; border-bottom: 1px solid #ddd }
td.figure, th.figure { text-align: right; font-variant-numeric: tabular-nums }
tr.run { font-weight: 600; background: #eef4fb }
img { max-width: 100%; image-rendering: pixelated } code, pre { background:
  #f5f5f5; font-size: .85em } pre { padding: 1em; overflow: auto }
figure { margin: 0 0 1em 0 }
figcaption { color: #666; font-size: .9em }
"""


def _picture(workdir, name, caption) -> str:
  file = pathlib.Path(workdir) / name
  if not file.exists():
    return ""
  data = base64.b64encode(file.read_bytes()).decode()
  return (
    f'<figure><img alt="{html.escape(caption)}" '
    f'src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}'
    "</figcaption></figure>"
  )


def _html_table(rows) -> str:
  head = "".join(
    f"<th{' class=figure' if i > 2 else ''}>{word}</th>"
    for i, word in enumerate(["encoder", "from", "seeds", "kNN %", "linear %"])
  )
  body = ""
  for row in rows:
    kind = "run" if row["source"] == "run" and not row.get("floor") else ""
    cells = "".join(
      f"<td{' class=figure' if i > 2 else ''}>{html.escape(word)}</td>"
      for i, word in enumerate(_cells(row))
    )
    body += f'<tr class="{kind}">{cells}</tr>'
  return f"<table><tr>{head}</tr>{body}</table>"


def write_html(workdir, summary) -> pathlib.Path:
  """Writes `report.html`, one self-contained file.

  Args:
    workdir: the run's folder, with metrics.jsonl and the PNGs.
    summary: what summary.json holds.

  Returns:
    Path of the report.
  """
  workdir = pathlib.Path(workdir)
  curves = read_metrics(workdir / "metrics.jsonl")
  if "loss" in curves:
    chance = summary["facts"].get("chance level of the loss")
    chance = None if chance is None else float(chance)
    plot_curves(curves, summary["rows"], chance, workdir / "curves.png")
  facts = "".join(
    f"<tr><td>{html.escape(str(name))}</td>"
    f"<td><code>{html.escape(str(value))}</code></td></tr>"
    for name, value in summary["facts"].items()
  )
  seconds = ", ".join(
    f"{name} {value:.1f} s" for name, value in summary["seconds"].items()
  )
  config = html.escape(json.dumps(summary["config"], indent=1))
  versions = html.escape(json.dumps(summary["versions"], indent=1))
  page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>{html.escape(summary["title"])}</title><style>{_STYLE}</style></head>
<body><h1>{html.escape(summary["title"])}</h1>
<h2>Accuracy on real test images</h2>{_html_table(summary["rows"])}
<p>Rows marked <i>run</i> were computed by this run; rows marked
<i>recorded</i> were measured earlier, mean ± standard deviation over the seeds
named. Frozen features; {html.escape(summary["protocol"])}.</p>
<h2>What the encoder was shown</h2>
{
    _picture(
      workdir,
      "views_before_pixel.png",
      "each column: an anchor and, below it, its positives, before T_x",
    )
  }
{_picture(workdir, "views.png", "the same after T_x")}
<h2>Training</h2>{_picture(workdir, "curves.png", "loss and kNN accuracy")}
<p>{html.escape(seconds)}</p>
<h2>What was run</h2><table>{facts}</table>
<details><summary>config and versions</summary>
<pre>{config}</pre><pre>{versions}</pre></details></body></html>
"""
  path = workdir / "report.html"
  partial = workdir / "report.html.partial"
  partial.write_text(page)
  partial.rename(path)
  return path


def main(argv) -> None:
  """Command line: writes the report of a finished run again."""
  arguments = _cli.parser("genrep_jax.tools.report", __doc__.splitlines()[0])
  arguments.add_argument("--workdir", required=True)
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("report takes no --config overrides")
  file = pathlib.Path(flags.workdir) / "summary.json"
  if not file.exists():
    raise errors.UsageError(f"--workdir: no finished run in {flags.workdir!r}")
  summary = json.loads(file.read_text())
  print(text_table(summary["rows"]))
  print(write_html(flags.workdir, summary))


if __name__ == "__main__":
  _cli.run(main)

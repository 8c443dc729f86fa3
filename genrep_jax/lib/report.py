"""`report.html`: what a finished run leaves to be looked at, in one file."""

import base64
import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from genrep_jax.lib import errors, figures, files, results, writers

_MOST_LOSSES = 6  # lines of one panel
_MOST_BYTES = 2_800_000  # of all pictures: a report can be sent by mail
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em;
  margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .3em .9em;
  text-align: left; border-bottom: 1px solid #ddd }
td.figure, th.figure { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } td:first-child { min-width: 9em }
td code { overflow-wrap: anywhere }
@media (max-width: 40em) { td, th { padding: .3em .4em } }
tr.run { font-weight: 600; background: #eef4fb }
img { max-width: 100% } .pixels img { image-rendering: pixelated }
code, pre { background: #f5f5f5; font-size: .85em }
pre { padding: 1em; overflow: auto }
figure { margin: 0 0 1em 0 }
figcaption { color: #666; font-size: .9em }
"""
_FIELDS = {  # of summary.json, as far as a report shows them
  "title": str,
  "facts": dict,
  "about": dict,
  "pictures": dict,
  "exports": dict,
  "seconds": dict,
}


def read(workdir) -> dict[str, Any]:
  """Reads the summary of a finished run.

  Args:
    workdir: its folder.

  Raises:
    UsageError: there is none, or one of an earlier version.
  """
  file = pathlib.Path(workdir) / "summary.json"
  try:
    summary = json.loads(files.regular(file).read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise errors.UsageError(
      f"--workdir: no finished run in {str(workdir)!r}: "
      f"{' '.join(str(error).split())}"
    ) from error
  reason = results.wrong(summary) or next(
    (
      f"no {name!r}"
      for name, kind in _FIELDS.items()
      if not isinstance(summary.get(name), kind)
    ),
    "",
  )
  if reason:
    raise errors.UsageError(
      f"--workdir: {str(file)!r} was written by another version: {reason}"
    )
  return summary


def write(workdir, summary: Mapping[str, Any]) -> pathlib.Path:
  """Writes `report.html`, one self-contained file, and `curves.png`.

  Args:
    workdir: the run's folder, with metrics.jsonl and the pictures.
    summary: what summary.json holds.

  Returns:
    Path of the report.
  """
  workdir = pathlib.Path(workdir)
  panels = _panels(read_metrics(workdir / "metrics.jsonl"), summary)
  if panels:
    figures.line_plot(workdir / "curves.png", *panels)
  table = results.Table(summary["columns"], summary["rows"])
  curves, space = _picture(workdir, "curves.png", "over the steps", _MOST_BYTES)
  pictures = {True: "", False: ""}
  entries = tuple(f"{entry}_" for entry in summary["about"])
  for name, text in summary["pictures"].items():
    one, space = _picture(workdir, name, text, space)
    pictures[name.startswith(entries)] += one
  seconds = ", ".join(f"{k} {v:.1f} s" for k, v in summary["seconds"].items())
  about = [f"{entry}: {text}" for entry, text in summary["about"].items()]
  files.write_text(
    workdir / "report.html",
    f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(summary["title"])}</title><style>{_STYLE}</style></head>
<body><h1>{_text(summary["title"])}</h1>
<h2>Results</h2><div class="wide">{results.html_table(table)}</div>
<p>Rows marked <i>run</i> were computed by this run; rows marked
<i>recorded</i> were measured earlier, mean ± standard deviation over the seeds
named.</p>{"".join(f"<p>{_text(line)}</p>" for line in about)}
<h2>Pictures</h2><div class="pixels">{pictures[False]}</div>
{"<h2>What the features show</h2>" * bool(pictures[True])}{pictures[True]}
<h2>Training</h2>{curves}
<p>{_text(seconds)}</p>
{_metrics(summary)}
<h2>What was run</h2>{_pairs(summary["facts"])}
{"<h2>Files</h2>" * bool(summary["exports"])}{_pairs(summary["exports"])}
<details><summary>config and versions</summary>
<pre>{_text(json.dumps(summary["config"], indent=1, default=str))}</pre>
<pre>{_text(json.dumps(summary["versions"], indent=1))}</pre>
</details></body></html>
""",
  )
  return workdir / "report.html"


def read_metrics(path) -> dict[str, list[tuple[int, float]]]:
  """Reads metrics.jsonl as curves: name -> [(step, value)]."""
  curves = {}
  if not pathlib.Path(path).exists():
    return curves
  for record in writers.read_jsonl(path):
    for name, value in record.items():
      if name not in ("step", "wall_time") and isinstance(value, int | float):
        curves.setdefault(name, []).append((record["step"], value))
  return curves


def _panels(curves, summary):
  """Returns a panel of the losses and one of every headline."""

  def series(name, unit=""):
    return name, [(x, results.shown(y, unit), 0.0) for x, y in curves[name]]

  losses = [x for x in curves if x == "loss" or x.endswith("_loss")]
  losses = losses[:_MOST_LOSSES]
  panels = []
  if losses:
    lines = [series(name) for name in losses]
    chance = [("chance", summary.get("chance"))]
    panels.append(figures.Panel("loss", "step", "loss", lines, chance))
  for column in summary["columns"]:
    metric, unit = column["metric"], column["unit"]
    if metric in curves:
      levels = [
        (row["name"], results.shown(row["results"][metric], unit))
        for row in summary["rows"]
        if row["baseline"] and metric in row["results"]
      ]
      labels = column["title"], "step", results.axis_label(column)
      panels.append(figures.Panel(*labels, [series(metric, unit)], levels))
  return panels


def _picture(workdir, name, caption, space: int) -> tuple[str, int]:
  """Returns a picture's HTML and the bytes that are left for others."""
  file = workdir / name
  if not file.exists():
    return "", space
  data = base64.b64encode(file.read_bytes()).decode()
  if len(data) > space:
    return (
      f"<p>{_text(caption)}: {_text(name)}, too large to be here</p>",
      space,
    )
  return (
    f'<figure><img alt="{_text(caption)}" '
    f'src="data:image/png;base64,{data}"><figcaption>{_text(caption)}'
    "</figcaption></figure>",
    space - len(data),
  )


def _metrics(summary) -> str:
  """Every metric of the run with the sentence that explains it."""
  sentences = summary.get("metrics", {})

  def sentence(name):
    fits = [
      key
      for key in sentences
      if key == name or key.endswith("*") and name.startswith(key[:-1])
    ]
    return sentences[max(fits, key=len)] if fits else ""

  lines = "".join(
    f"<tr><td><code>{_text(name)}</code></td>"
    f"<td class=figure>{value:.6g}</td><td>{_text(sentence(name))}</td></tr>"
    for name, value in summary.get("results", {}).items()
  )
  table = f'<h2>All metrics</h2><div class="wide"><table>{lines}</table></div>'
  return table * bool(lines)


def _pairs(values) -> str:
  lines = "".join(
    f"<tr><td>{_text(name)}</td><td><code>{_text(value)}</code></td></tr>"
    for name, value in values.items()
  )
  return f"<table>{lines}</table>" * bool(lines)


def _text(value) -> str:
  return html.escape(str(value))

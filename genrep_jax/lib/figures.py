"""Plots, drawn by matplotlib: lines of curves, and dots of named rows.

Lines are told apart by color, marker and dash, in colors that the color-blind
can tell apart. The same numbers give the same bytes, as long as matplotlib is
the same. What is not finite, or not positive on a logarithmic axis, is left
out: a plot never ends a run.
"""

import contextlib
import itertools
import logging
import math
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from genrep_jax.lib import files

# After Okabe and Ito (2008), darkened to 3:1 or more against white.
_COLORS = ("#0072b2", "#c85200", "#00815d", "#ac4a86", "#946a00", "#55554f")
_MARKERS = "os^DvP"
_GRAY = "#6e6d68"
_DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 4)))
_MANY = 40  # points of a line from which on they have no markers
_STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": "#8d8c85",
  "axes.grid": True,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": "medium",
  "axes.titleweight": "bold",
  "font.sans-serif": ["DejaVu Sans"],
  "font.size": 9.0,
  "grid.color": "#e6e5e0",
  "legend.frameon": False,
  "legend.fontsize": 8.5,
  "svg.fonttype": "none",
  "svg.hashsalt": "genrep_jax",
  "text.parse_math": False,
}


class Panel(NamedTuple):
  """One pair of axes with lines.

  Attributes:
    title: says what to see.
    x_label: what x is, with its unit.
    y_label: what y is, with its unit.
    series: (name, points) of each line; a point is (x, mean, spread), its bar
      reaches from mean - spread to mean + spread.
    levels: (name, value) of horizontal lines of reference.
    log_x: logarithmic x, with the xs themselves as ticks.
    log_y: logarithmic y.
  """

  title: str
  x_label: str
  y_label: str
  series: Sequence[tuple[str, Sequence[tuple[float, float, float]]]]
  levels: Sequence[tuple[str, float]] = ()
  log_x: bool = False
  log_y: bool = False


def line_plot(path, *panels: Panel) -> None:
  """Writes panels of lines, up to three in a row.

  Args:
    path: of the file, .svg or .png; written whole or not at all.
    *panels: what to draw.
  """
  columns = min(len(panels), 3)
  rows = -(-len(panels) // columns)
  size = (7.6, 4.0) if len(panels) == 1 else (4.6 * columns, 3.3 * rows)
  with _figure(path, panels[0].title, size) as figure:
    every = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in itertools.zip_longest(every, panels):
      if panel is None:
        axes.remove()
      else:
        _draw(axes, panel, beside=len(panels) == 1)


def dot_plot(path, rows, *, title, x_label, levels=(), digits=2) -> None:
  """Writes a line per name: every value a ring, their mean, their spread.

  Args:
    path: of the file, .svg or .png; written whole or not at all.
    rows: (name, mean, spread, values) from top to bottom; values are those of
      the seeds, and may be empty.
    title: says what to see.
    x_label: what is compared, with its unit.
    levels: (name, value) of vertical lines of reference.
    digits: of the numbers at the right, after the point.
  """
  with _figure(path, title, (7.6, 1.3 + 0.27 * len(rows))) as figure:
    axes = figure.subplots()
    for y, (_, mean, spread, values) in enumerate(rows):
      if spread:
        ends = [mean - spread, mean + spread]
        axes.plot(ends, [y, y], color=_COLORS[0], linewidth=1.5)
      axes.plot([mean], [y], "|", color=_COLORS[0], markersize=11, mew=2.5)
      axes.plot(
        values, [y] * len(values), "o", color=_COLORS[0], ms=5, mfc="none"
      )
      text = f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" * bool(spread))
      axes.text(
        1.02, y, text, transform=axes.get_yaxis_transform(), va="center"
      )
    for (name, value), dash in zip(_finite(levels), itertools.cycle(_DASHES)):
      axes.axvline(value, color=_GRAY, linestyle=dash, label=name)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(x_label)
    _head(axes, title)
    if _finite(levels):
      figure.legend(loc="outside lower center", ncols=3)


def matrix_plot(path, shares, names, *, title, x_label, y_label) -> None:
  """Writes a matrix of shares, with its numbers in percent if they fit.

  Args:
    path: of the file, .svg or .png; written whole or not at all.
    shares: [k k] in [0, 1].
    names: of the k rows and columns.
    title: says what to see.
    x_label: what the columns are.
    y_label: what the rows are.
  """
  few = len(names) <= 20
  side = 1.8 + (0.42 * len(names) if few else 4.2)
  with _figure(path, title, (side + 0.6, side)) as figure:
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    if few:
      axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
      axes.set_yticks(range(len(names)), names)
      for row, line in enumerate(shares):
        for column, share in enumerate(line):
          if share >= 0.005:
            color = "white" if share > 0.5 else "#222"
            text = f"{100 * share:.0f}"
            look = {"ha": "center", "va": "center", "fontsize": 7.5}
            axes.text(column, row, text, color=color, **look)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _head(axes, title)


def map_plot(path, pixels, names, colors, *, title) -> None:
  """Writes a map of images, with the colors of its frames named beside it.

  Args:
    path: of the file, .png; written whole or not at all.
    pixels: uint8 [h w 3].
    names: of the classes.
    colors: uint8 [k 3], theirs.
    title: says what to see.
  """
  from matplotlib import patches

  with _figure(path, title, (8.6, 7.4)) as figure:
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()
    _head(axes, title)
    handles = [
      patches.Patch(color=color / 255, label=name)
      for name, color in zip(names, colors)
    ]
    if len(handles) <= 20:
      figure.legend(handles=handles, loc="outside right center")


def class_colors(count: int):
  """Returns uint8 [count 3], colors that differ as far as they can."""
  from matplotlib import colormaps

  some = colormaps["tab20" if count > 10 else "tab10"]
  colors = [some(i % some.N)[:3] for i in range(count)]
  return np.rint(255 * np.array(colors)).astype(np.uint8)


def _finite(levels):
  return [(name, x) for name, x in levels if x is not None and math.isfinite(x)]


def _head(axes, title):
  axes.set_title(textwrap.fill(title, 76), pad=10)


def _draw(axes, panel, beside):
  """Draws a panel; its legend beside the axes or inside."""

  def usable(value, log):
    return math.isfinite(value) and (value > 0 or not log)

  ticks, lines = set(), []
  for i, (name, points) in enumerate(panel.series):
    points = sorted(
      (x, mean, spread if math.isfinite(spread) else 0.0)
      for x, mean, spread in points
      if usable(x, panel.log_x) and usable(mean, panel.log_y)
    )
    if not points:
      continue
    xs, means, spreads = zip(*points, strict=True)
    ticks |= {*xs}
    line = axes.errorbar(
      xs,
      means,
      spreads if any(spreads) else None,
      label=name,
      capsize=3,
      color=_COLORS[i % len(_COLORS)],
      linestyle="--" if i // len(_COLORS) % 2 else "-",
      marker=_MARKERS[(i + i // len(_COLORS)) % len(_MARKERS)]
      if len(points) < _MANY
      else None,
      markersize=5,
    )
    lines.append(line)
  levels = zip(_finite(panel.levels), itertools.cycle(_DASHES))
  for (name, y), dash in levels:
    look = {"color": _GRAY, "linestyle": dash, "linewidth": 1.1}
    lines.append(axes.axhline(y, label=name, **look))
  if panel.log_y:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(_number)
    axes.yaxis.set_minor_formatter(_number if high < 10 * low else "")
  if panel.log_x:
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(_number)
  axes.set_xlabel(panel.x_label)
  axes.set_ylabel(panel.y_label)
  _head(axes, panel.title)
  if len(lines) > 1:
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(handles=lines, **place if beside else {"loc": "best"})


def _number(x, _=None) -> str:
  return f"{x:,.6g}"


@contextlib.contextmanager
def _figure(path, title, size) -> Any:
  """Yields an empty figure, and writes what was drawn in it."""
  # It tells of every home folder that it cannot write its caches to.
  logging.getLogger("matplotlib").setLevel(logging.ERROR)
  import matplotlib
  from matplotlib import figure as figures, style

  with files.atomic(path) as partial, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of letters that its font does not have
    with style.context(["default", _STYLE]):
      figure = figures.Figure(figsize=size, dpi=110, layout="constrained")
      yield figure
      kind = "svg" if str(path).endswith(".svg") else "png"
      metadata = {"Title": title}
      if kind == "svg":
        creator = f"matplotlib {matplotlib.__version__}"
        metadata |= {"Date": None, "Creator": creator}
      figure.savefig(partial, format=kind, metadata=metadata)

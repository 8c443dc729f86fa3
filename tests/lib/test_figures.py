"""Plots: where their marks stand, what they name, and that they never fail."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from genrep_jax.lib import figures

_SVG = "{http://www.w3.org/2000/svg}"
_FIRST = "#0072b2"  # of the first line, and of dots


def _lines(path, series, **options):
  labels = {"title": "a < b", "x_label": "sigma", "y_label": "accuracy"}
  figures.line_plot(path, figures.Panel(series=series, **labels, **options))
  return ElementTree.parse(path).getroot()


def _texts(root):
  return [x.text for x in root.iter(f"{_SVG}text")]


def _marks(root, of):
  """Places, in points, of marks of a color: {"fill" or "stroke": [(x, y)]}."""
  return sorted(
    (float(x.get("x")), float(x.get("y")))
    for x in root.iter(f"{_SVG}use")
    if of in x.get("style", "")
  )


def test_marks_are_in_proportion(tmp_path):
  """On linear axes by differences, on logarithmic ones by ratios."""
  series = [("a", [(4, 100.0, 0.0), (1, 1.0, 0.0), (2, 10.0, 0.0)])]
  root = _lines(tmp_path / "a.svg", series)
  (x0, y0), (x1, y1), (x2, y2) = _marks(root, f"fill: {_FIRST}")
  assert (x2 - x0) / (x1 - x0) == pytest.approx(3, abs=0.01)
  assert (y0 - y2) / (y0 - y1) == pytest.approx(11, abs=0.1)
  root = _lines(tmp_path / "b.svg", series, log_x=True, log_y=True)
  (x0, y0), (x1, y1), (x2, y2) = _marks(root, f"fill: {_FIRST}")
  assert x2 - x1 == pytest.approx(x1 - x0, abs=0.1)
  assert y2 - y1 == pytest.approx(y1 - y0, abs=0.1) and y2 < y0
  assert {"1", "2", "4", "10", "100"} <= set(_texts(root))
  # An axis of less than a decade has ticks, too.
  series = [("a", [(1, 72.0, 0.0), (2, 84.0, 0.0)])]
  assert {"70", "80"} & {
    *_texts(_lines(tmp_path / "c.svg", series, log_y=True))
  }


def test_bars_reach_the_spread(tmp_path):
  root = _lines(tmp_path / "a.svg", [("a", [(0, 0, 0.25), (1, 1, 0)])])
  marks = _marks(root, f"fill: {_FIRST}")  # points, and the ends of bars
  at_0 = sorted(y for x, y in marks if x == marks[0][0])
  one = at_0[1] - min(y for _, y in marks)
  assert len(at_0) == 3
  assert at_0[2] - at_0[1] == pytest.approx(0.25 * one, rel=1e-2)
  assert at_0[1] - at_0[0] == pytest.approx(0.25 * one, rel=1e-2)


def test_lines_and_levels_are_named_and_look_different(tmp_path):
  series = [(f"line {i}", [(0, i, 0), (1, 5 + i, 0)]) for i in range(12)]
  levels = [("floor & co", 5.2), ("another", 4.0), ("nothing", None)]
  root = _lines(tmp_path / "a.svg", series, levels=levels)
  texts = _texts(root)
  names = [f"line {i}" for i in range(12)] + ["floor & co", "another"]
  assert [text for text in texts if text in names] == names  # once each
  assert {"a < b", "sigma", "accuracy"} <= {*texts} and "nothing" not in texts
  looks, colors = set(), set()
  for group in root.iter(f"{_SVG}g"):
    line, mark = group.find(f"{_SVG}path"), group.find(f"{_SVG}g/{_SVG}use")
    style = line.get("style", "") if line is not None else ""
    color = re.search(r"stroke: (#\w{6})", style)
    if mark is not None and color and "fill: none" in style:
      shape = mark.get("{http://www.w3.org/1999/xlink}href")
      looks.add((color[1], shape, "dasharray" in style))
      colors.add(color[1])
  assert len(looks) >= 12
  for color in colors:  # 3:1 or more against white
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
      x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (light + 0.05) >= 3, color


def test_what_cannot_be_drawn_is_left_out_and_nothing_fails(tmp_path):
  nan = math.nan
  series = [
    ("a", [(0, 1.0, nan), (1, nan, 0.1), (2, math.inf, 0.1)]),
    ("none yet", [(0, nan, 0)]),
    ("$x 中", []),
  ]
  root = _lines(tmp_path / "a.svg", series)
  assert len(_marks(root, f"fill: {_FIRST}")) == 1
  assert not {"none yet", "$x 中"} & {*_texts(root)}
  points = [(-1, 2.0, 0), (0, 3.0, 9.0), (1, -4.0, 1), (2, 5.0, 9.0)]
  for log_x, log_y in ((True, True), (True, False), (False, True)):
    for drawn in ([("$a_$ <中>", points)], [("a", points[:1])], []):
      labels = {"levels": [("l", 1.0)], "log_x": log_x, "log_y": log_y}
      _lines(tmp_path / "b.svg", drawn, **labels)
  figures.dot_plot(tmp_path / "c.svg", [], title="", x_label="")


def test_the_same_numbers_are_the_same_bytes(tmp_path):
  for name in ("a.svg", "b.svg"):
    _lines(tmp_path / name, [("a", [(3, 0.1, 0.1), (1, 0.2, 0)])])
  assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
  assert sorted(x.name for x in tmp_path.iterdir()) == ["a.svg", "b.svg"]


def test_panels_stand_three_in_a_row(tmp_path):
  panel = figures.Panel("t", "x", "y", [("a", [(0, 1, 0)])])
  sizes = {}
  for count in (1, 2, 3, 4):
    figures.line_plot(tmp_path / "a.png", *[panel] * count)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert pixels.std() > 5
    sizes[count] = pixels.shape
  assert sizes[3][1] > sizes[2][1] and sizes[4][1] == sizes[3][1]
  assert sizes[4][0] > 1.9 * sizes[3][0]


def test_dots(tmp_path):
  """A row per name in the given order; rings at the seeds' values."""
  rows = [
    ("SimCLR <x>", 0.5, 0.1, [0.4, 0.6]),
    ("raw pixels", 0.9, 0.0, []),
    ("real", 0.7, 0.0, [0.7]),
  ]
  levels = [("left", 0.55), ("at the right edge", 0.9), ("none", None)]
  labels = {"title": "rows", "x_label": "accuracy", "levels": levels}
  figures.dot_plot(tmp_path / "a.svg", rows, digits=1, **labels)
  root = ElementTree.parse(tmp_path / "a.svg").getroot()
  at = {x.text: float(x.get("y")) for x in root.iter(f"{_SVG}text")}
  assert at["SimCLR <x>"] < at["raw pixels"] < at["real"]
  assert at["0.5 ± 0.1"] == pytest.approx(at["SimCLR <x>"], abs=3)
  assert at["0.9"] == pytest.approx(at["raw pixels"], abs=3)
  assert {"left", "at the right edge", "accuracy"} <= {*at} and "none" not in at
  rings = _marks(root, f"stroke: {_FIRST}")
  first = sorted(x for x, y in rings if y == min(y for _, y in rings))
  assert len(first) == 3 and len(rings) == 6  # two rings, or one, and a mean
  assert first[1] - first[0] == pytest.approx(first[2] - first[1], abs=0.1)

"""Plots: where their marks stand, what they name, and what they refuse."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from genrep_jax.lib import plots

_SVG = "{http://www.w3.org/2000/svg}"


def _line(path, series, **options):
  labels = {"title": "a < b", "x_label": "sigma", "y_label": "accuracy"}
  plots.line_plot(path, series, **labels, **options)
  return ElementTree.parse(path).getroot()


def _texts(root):
  return [x.text for x in root.iter(f"{_SVG}text")]


def _place(element):
  x, y = re.match(
    r"translate\((\S+) (\S+)\)", element.get("transform")
  ).groups()
  return float(x), float(y)


def _marks(root):
  """{what a mark says: its place in px}."""
  return {
    x.find(f"{_SVG}title").text: _place(x)
    for x in root.iter(f"{_SVG}path")
    if x.get("transform") and x.find(f"{_SVG}title") is not None
  }


def test_marks_are_in_proportion(tmp_path):
  """On linear axes by differences, on logarithmic ones by ratios."""
  xs, means = [1, 2, 4], [1.0, 10.0, 100.0]
  series = [("a", xs, means, [0.5, 20.0, 0.0])]
  marks = _marks(_line(tmp_path / "a.svg", series))
  assert list(marks) == ["a, 1: 1 ± 0.5", "a, 2: 10 ± 20", "a, 4: 100"]
  (x0, y0), (x1, y1), (x2, y2) = marks.values()
  assert (x2 - x0) / (x1 - x0) == pytest.approx(3, abs=0.01)
  assert (y0 - y2) / (y0 - y1) == pytest.approx(11, abs=0.1)
  log = _line(tmp_path / "b.svg", series, log_x=True, log_y=True)
  (x0, y0), (x1, y1), (x2, y2) = _marks(log).values()
  assert x2 - x1 == pytest.approx(x1 - x0, abs=0.1)
  assert y2 - y1 == pytest.approx(y1 - y0, abs=0.1) and y2 < y0
  # The whisker from 10 to -10 ends where the axis does, inside the picture.
  bottom = max(float(x.get("y2")) for x in log.iter(f"{_SVG}line"))
  assert bottom <= float(log.get("height"))
  assert {"1", "2", "4", "10", "100"} <= set(_texts(log))


def test_whiskers_reach_the_spread(tmp_path):
  root = _line(tmp_path / "a.svg", [("a", [0, 1], [0, 1], [0.25, 0])])
  marks = _marks(root)
  (_, low), (_, high) = marks.values()
  drawn = [
    sorted((float(x.get("y1")), float(x.get("y2"))))
    for x in root.iter(f"{_SVG}line")
    if x.get("class") == "k0" and x.get("x1") == x.get("x2")
  ]
  (ends,) = drawn
  quarter = (low - high) / 4
  assert ends == pytest.approx([low - quarter, low + quarter], abs=0.2)


def test_lines_and_levels_are_named_and_do_not_touch(tmp_path):
  """Twelve lines that end together: twelve labels, 12 px apart or more."""
  series = [(f"line {i}", [0, 1], [i, 5 + 0.01 * i], None) for i in range(12)]
  root = _line(tmp_path / "a.svg", series, levels=[("floor & co", 5.2)])
  names = {f"line {i}" for i in range(12)} | {"floor & co"}
  ys = [float(x.get("y")) for x in root.iter(f"{_SVG}text") if x.text in names]
  assert len(ys) == 13
  ys.sort()
  assert min(b - a for a, b in zip(ys, ys[1:])) > 12
  assert 0 < ys[0] and ys[-1] < float(root.get("height"))
  # Labels that are far from the others stay at their lines.
  low = [(f"line {i}", [0, 1], [i, 0.01 * i], None) for i in range(12)]
  root = _line(tmp_path / "b.svg", [*low[:11], ("high", [0, 1], [0, 9], None)])
  at = {x.text: float(x.get("y")) for x in root.iter(f"{_SVG}text")}
  assert at["high"] - 4 == pytest.approx(_marks(root)["high, 1: 9"][1], abs=0.2)
  ys = sorted(at[f"line {i}"] for i in range(11))
  assert min(b - a for a, b in zip(ys, ys[1:])) > 12
  assert ys[-1] < at["sigma"] - 16
  top = [(f"line {i}", [0, 1], [0, 9 + 0.01 * i], None) for i in range(12)]
  root = _line(tmp_path / "c.svg", top)
  at = {x.text: float(x.get("y")) for x in root.iter(f"{_SVG}text")}
  assert min(at[name] for name, *_ in top) > at["accuracy"]
  root = ElementTree.parse(tmp_path / "a.svg").getroot()
  # Every line has a look of its own: colour, marker and dash together.
  paths = [x for x in root.iter(f"{_SVG}path")]
  lines = [x for x in paths if x.get("fill") == "none"]
  looks = {(x.get("class"), x.get("stroke-dasharray")) for x in lines}
  assert len(lines) == len(looks) == 12
  assert "a < b" in _texts(root) and root.get("aria-label") == "a < b"


def test_light_and_dark(tmp_path):
  """Both grounds, and every colour 3:1 or more against its own."""

  def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
      x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  for side, colours in ((1, plots._LIGHT), (2, plots._DARK)):
    ground = luminance(plots._INK["ground"][side])
    texts = [plots._INK[name][side] for name in ("ink", "soft")]
    for colour, least in [(c, 3) for c in colours] + [(c, 4.5) for c in texts]:
      ordered = sorted((luminance(colour) + 0.05, ground + 0.05))
      assert ordered[1] / ordered[0] >= least, colour
  _line(tmp_path / "a.svg", [("a", [0], [0], None)])
  text = (tmp_path / "a.svg").read_text()
  light, dark = text.split("@media (prefers-color-scheme: dark)")
  assert all(c in light for c in plots._LIGHT)
  assert all(c in dark for c in plots._DARK)
  for name, (_, on_light, on_dark) in plots._INK.items():
    assert f".{name}{{" in light and on_light in light
    assert f".{name}{{" in dark and on_dark in dark


def test_what_is_not_finite_is_left_out(tmp_path):
  series = [
    ("a", [0, 1, 2], [1.0, None, math.nan], [None, 0.1, 0.1]),
    ("none yet", [0], [None], None),
  ]
  root = _line(tmp_path / "a.svg", series, levels=[("x", None)])
  assert list(_marks(root)) == ["a, 0: 1"]
  assert "x" not in _texts(root)


def test_the_same_numbers_are_the_same_bytes(tmp_path):
  for name in ("a.svg", "b.svg"):
    _line(tmp_path / name, [("a", [3, 1], [0.1, 0.2], None)])
  assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
  assert sorted(x.name for x in tmp_path.iterdir()) == ["a.svg", "b.svg"]


@pytest.mark.parametrize(
  ("series", "options", "message"),
  [
    ([], {}, "without a point"),
    ([("a", [1], [None], None)], {}, "without a point"),
    ([("a", [1], [1], None)] * 13, {}, "13 lines in a plot, at most 12"),
    ([("a", [1, 2], [1], None)], {}, "'a': 2 xs, 1 means, 1 spreads"),
    ([("a", [0, 2], [1, 1], None)], {"log_x": True}, "0.0 on a logarithmic"),
    ([("a", [1], [-1], None)], {"log_y": True}, "-1.0 on a logarithmic"),
  ],
)
def test_what_a_line_plot_refuses(tmp_path, series, options, message):
  if message.startswith("'a'"):
    series = [("a", [1, 2], [1], [0])]
  with pytest.raises(ValueError, match=message):
    _line(tmp_path / "a.svg", series, **options)
  assert not list(tmp_path.iterdir())


def test_dots(tmp_path):
  """A row per name in the given order; rings at the seeds' values."""
  rows = [
    ("SimCLR <x>", 0.5, 0.1, [0.4, 0.6]),
    ("raw pixels", 0.9, None, []),
    ("real", 0.7, 0.0, [0.7, None]),
  ]
  levels = [("left", 0.5), ("leftish", 0.51), ("at the right edge", 0.9)]
  plots.dot_plot(
    tmp_path / "a.svg",
    rows,
    title="rows",
    x_label="accuracy",
    levels=levels,
    digits=1,
  )
  root = ElementTree.parse(tmp_path / "a.svg").getroot()
  texts = {
    x.text: (float(x.get("x")), float(x.get("y")))
    for x in root.iter(f"{_SVG}text")
  }
  ys = [texts[name][1] for name, *_ in rows]
  assert ys == sorted(ys) and ys[1] - ys[0] == 26
  assert texts["0.5 ± 0.1"][1] == ys[0] and "0.9" in texts
  rings = {
    (x.find(f"{_SVG}title").text, *_place(x))
    for x in root.iter(f"{_SVG}path")
    if x.get("transform")
  }
  assert sorted(r[0] for r in rings) == [
    "SimCLR <x>: 0.4",
    "SimCLR <x>: 0.6",
    "real: 0.7",
  ]
  means = {
    x.find(f"{_SVG}title").text: float(x.get("x1"))
    for x in root.iter(f"{_SVG}line")
    if x.find(f"{_SVG}title") is not None
  }
  (left,) = (x for name, x, _ in rings if name.endswith("0.4"))
  (right,) = (x for name, x, _ in rings if name.endswith("0.6"))
  assert means["SimCLR <x>: 0.5"] == pytest.approx((left + right) / 2, abs=0.1)
  # Labels of neighbouring levels stand above each other.
  assert texts["left"][1] != texts["leftish"][1]
  (edge,) = (x for x in root.iter(f"{_SVG}text") if "edge" in x.text)
  assert edge.get("text-anchor") == "end"


@pytest.mark.parametrize("rows", [[], [("a", None, None, [])]])
def test_what_a_dot_plot_refuses(tmp_path, rows):
  with pytest.raises(ValueError, match="without"):
    plots.dot_plot(tmp_path / "a.svg", rows, title="t", x_label="x")

"""Plots of studies as SVG files, by hand: no plotting package is needed.

`line_plot` is a quantity against another, mean and spread over seeds;
`dot_plot` compares named rows, every seed a dot. Both carry their own ground,
light or dark as the reader's system asks, tell their lines apart by colour,
marker and name, and are the same bytes for the same numbers.
"""

import html
import math
import pathlib
import textwrap

# Colours that the colour-blind tell apart (after Okabe and Ito, 2008), darker
# on a light ground and lighter on a dark one: 3:1 or more against it.
_LIGHT = ("#0072b2", "#c85200", "#00815d", "#ac4a86", "#946a00", "#55554f")
_DARK = ("#56b4e9", "#ff9148", "#2fc795", "#e391c1", "#e3b62f", "#c4c3bb")
_INK = {  # class: (property, on light, on dark)
  "ground": ("fill", "#ffffff", "#191a1d"),
  "ink": ("fill", "#1c1c1a", "#ececea"),
  "soft": ("fill", "#5a5954", "#aeada6"),
  "grid": ("stroke", "#e6e5e0", "#303136"),
  "axis": ("stroke", "#8d8c85", "#77777c"),
  "level": ("stroke", "#5a5954", "#aeada6"),
}
_WIDTH = 760
_MAX_SERIES = 2 * len(_LIGHT)
_MARKERS = (  # paths about the origin, in px
  "M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z",
  "M-3.8 -3.8H3.8V3.8H-3.8Z",
  "M0 -5L4.8 3.6H-4.8Z",
  "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
  "M0 5L4.8 -3.6H-4.8Z",
  "M-4.2 -1.6H-1.6V-4.2H1.6V-1.6H4.2V1.6H1.6V4.2H-1.6V1.6H-4.2Z",
)


def line_plot(
  path,
  series,
  *,
  title,
  x_label,
  y_label,
  log_x=False,
  log_y=False,
  levels=(),
):
  """Writes lines of means, with whiskers of their spread.

  Args:
    path: the SVG file; written whole or not at all.
    series: [(name, xs, means, spreads or None)]: whiskers reach from mean -
      spread to mean + spread. A mean that is None or not finite is left out.
    title: one sentence, says what to see.
    x_label: what x is, with its unit.
    y_label: what y is, with its unit.
    log_x: logarithmic x, with the xs themselves as ticks.
    log_y: logarithmic y.
    levels: [(name, value)]: horizontal lines of reference.

  Raises:
    ValueError: no point, more series than can be told apart, lists of other
      lengths, or a value <= 0 on a logarithmic axis.
  """
  if len(series) > _MAX_SERIES:
    raise ValueError(f"{len(series)} lines in a plot, at most {_MAX_SERIES}")
  lines = [(name, _points(name, *rest)) for name, *rest in series]
  points = [point for _, line in lines for point in line]
  if not points:
    raise ValueError("a plot without a point")
  levels = [(name, value) for name, value in levels if _finite(value)]
  names = [name for name, _ in (*lines, *levels)]
  picture = _Picture(title)
  left, top = 62, picture.top + 28
  right = _WIDTH - 30 - max(_width(name, 12) for name in names)
  bottom = top + 300
  picture.height = bottom + 52
  ends = [y + s * side for _, y, s in points for side in (-1, 1)]
  if log_y:  # a whisker may reach below 0; the means may not
    ends = [y for y in ends if y > 0]
    ends += [y for _, y, _ in points]
  x_axis = _Axis([x for x, _, _ in points], left + 14, right - 14, log_x)
  y_axis = _Axis([*ends, *(v for _, v in levels)], bottom - 8, top + 8, log_y)

  picture.text(left - 46, top - 12, y_label, "soft", size=12)
  for value in y_axis.ticks():
    y = y_axis(value)
    picture.line(left, y, right, y, "grid")
    picture.text(left - 8, y + 4, _number(value), "soft", 12, "end")
  picture.line(left, bottom, right, bottom, "axis")
  own = sorted({x for x, _, _ in points}) if log_x else None
  for value in _apart(own or x_axis.ticks(), x_axis):
    x = x_axis(value)
    picture.line(x, bottom, x, bottom + 5, "axis")
    picture.text(x, bottom + 19, _number(value), "soft", 12, "middle")
  picture.text((left + right) / 2, bottom + 40, x_label, "soft", 12, "middle")

  labels = []
  for name, value in levels:
    y = y_axis(value)
    picture.line(left, y, right, y, "level", dash="2 4", says=(name, value))
    labels.append((y, name, None, right))
  for i, (name, line) in enumerate(lines):
    _draw_line(picture, i, name, line, x_axis, y_axis)
    if line:
      labels.append((y_axis(line[-1][1]), name, i, x_axis(line[-1][0])))
  _draw_labels(picture, labels, right, top, bottom)
  picture.write(path)


def dot_plot(path, rows, *, title, x_label, levels=(), digits=2):
  """Writes a row per name: every value a ring, their mean, their spread.

  Args:
    path: the SVG file; written whole or not at all.
    rows: [(name, mean, spread or None, values)], from top to bottom; values
      are those of the seeds, and may be empty.
    title: one sentence, says what to see.
    x_label: what is compared, with its unit.
    levels: [(name, value)]: vertical lines of reference.
    digits: of the numbers at the right, after the point.

  Raises:
    ValueError: no row, or a mean that is not finite.
  """
  rows = [
    (name, mean, spread or 0.0, [v for v in values if _finite(v)])
    for name, mean, spread, values in rows
  ]
  if not rows or not all(_finite(mean) for _, mean, _, _ in rows):
    raise ValueError("a plot without rows, or a row without a mean")
  levels = sorted(
    [(name, v) for name, v in levels if _finite(v)], key=lambda x: x[1]
  )
  ends = [v for _, m, s, values in rows for v in (m - s, m + s, *values)]
  numbers = [
    f"{m:.{digits}f}" + (f" ± {s:.{digits}f}" if s else "")
    for _, m, s, _ in rows
  ]
  picture = _Picture(title)
  left = 30 + max(_width(name, 13) for name, *_ in rows)
  right = _WIDTH - 34 - max(_width(text, 12) for text in numbers)
  axis = _Axis([*ends, *(v for _, v in levels)], left + 12, right - 12, False)
  lanes, where = _lanes(levels, axis, right)
  top = picture.top + 10 + 16 * lanes
  bottom = top + 26 * len(rows) + 8
  picture.height = bottom + 52

  for value in _apart(axis.ticks(), axis):
    x = axis(value)
    picture.line(x, top, x, bottom, "grid")
    picture.text(x, bottom + 19, _number(value), "soft", 12, "middle")
  picture.line(left, bottom, right, bottom, "axis")
  picture.text((left + right) / 2, bottom + 40, x_label, "soft", 12, "middle")
  for (name, value), (lane, x, anchor) in zip(levels, where, strict=True):
    y = top - 6 - 16 * lane
    at = axis(value)
    picture.line(at, y + 3, at, bottom, "level", dash="2 4")
    picture.text(x, y - 1, name, "soft", 12, anchor)
  for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
    name, mean, spread, values = row
    y = top + 26 * i + 17
    picture.text(left - 12, y + 4, name, "ink", 13, "end")
    picture.text(_WIDTH - 20, y + 4, number, "ink", 12, "end")
    if spread:
      ends = axis(mean - spread), axis(mean + spread)
      picture.line(ends[0], y, ends[1], y, "k0", width=2)
    for value in values:
      picture.marker(0, axis(value), y, "k0", 0.8, (name, value), hollow=True)
    x = axis(mean)
    picture.line(x, y - 8, x, y + 8, "k0", width=3, says=(name, mean))
  picture.write(path)


def _finite(value) -> bool:
  return value is not None and math.isfinite(value)


def _points(name, xs, means, spreads=None):
  """Returns [(x, mean, spread)] of a series, sorted by x."""
  spreads = [0.0] * len(xs) if spreads is None else spreads
  if not len(xs) == len(means) == len(spreads):
    raise ValueError(
      f"line {name!r}: {len(xs)} xs, {len(means)} means, {len(spreads)} spreads"
    )
  return sorted(
    (float(x), float(y), float(s) if s is not None and _finite(s) else 0.0)
    for x, y, s in zip(xs, means, spreads, strict=True)
    if _finite(y)
  )


def _number(value: float) -> str:
  """A tick: 0.05, 1.5, 4,096, 1e-06."""
  if 1 <= abs(value) < 1e9:
    return f"{value:,.6f}".rstrip("0").rstrip(".")
  return f"{value:.6g}"


def _width(text: str, size: float) -> float:
  """About the width of a text in px: fonts are the reader's."""
  return 0.57 * size * len(text)


class _Axis:
  """From values to px."""

  def __init__(self, values, start, end, log):
    if log and min(values) <= 0:
      raise ValueError(f"{min(values)} on a logarithmic axis")
    self._log, self._start, self._end = log, start, end
    low, high = (self._scale(f(values)) for f in (min, max))
    if high - low <= 1e-12 * max(abs(high), abs(low)):
      margin = 0.05 * abs(high) or 1.0
      low, high = low - margin, high + margin
    self._low, self._high = low, high

  def _scale(self, value):
    return math.log10(value) if self._log else value

  def __call__(self, value) -> float:
    if self._log and value <= 0:  # the end of a whisker
      return self._start
    share = (self._scale(value) - self._low) / (self._high - self._low)
    return self._start + share * (self._end - self._start)

  def ticks(self) -> list[float]:
    """Round values inside, about five."""
    low, high = self._low, self._high
    if self._log:
      decades = range(math.floor(low), math.ceil(high) + 1)
      steps = (1,) if high - low > 2.5 else (1, 2, 5)
      found = [s * 10.0**d for d in decades for s in steps]
      return [v for v in found if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * min((1, 2, 2.5, 5, 10), key=lambda s: abs(s - rough / size))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _apart(values, axis):
  """Leaves out values whose labels would touch; keeps the first."""
  kept, edge = [], -math.inf
  for value in values:
    half = _width(_number(value), 12) / 2 + 5
    if axis(value) - half >= edge:
      kept.append(value)
      edge = axis(value) + half
  return kept


def _lanes(levels, axis, right):
  """Places labels over vertical lines: (lanes, [(lane, x, anchor)])."""
  edges, where = [], []
  for name, value in levels:
    x, width = axis(value), _width(name, 12)
    anchor = "start" if x + width < right + 60 else "end"
    start = x if anchor == "start" else x - width
    lane = next((i for i, edge in enumerate(edges) if edge < start), len(edges))
    edges[lane : lane + 1] = [start + width + 10]
    where.append((lane, x, anchor))
  return len(edges), where


def _draw_line(picture, i, name, line, x_axis, y_axis):
  """Draws line, whiskers and markers of series i."""
  colour = i % len(_LIGHT)
  at = [(x_axis(x), y_axis(y)) for x, y, _ in line]
  path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
  dash = "7 4" if i >= len(_LIGHT) else ""
  if len(at) > 1:
    picture.path(path, f"k{colour}", dash)
  for (x, mean, spread), (px, py) in zip(line, at, strict=True):
    if spread:
      ends = y_axis(mean + spread), y_axis(mean - spread)
      picture.line(px, ends[0], px, ends[1], f"k{colour}", width=1.5)
      for y in ends:
        picture.line(px - 4, y, px + 4, y, f"k{colour}", width=1.5)
    says = (f"{name}, {_number(x)}", mean, spread)
    picture.marker(i, px, py, f"f{colour}", says=says)


def _draw_labels(picture, labels, right, top, bottom):
  """Names the lines at their right ends, pushed apart where they touch."""
  labels = sorted(labels)
  ys = [label[0] for label in labels]
  gap = min(16.0, (bottom - top + 16) / max(len(ys), 1))
  for i in range(1, len(ys)):
    ys[i] = max(ys[i], ys[i - 1] + gap)
  ys[-1] = min(ys[-1], bottom)
  for i in range(len(ys) - 2, -1, -1):
    ys[i] = min(ys[i], ys[i + 1] - gap)
  for (at, name, series, x), y in zip(labels, ys, strict=True):
    if series is None:
      if abs(y - at) > 1:
        picture.line(right, at, right + 14, y, "level", dash="2 4")
      picture.text(right + 18, y + 4, name, "soft", 12)
      continue
    colour = series % len(_LIGHT)
    dash = "3 3" if series >= len(_LIGHT) else ""
    picture.line(x + 6, at, right + 4, y, f"k{colour}", dash=dash, opacity=0.45)
    picture.marker(series, right + 9, y, f"f{colour}", scale=0.85)
    picture.text(right + 18, y + 4, name, "ink", 12)


class _Picture:
  """Elements of an SVG file, in the order of drawing."""

  def __init__(self, title):
    lines = textwrap.wrap(title, 76) or [""]
    self._title, self._parts, self.height = title, [], 0
    for i, line in enumerate(lines):
      self.text(16, 28 + 19 * i, line, "ink", 15, weight=600)
    self.top = 28 + 19 * (len(lines) - 1) + 18
    self.height = self.top

  def text(self, x, y, text, kind, size=12, anchor="start", weight=400):
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    turn = f' text-anchor="{anchor}"' if anchor != "start" else ""
    self._parts.append(
      f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" font-size="{size}"'
      f"{turn}{bold}>{html.escape(text)}</text>"
    )

  def line(
    self, x1, y1, x2, y2, kind, width=1, dash="", opacity=1.0, says=None
  ):
    more = f' stroke-dasharray="{dash}"' if dash else ""
    more += f' opacity="{opacity}"' if opacity < 1 else ""
    start = (
      f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
      f'class="{kind}" stroke-width="{width}"{more}'
    )
    tip = _tip(says)
    self._parts.append(f"{start}>{tip}</line>" if tip else f"{start}/>")

  def path(self, path, kind, dash):
    more = f' stroke-dasharray="{dash}"' if dash else ""
    self._parts.append(
      f'<path d="{path}" class="{kind}" fill="none" stroke-width="2"{more}/>'
    )

  def marker(self, i, x, y, kind, scale=1.0, says=None, hollow=False):
    i = (i + i // len(_LIGHT)) % len(_MARKERS)
    size = f" scale({scale})" if scale != 1 else ""
    fill = ' fill="none" stroke-width="1.5"' if hollow else ""
    self._parts.append(
      f'<path d="{_MARKERS[i]}" class="{kind}"{fill} '
      f'transform="translate({x:.1f} {y:.1f}){size}">{_tip(says)}</path>'
    )

  def write(self, path):
    """Writes the file, whole or not at all."""
    light = [f".{k}{{{p}:{on}}}" for k, (p, on, _) in _INK.items()]
    dark = [f".{k}{{{p}:{on}}}" for k, (p, _, on) in _INK.items()]
    for rules, colours in ((light, _LIGHT), (dark, _DARK)):
      for i, on in enumerate(colours):
        rules += [f".f{i}{{fill:{on}}}", f".k{i}{{stroke:{on}}}"]
    height = math.ceil(self.height)
    whole = [
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
      f'height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
      f'aria-label="{html.escape(self._title)}" '
      "font-family=\"system-ui, 'DejaVu Sans', sans-serif\">",
      "<style>",
      *light,
      "@media (prefers-color-scheme: dark) {",
      *dark,
      "}",
      "</style>",
      f'<rect width="{_WIDTH}" height="{height}" class="ground"/>',
      *self._parts,
      "</svg>",
    ]
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("\n".join(whole) + "\n", encoding="utf-8")
    partial.rename(path)


def _tip(says) -> str:
  """What a reader's pointer is told: name, value, spread."""
  if says is None:
    return ""
  name, value, *spread = says
  text = f"{name}: {value:.6g}"
  if spread and spread[0]:
    text += f" ± {spread[0]:.3g}"
  return f"<title>{html.escape(text)}</title>"

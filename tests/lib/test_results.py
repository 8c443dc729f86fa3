"""Rows and tables of results, whatever was measured."""

import json
import math

import numpy as np
import pytest

from genrep_jax.lib import contracts, errors, results

KNN = {"metric": "knn/knn20_accuracy", "title": "knn", "unit": "%"}
FID = {"metric": "fid/fid", "title": "fid", "unit": ""}


def row(name="a", value=0.5, **options):
  return results.row(name, [{"knn/knn20_accuracy": value}], [0], **options)


def test_columns_are_what_the_evaluations_declare():
  def run(variables):
    return ()

  evaluations = {
    "near": contracts.Evaluation(run, "knn20_accuracy"),
    "quality": contracts.Evaluation(run, "fid", unit="points"),
  }
  assert results.columns_of(evaluations) == [
    {"metric": "near/knn20_accuracy", "title": "near", "unit": "%"},
    {"metric": "quality/fid", "title": "quality", "unit": "points"},
  ]


def test_means_are_over_seeds_and_never_over_metrics():
  """K6: kNN with k = 20 and k = 1 of one run once became their mean."""
  runs = [
    {"a/knn20_accuracy": 0.6, "b/knn1_accuracy": 0.7},
    {"a/knn20_accuracy": 0.8, "b/knn1_accuracy": 0.7, "odd": 1.0},
  ]
  made = results.row("x", runs, [3, 4])
  assert made["results"] == {
    "a/knn20_accuracy": pytest.approx(0.7),
    "b/knn1_accuracy": pytest.approx(0.7),
  }
  assert made["spread"]["a/knn20_accuracy"] == pytest.approx(
    np.std([0.6, 0.8], ddof=1)
  )
  single = results.row("x", runs[:1], [3])
  assert single["results"] == runs[0] and not single["spread"]
  assert not math.isfinite(
    results.row("x", [{"m": math.nan}] * 2, [0, 1])["spread"]["m"]
  )


def test_tables_show_mean_spread_unit_and_what_is_missing():
  one = results.row(
    "x | y <b>",
    [{"knn/knn20_accuracy": v, "fid/fid": 1234.5} for v in (0.5, 0.7)],
    [3, 4],
  )
  table = results.Table([KNN, FID], [row("baseline", baseline=True), one])
  text = results.text_table(table).splitlines()
  assert text[0].split() == ["name", "from", "seeds", "knn", "%", "fid"]
  assert text[2].split() == ["baseline", "run", "0", "50.00", "-"]
  assert "60.00 ± 14.14" in text[3] and "1234 ± 0" in text[3]
  assert len({len(line) for line in text}) == 1
  markdown = results.markdown_table(table)
  assert "| x \\| y <b> | run | 3,4 | 60.00 ± 14.14 | 1234 ± 0 |" in markdown
  page = results.html_table(table)
  assert "x | y &lt;b&gt;" in page and page.count("<tr class=run>") == 1
  assert page.count("<th class=figure>") == 2


def test_a_table_needs_neither_columns_nor_rows():
  for table in (results.Table([], []), results.Table([], [row()])):
    assert "name" in results.text_table(table)
    assert results.markdown_table(table).startswith("| name | from | seeds |")
    assert results.html_table(table).endswith("</table>")


def test_other_columns_are_shown_beside_and_titles_differ():
  nearest = {"metric": "knn/knn1_accuracy", "title": "knn", "unit": "%"}
  other = results.row("old", [{"knn/knn1_accuracy": 0.25}], [0, 1])
  table = results.merge(
    results.Table([KNN], [row()]), results.Table([nearest, KNN], [other])
  )
  assert table.columns == [KNN, nearest]
  text = results.text_table(table)
  assert "knn/knn20_accuracy %" in text and "knn/knn1_accuracy %" in text
  assert "25.00" in text and "50.00" in text


def test_floors_come_first_then_the_first_column_that_all_have():
  recorded = [row("c", 0.3), row("raw", 0.8, baseline=True), row("b", 0.7)]
  own = [row("b", 0.6), row("raw", 0.9, baseline=True)]
  table = results.merge(results.Table([KNN], own), results.Table([], recorded))
  values = [one["results"]["knn/knn20_accuracy"] for one in table.rows]
  assert values == [0.9, 0.3, 0.6, 0.7]
  bare = results.row("bare", [{}], [0])
  table = results.merge(
    results.Table([KNN], [*own, bare]), results.Table([], recorded)
  )
  assert [one["name"] for one in table.rows] == ["raw", "c", "b", "b", "bare"]


def test_a_recorded_table_is_read_and_marked(tmp_path):
  assert results.recorded("") == results.Table([], [])
  file = tmp_path / "table.json"
  file.write_text(json.dumps({"columns": [KNN], "rows": [row("σ")]}), "utf-8")
  table = results.recorded(str(file))
  assert table.columns == [KNN]
  assert [one["source"] for one in table.rows] == ["recorded"]


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[]",
    "[" * 100_000,
    "\xff",
    '{"rows": []}',
    '{"columns": [], "rows": {}}',
    '{"columns": ["knn"], "rows": []}',
    '{"columns": [], "rows": [3]}',
    '{"columns": [], "rows": [{"name": "a", "seeds": [0], "knn": 0.5}]}',
    json.dumps({"columns": [], "rows": [{**row(), "seeds": 0}]}),
    json.dumps({"columns": [], "rows": [{**row(), "seeds": ["0"]}]}),
    json.dumps({"columns": [], "rows": [{**row(), "baseline": 0}]}),
    json.dumps({"columns": [], "rows": [{**row(), "results": {"a": "b"}}]}),
    json.dumps({"columns": [], "rows": [{**row(), "spread": {"a": True}}]}),
    json.dumps({"columns": [{"metric": "a", "title": "b"}], "rows": []}),
  ],
)
def test_what_is_no_recorded_table_is_refused_in_one_line(tmp_path, text):
  file = tmp_path / "t.json"
  file.write_bytes(text.encode("latin-1"))
  with pytest.raises(errors.UsageError) as caught:
    results.recorded(str(file))
  line = str(caught.value)
  assert "\n" not in line and "allowed: a study's table.json" in line
  assert line.startswith("report.recorded: given ")
  with pytest.raises(errors.UsageError, match="report.recorded: .*none.json"):
    results.recorded(str(tmp_path / "none.json"))

"""The report of any program, whatever it logs and however it is judged."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from genrep_jax.lib import errors, report, results
from genrep_jax.tools import report as tool

FID = {"metric": "quality/fid", "title": "quality", "unit": ""}
SUMMARY = {
  "title": "a <game>",
  "program": "gan",
  "columns": [FID],
  "rows": [
    results.row("noise", [{"quality/fid": 90.0}], [0], baseline=True),
    results.row("a <game>", [{"quality/fid": 12.5}], [0]),
  ],
  "results": {"quality/fid": 12.5},
  "steps": 20,
  "seconds": {"train": 1.25},
  "facts": {"images per step": 16},
  "config": {"seed": 0},
  "versions": {"jax": "1"},
  "about": {"quality": "distance of 100 images & more"},
  "pictures": {"samples.png": "one <row> a class", "gone.png": "is not there"},
  "chance": 1.5,
  "exports": {"generator.safetensors": "abc"},
}


@pytest.fixture
def workdir(tmp_path):
  lines = [
    {"step": step, "wall_time": 1.0, "d_loss": 1 / step, "g_loss": "NaN"}
    for step in (10, 20)
  ]
  lines.append({"step": 20, "wall_time": 2.0, "quality/fid": 12.5})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "metrics.jsonl").write_text(text)
  Image.new("RGB", (8, 8)).save(tmp_path / "samples.png")
  (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
  return tmp_path


def test_it_is_one_file_with_pictures_curves_facts_and_files(workdir):
  page = report.write(workdir, SUMMARY).read_text()
  assert "http" not in page and "<game>" not in page
  assert len(re.findall(r'<img[^>]*src="data:image/png;base64,', page)) == 2
  for words in (
    "a &lt;game&gt;",
    "one &lt;row&gt; a class",
    "distance of 100 images &amp; more",
    "12.5",
    "noise",
    "images per step",
    "generator.safetensors",
    "train 1.2 s",
  ):
    assert words in page, words
  assert np.asarray(Image.open(workdir / "curves.png").convert("L")).std() > 5
  assert not list(workdir.glob("*.partial"))


def test_it_needs_neither_evaluations_nor_curves(tmp_path):
  bare = {"columns": [], "rows": [], "results": {}, "about": {}, "chance": None}
  bare = {**SUMMARY, **bare, "pictures": {}, "exports": {}}
  page = report.write(tmp_path, bare).read_text()
  assert "<img" not in page and "Files" not in page
  assert not (tmp_path / "curves.png").exists()


def test_the_tool_writes_it_again(workdir, capsys):
  report.write(workdir, SUMMARY)
  before = (workdir / "report.html").read_bytes()
  (workdir / "report.html").unlink()
  tool.main(["--workdir", str(workdir)])
  assert "noise" in capsys.readouterr().out
  assert (workdir / "report.html").read_bytes() == before


@pytest.mark.parametrize(
  "text",
  [None, "", "[]", '{"title": "of an earlier version", "rows": []}', "\xff"],
)
def test_what_is_no_finished_run_is_refused_in_one_line(workdir, text):
  file = workdir / "summary.json"
  file.unlink()
  if text is not None:
    file.write_bytes(text.encode("latin-1"))
  with pytest.raises(errors.UsageError, match="^--workdir: ") as caught:
    tool.main(["--workdir", str(workdir)])
  assert "\n" not in str(caught.value)

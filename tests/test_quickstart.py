"""What a user finds after the main job: files, table, report; and studies."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import genrep_jax
from genrep_jax.lib import configs, results, weights
from tests import support

KNN, LINEAR = "knn/knn20_accuracy", "linear/linear_accuracy"

QUICK = (
  "evaluations.knn.train_limit=500",
  "evaluations.linear.train_limit=500",
  "total_steps=10",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("quickstart")
  recorded = tmp_path_factory.mktemp("recorded") / "table.json"
  row = {
    "name": "GenRep T_x only",
    "source": "run",
    "seeds": [0, 1, 2],
    "baseline": False,
    "results": {KNN: 0.5, LINEAR: 0.6},
    "spread": {KNN: 0.01, LINEAR: 0.02},
  }
  columns = [
    {"metric": metric, "title": metric.split("/")[0], "unit": "%"}
    for metric in (KNN, LINEAR)
  ]
  recorded.write_text(json.dumps({"columns": columns, "rows": [row]}))
  done = support.main(workdir, *QUICK, f"report.recorded={recorded}")
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def test_start_banner_says_what_runs(finished):
  _, printed = finished
  for words in (
    "1 x cpu",
    "1 process(es)",
    "mesh {'data': 1}",
    "16 anchors",
    "generator sha256",
    "chance level of the loss 3.4340",
    "encoder/",
    "Total:",
  ):
    assert words in printed, words
  assert re.search(r"step 5/10 50% loss [\d.]+ views/s [\d?]+ ETA", printed)


@pytest.mark.slow
def test_a_cpu_split_in_two_does_not_wait_for_itself_for_ever(tmp_path):
  """With steps in flight and one thread a core, it did within 200 steps."""
  done = support.main(
    tmp_path,
    *("cpu_devices=2", "total_steps=300", "log_every_steps=300"),
    *("checkpoint.every_steps=300", "report.baselines=False"),
    "evaluations.knn.train_limit=200",
    "evaluations.knn.test_limit=200",
    "evaluations.linear.train_limit=200",
    "evaluations.linear.test_limit=200",
    devices=0,
    timeout=200,
  )
  assert done.returncode == 0, done.stderr
  assert "2 x cpu" in done.stdout
  assert "step 300/300" in done.stdout


def test_summary(finished):
  workdir, _ = finished
  summary = json.loads((workdir / "summary.json").read_text())
  names = {row["name"]: row for row in summary["rows"]}
  assert set(names) == {
    "raw pixels",
    "random initialization",
    "GenRep T_x only",
    "GenRep T_z + T_x",
  }
  assert names["GenRep T_x only"]["source"] == "recorded"
  assert names["GenRep T_x only"]["spread"][LINEAR] == 0.02
  run = names["GenRep T_z + T_x"]
  assert run["source"] == "run" and run["seeds"] == [0]
  for row in summary["rows"]:
    assert 0.1 < row["results"][KNN] <= 1 and 0.1 < row["results"][LINEAR] <= 1
  assert [one["metric"] for one in summary["columns"]] == [KNN, LINEAR]
  assert {"compile", "train", "evaluate"} <= set(summary["seconds"])
  assert summary["config"]["global_batch"] == 16
  assert "jax" in summary["versions"]
  assert "generator sha256" in summary["facts"]


def test_report_is_self_contained_and_its_pictures_are_pictures(finished):
  workdir, _ = finished
  page = (workdir / "report.html").read_text()
  assert "http" not in re.sub(r'"http[^"]*w3.org[^"]*"', "", page)
  sources = re.findall(r'<img[^>]*src="([^"]+)"', page)
  assert len(sources) == 3
  assert all(s.startswith("data:image/png;base64,") for s in sources)
  for name in ("views.png", "views_before_pixel.png", "curves.png"):
    pixels = np.asarray(Image.open(workdir / name).convert("L"))
    assert pixels.std() > 5, name
  assert "recorded" in page and "60.00 ± 2.00" in page


def test_tables_print_mean_and_spread(finished):
  _, printed = finished
  line = next(x for x in printed.splitlines() if "T_x only" in x)
  assert "recorded" in line and "50.00 ± 1.00" in line and "0,1,2" in line
  row = results.row("x", [{KNN: 0.5}, {KNN: 0.7}], [3, 4])
  assert row["results"][KNN] == pytest.approx(0.6)
  assert row["spread"][KNN] == pytest.approx(np.std([0.5, 0.7], ddof=1))
  columns = [{"metric": KNN, "title": "knn", "unit": "%"}]
  table = results.Table(columns, [row])
  assert "| 60.00 ± 14.14 |" in results.markdown_table(table)


def test_the_encoder_leaves_the_house(finished):
  workdir, printed = finished
  summary = json.loads((workdir / "summary.json").read_text())
  digest = weights.sha256(workdir / "encoder.safetensors")
  assert summary["exports"] == {"encoder.safetensors": digest}
  assert digest in printed and digest in (workdir / "report.html").read_text()
  own = weights.read_metadata(workdir / "encoder.safetensors")
  assert own["results"] == summary["results"]
  assert own["steps"] == 10 and own["encoder"]["name"] == "small"
  card = (workdir / "model_card.md").read_text()
  assert "GenRep T_z + T_x" in card and KNN in card
  images = np.zeros((3, 28, 28, 1), np.uint8)
  features = genrep_jax.load_encoder(workdir).encode(images)
  assert features.shape[0] == 3 and np.isfinite(features).all()


def test_the_report_can_be_written_again(finished):
  workdir, _ = finished
  before = (workdir / "report.html").read_text()
  (workdir / "report.html").unlink()
  done = support.run("genrep_jax.tools.report", "--workdir", str(workdir))
  assert done.returncode == 0, done.stderr
  assert "random initialization" in done.stdout
  assert len((workdir / "report.html").read_text()) == len(before)


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped(tmp_path):
  words = support.command(
    "genrep_jax.main",
    "--config",
    "configs/studies/quickstart_table.py",
    "--workdir",
    str(tmp_path),
    *[
      f"--config.{text}"
      for text in (
        "study.seeds=(0, 1)",
        'study.rows=(("a", ()), ("b", ("views.latent.name=none",)))',
      )
    ],
  )["args"][3:]
  tiny = [w for w in support.flags(*QUICK) if "recorded" not in w]
  done = support.run("genrep_jax.main", *words, *tiny, timeout=600)
  assert done.returncode == 0, done.stderr
  table = json.loads((tmp_path / "table.json").read_text())
  names = ["raw pixels", "random initialization", "a", "b"]
  assert [row["name"] for row in table["rows"]] == names
  assert all(row["seeds"] == [0, 1] for row in table["rows"])
  lines = (tmp_path / "runs.jsonl").read_text().splitlines()
  assert [json.loads(line)["row"] for line in lines[4:]] == [*"aabb"]
  assert (tmp_path / "linear.svg").exists()
  stamp = (tmp_path / "a" / "seed0" / "summary.json").stat().st_mtime
  (tmp_path / "b" / "seed1" / "summary.json").unlink()
  again = support.run("genrep_jax.main", *words, *tiny, timeout=600)
  assert "running b seed 1" in again.stdout
  assert again.stdout.count("running") == 1
  assert (tmp_path / "a" / "seed0" / "summary.json").stat().st_mtime == stamp


def test_the_embedded_table_is_what_the_quick_start_prints():
  config = configs.load(str(support.ROOT / "configs/quickstart.py"))
  columns, rows = results.recorded(config.report.recorded)
  assert [one["metric"] for one in columns] == [KNN, LINEAR]
  assert {row["source"] for row in rows} == {"recorded"}
  named = {row["name"] for row in rows}
  assert {"GenRep T_x only", "GenRep T_z + T_x"} <= named
  assert all(row["seeds"] == [0, 1, 2] for row in rows)

"""What a user finds after the main job: files, table, report; and studies."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from genrep_jax.tools import report, study
from tests import support

QUICK = (
  "evaluations.knn.train_limit=500",
  "evaluations.linear.train_limit=500",
  "total_steps=10",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("quickstart")
  recorded = tmp_path_factory.mktemp("recorded") / "table.json"
  rows = [
    {
      "name": "GenRep T_x only",
      "source": "run",
      "seeds": [0, 1, 2],
      "floor": False,
      "knn": 0.5,
      "linear": 0.6,
      "spread": {"knn": 0.01, "linear": 0.02},
    },
  ]
  recorded.write_text(json.dumps({"rows": rows}))
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


def test_a_cpu_split_in_two_does_not_wait_for_itself_for_ever(tmp_path):
  """With steps in flight and one thread a core, it did within 200 steps."""
  done = support.main(
    tmp_path,
    *("cpu_devices=2", "total_steps=300", "log_every_steps=300"),
    *("checkpoint.every_steps=300", "report.floors=False"),
    "evaluations.knn.train_limit=200",
    "evaluations.linear.train_limit=200",
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
    "random initialisation",
    "GenRep T_x only",
    "GenRep T_z + T_x",
  }
  assert names["GenRep T_x only"]["source"] == "recorded"
  assert names["GenRep T_x only"]["spread"]["linear"] == 0.02
  run = names["GenRep T_z + T_x"]
  assert run["source"] == "run" and run["seeds"] == [0]
  for row in summary["rows"]:
    assert 0.1 < row["knn"] <= 1 and 0.1 < row["linear"] <= 1
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
  row = report.as_row(
    "x",
    [{"knn20_accuracy": v, "linear_accuracy": v} for v in (0.5, 0.7)],
    [3, 4],
  )
  assert row["knn"] == pytest.approx(0.6)
  assert row["spread"]["knn"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
  assert "| 60.00 ± 14.14 |" in report.markdown_table([row])


def test_the_report_can_be_written_again(finished):
  workdir, _ = finished
  before = (workdir / "report.html").read_text()
  (workdir / "report.html").unlink()
  done = support.run("genrep_jax.tools.report", "--workdir", str(workdir))
  assert done.returncode == 0, done.stderr
  assert "random initialisation" in done.stdout
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
  names = ["raw pixels", "random initialisation", "a", "b"]
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


def test_study_commands_name_every_row_and_seed():
  from genrep_jax.lib import configs

  config = configs.load(
    str(support.ROOT / "configs/studies/quickstart_table.py")
  )
  runs = study.commands(config, ["study.parallel=2", "total_steps=7"], "w")
  assert len(runs) == len(config.study.rows) * len(config.study.seeds)
  assert len(
    {command[command.index("--workdir") + 1] for _, _, command in runs}
  ) == len(runs)
  for _, seed, command in runs:
    assert f"--config.seed={seed}" in command
    assert "--config.total_steps=7" in command
    assert "--config.study.parallel=2" not in command


def test_the_embedded_table_is_what_the_quick_start_prints():
  from genrep_jax.lib import configs

  config = configs.load(str(support.ROOT / "configs/quickstart.py"))
  rows = report.recorded_rows(config.report.recorded)
  assert {row["source"] for row in rows} == {"recorded"}
  named = {row["name"] for row in rows}
  assert {"GenRep T_x only", "GenRep T_z + T_x"} <= named
  assert all(row["seeds"] == [0, 1, 2] for row in rows)

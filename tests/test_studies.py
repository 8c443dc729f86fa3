"""The studies that docs/studies shows are what their committed runs say."""

import json
import pathlib
import re

import pytest

from genrep_jax.lib import configs, study
from genrep_jax.tools import study as tool

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = sorted((ROOT / "docs" / "studies").iterdir())


def by_name(folders):
  return pytest.mark.parametrize("folder", folders, ids=lambda f: f.name)


def drawn_by_and_texts(plot):
  """What drew a plot, and the texts that it shows."""
  words = re.findall(r"<(text|dc:title)[^>]*>([^<]*)<", plot)
  creator = [word for tag, word in words if word.startswith("matplotlib ")]
  return creator, [word for tag, word in words if tag == "text"]


@by_name(FOLDERS)
def test_tables_and_plots_are_those_of_the_runs(folder, tmp_path, capsys):
  """To the byte, where matplotlib is the version that drew the shown ones."""
  config = f"configs/studies/{folder.name}.py"
  words = ["--config", str(ROOT / config)]
  words += ["--runs", str(folder / "runs.jsonl"), "--out", str(tmp_path)]
  tool.main(words)
  assert "| raw pixels |" in capsys.readouterr().out
  shown = {file.name for file in folder.iterdir()} - {"runs.jsonl"}
  assert shown == {file.name for file in tmp_path.iterdir()} - {"table.json"}
  assert {"table.md", "knn.svg", "linear.svg"} <= shown
  for name in shown:
    made = (tmp_path / name).read_text("utf-8")
    kept = (folder / name).read_text("utf-8")
    if drawn_by_and_texts(made)[0] == drawn_by_and_texts(kept)[0]:
      assert made == kept, name
    elif name.endswith(".svg"):
      numbers = [x for x in drawn_by_and_texts(kept)[1] if "±" in x]
      assert {*numbers} <= {*drawn_by_and_texts(made)[1]}, name


@by_name(FOLDERS)
def test_every_row_has_a_run_of_every_seed_at_the_same_updates(
  folder, monkeypatch
):
  monkeypatch.chdir(ROOT)
  config = configs.load(str(ROOT / "configs" / "studies" / f"{folder.name}.py"))
  lines = [
    json.loads(line)
    for line in (folder / "runs.jsonl").read_text().splitlines()
  ]
  runs = [line for line in lines if not line.get("baseline")]
  assert [(line["row"], line["seed"]) for line in runs] == [
    (name, seed) for name, _ in config.study.rows for seed in config.study.seeds
  ]
  assert len(config.study.seeds) >= 3
  assert len({line["steps"] for line in runs}) == 1
  commands = study.commands(config, [], f"runs/studies/{folder.name}")
  for line, (_, _, command) in zip(runs, commands, strict=True):
    assert line["command"].split()[1:] == " ".join(command[1:]).split()


@by_name(FOLDERS)
def test_the_documents_show_it(folder):
  text = (ROOT / "docs" / "reproduce.md").read_text()
  assert f"configs/studies/{folder.name}.py" in text
  assert f"(studies/{folder.name}/knn.svg)" in text
  assert f"(studies/{folder.name}/runs.jsonl)" in text

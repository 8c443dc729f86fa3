"""Studies: folders, commands, what is gathered, and what is refused."""

import json
import pathlib
import sys

import ml_collections
import pytest

from genrep_jax.lib import (
  configs,
  errors,
  experiment,
  options,
  results,
  study,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KNN = {"metric": "knn/knn1_accuracy", "title": "knn", "unit": "%"}


def config(rows, **options):
  given = {"seeds": (0, 1), "parallel": 1, "curves": (), "levels": ()}
  given |= {"base": "configs/quickstart.py", "x_label": "x", "log_x": False}
  given |= {"rows": rows, **options}
  return ml_collections.ConfigDict({"title": "t", "study": given})


def names(*words):
  return tuple((word, ()) for word in words)


def test_every_row_has_a_folder_of_its_own():
  """K6: punctuation and non-Latin letters once fell together."""
  words = ["T_x + T_z", "T_x, T_z", "Проба", "Опыт", "σ 1", "1", "A", "a", "-"]
  words += ["x" * 200, "x" * 201, "Plain Name (3)"]
  found = study.folders(words)
  assert list(found) == words and len({*found.values()}) == len(words)
  assert found["Plain Name (3)"] == "plain_name_3"
  assert found["T_x + T_z"].startswith("t_x_t_z_")
  for folder in found.values():
    assert folder.isascii() and 0 < len(folder) < 100
    assert folder == folder.lower() and folder.replace("_", "").isalnum()
  assert study.folders(["T_x + T_z"]) == {"T_x + T_z": "t_x_t_z"}


def test_commands_name_every_row_and_seed_and_find_their_base(
  tmp_path, monkeypatch
):
  given = config((("a b", ("k=v",)), ("c", ())))
  words = ["study.parallel=2", "total_steps=7"]
  monkeypatch.chdir(ROOT)
  runs = study.commands(given, words, "w")
  assert [run[:2] for run in runs] == [
    (name, seed) for name in ("a b", "c") for seed in (0, 1)
  ]
  assert runs[1][2][1:] == [
    *("-m", "genrep_jax.main", "--config", "configs/quickstart.py"),
    *("--workdir", str(pathlib.Path("w/a_b/seed1")), "--config.k=v"),
    *("--config.total_steps=7", "--config.seed=1", "--config.title=a b"),
    "--config.report.recorded=",
  ]
  # From another folder: above the study's file, or in this repository.
  monkeypatch.chdir(tmp_path)
  own = tmp_path / "lab" / "configs" / "quickstart.py"
  own.parent.mkdir(parents=True)
  (tmp_path / "lab" / "studies").mkdir()
  file = str(tmp_path / "lab" / "studies" / "s.py")
  ours = str(ROOT / "configs" / "quickstart.py")
  assert study.base_of(given, file) == ours
  own.write_text("")
  assert study.base_of(given, file) == str(own)
  given.study.base = "nowhere.py"
  with pytest.raises(errors.UsageError, match="^study.base: given 'nowhere"):
    study.base_of(given, file)


@pytest.mark.parametrize(
  ("given", "line"),
  [
    (config(()), "study.rows: given ()"),
    (config(names("aa"), levels=("ab",)), "study.levels: given 'ab'"),
    (
      config(names("aa"), curves=(("l", ((1, "ab"),)),)),
      "study.curves: given 'ab'; allowed: names of study.rows; nearest: 'aa'",
    ),
    (
      config(names("a"), curves=(("l", ((0, "a"),)),), log_x=True),
      "study.log_x: given True",
    ),
  ],
)
def test_what_does_not_fit_together_is_refused(given, line):
  with pytest.raises(errors.UsageError) as caught:
    study.check(given)
  assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("rows", "a"),
    ("rows", 3),
    ("rows", ("a",)),
    ("rows", (("a", 3),)),
    ("rows", (("a", ()), ("a", ()))),
    ("curves", "ab"),
    ("curves", 3),
    ("curves", (("a", ()), "b")),
    ("curves", (("a", (("1", "row"),)),)),
  ],
)
def test_rows_of_the_wrong_shape_are_one_line(key, value):
  with pytest.raises(errors.UsageError) as caught:
    options.check(f"study.{key}", experiment.OPTIONS["study"][key], value)
  line = str(caught.value)
  assert line.startswith(f"study.{key}: given {value!r}; allowed: ((")


def finish(command, name, seed):
  """Leaves what a finished run leaves."""
  folder = pathlib.Path(command[command.index("--workdir") + 1])
  folder.mkdir(parents=True)
  values = {"knn/knn1_accuracy": 0.5 + 0.1 * seed, "knn/other": 3.0}
  baseline = results.row(
    "pixels", [{"knn/knn1_accuracy": 0.25}], [0], baseline=True
  )
  summary = {"title": name, "columns": [KNN], "results": values, "steps": 9}
  summary |= {"rows": [baseline, results.row(name, [values], [seed])]}
  blank = ("about", "exports", "facts", "pictures", "seconds", "versions")
  summary |= {key: {} for key in blank}
  (folder / "summary.json").write_text(json.dumps(summary))


def test_it_gathers_writes_and_reads_its_runs(tmp_path):
  given = config(names("a", "b"), levels=("b",))
  runs = study.commands(given, [], tmp_path)
  for name, seed, command in runs[:3]:
    finish(command, name, seed)
  lines = study.gather(runs)
  assert [(x["row"], x["seed"], x.get("baseline", False)) for x in lines] == [
    *(("pixels", 0, True), ("pixels", 1, True)),
    *(("a", 0, False), ("a", 1, False), ("b", 0, False)),
  ]
  out = tmp_path / "out"
  out.mkdir()
  text = study.write(given, lines, out, "command")
  assert "| a | study | 0,1 | 55.00 ± 7.07 |" in text
  assert "| pixels | study | 0,1 | 25.00 ± 0.00 |" in text
  assert {x.name for x in out.iterdir()} == {
    *("knn.svg", "table.json", "table.md"),
  }
  drawn = (out / "knn.svg").read_text()
  assert "55.00 ± 7.07" in drawn and "knn1 accuracy, %" in drawn
  table = results.recorded(str(out / "table.json"))
  assert [row["name"] for row in table.rows] == ["pixels", "a", "b"]
  file = out / "runs.jsonl"
  file.write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert study.table_of(study.read(file, given)) == study.table_of(lines)


def test_a_folder_with_the_run_of_another_row_is_refused(tmp_path):
  (first, *_), (second, *_) = (
    study.commands(config(names(name)), [], tmp_path) for name in ("a+b", "a b")
  )
  assert first[2][6] == second[2][6]
  finish(first[2], "a+b", 0)
  with pytest.raises(errors.UsageError, match="study.rows: given 'a b'; .*a.b"):
    study.gather([second])


def test_one_seed_of_the_runs_is_one_process_each(tmp_path, monkeypatch):
  """Without os.sched_getaffinity, too; a failed run is named, others go on."""
  for name in ("sched_getaffinity", "sched_setaffinity"):
    monkeypatch.delattr(f"os.{name}", raising=False)
  monkeypatch.setattr("os.cpu_count", lambda: 2)
  monkeypatch.setattr(configs, "load", lambda *_: None)
  given = config(names("a", "b"), parallel=3)
  file = str(ROOT / "configs" / "studies" / "sigma.py")
  with pytest.raises(
    errors.UsageError, match="study.parallel: given 3; .*1..2"
  ):
    study.run(file, [], given, tmp_path)
  made = study.commands(given, [], tmp_path, file)
  for name, seed, command in made:
    if (name, seed) != ("b", 1):
      finish(command, name, seed)
  failing = [sys.executable, "-c", "raise SystemExit(3)", *made[-1][2]]
  made[-1] = (*made[-1][:2], failing)
  monkeypatch.setattr(study, "commands", lambda *_: made)
  given.study.parallel = 2
  assert study.run(file, [], given, tmp_path) == 1
  assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
  "text",
  [
    "",
    "3\n",
    "{}\n",
    '{"row": "a", "seed": 0, "results": {"knn": 1}}\n',
    '{"row": "z", "seed": 0, "columns": [], "results": {}}\n',
    '{"row": "a", "seed": "0", "columns": [], "results": {}}\n',
    '{"row": "a", "seed": 0, "columns": [], "results": {"m": "x"}}\n',
    '{"row": "p", "seed": 0, "baseline": true, "columns": [], "results": {}}\n',
  ],
)
def test_what_are_no_runs_is_refused_in_one_line(tmp_path, text):
  file = tmp_path / "runs.jsonl"
  file.write_text(text)
  with pytest.raises(errors.UsageError, match="^--runs: given ") as caught:
    study.read(str(file), config(names("a")))
  assert "\n" not in str(caught.value)

"""Two runs on the same images: the tool's numbers against a slow twin."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from genrep_jax import data, load_encoder
from genrep_jax.evaluations import knn
from genrep_jax.lib import execution, export, mesh as mesh_lib, statistics
from genrep_jax.tools import compare
from tests import support


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
  """Untrained encoders as runs leave them: {"a", "b", "c": folder}."""
  folders = {}
  for seed, name in enumerate("abc"):
    run = support.open_run(support.tiny(f"seed={seed}", "encoder.width=0.1"))
    state = execution.initial(run.program)
    folders[name] = tmp_path_factory.mktemp("runs") / name
    folders[name].mkdir()
    for file, (tree, about) in run.program.export(state, {}).items():
      export.save(folders[name] / file, tree, about, {})
  return folders


@pytest.fixture
def few(monkeypatch):
  """The embedded images, fewer of them."""
  real = data.load({"name": "fashion_mnist_mini"})
  small = type(real)(
    "few",
    10,
    real.class_names,
    *(
      type(s)(s.images[:n], s.labels[:n])
      for s, n in (
        (real.train, 400),
        (real.test, 300),
      )
    ),
  )
  monkeypatch.setattr(data, "load", lambda *_: small)
  return small


def right(few, folder):
  encoder = load_encoder(folder)
  features = [encoder.encode(split.images) for split in (few.train, few.test)]
  predicted = knn.classify(
    features[0],
    few.train.labels,
    features[1],
    k=5,
    temperature=0.07,
    num_classes=10,
    mesh=mesh_lib.make_mesh(),
  )
  return predicted == few.test.labels


def test_two_methods_of_which_one_has_two_seeds(
  encoders, few, tmp_path, capsys
):
  out, picture = tmp_path / "out.json", tmp_path / "differ.png"
  words = [f"both={encoders['a']},{encoders['b']}", str(encoders["c"])]
  flags = ["--k", "5", "--out", str(out), "--picture", str(picture)]
  assert compare.main([*words, *flags]) == 0
  found = json.loads(out.read_text())
  a, b, c = (right(few, encoders[name]) for name in "abc")
  both = found["methods"]["both"]
  assert both["accuracies"] == [a.mean(), b.mean()]
  assert found["methods"]["c"]["accuracies"] == [c.mean()]
  labels = few.test.labels
  for k in range(10):
    mean = np.mean([x[labels == k].mean() for x in (a, b)])
    assert both["per_class"][k] == pytest.approx(mean)
  (pair,) = found["pairs"]
  test = statistics.mcnemar(a, c)
  assert (pair["only_first"], pair["p"]) == (test.only_first, test.p)
  assert pair["difference"] == pytest.approx(
    c.mean() - (a.mean() + b.mean()) / 2
  )
  assert pair["low"] <= pair["difference"] <= pair["high"]
  text = capsys.readouterr().out
  assert re.search(r"knn5 on 300 images of few \(test\)", text)
  assert "T-shirt/top" in text and "McNemar" in text
  with Image.open(picture) as image:
    assert image.size == (20 * 58 - 2, 2 * 58 - 2)


def test_a_run_does_not_differ_from_itself(encoders, few, tmp_path):
  out = tmp_path / "out.json"
  words = [f"x={encoders['a']}", f"y={encoders['a']}", "--probe", "linear"]
  assert compare.main([*words, "--out", str(out), "--split", "selection"]) == 0
  found = json.loads(out.read_text())
  (pair,) = found["pairs"]
  assert found["images"] == 39 and found["split"] == "selection"
  assert [pair[key] for key in ("difference", "low", "high", "p")] == [
    0,
    0,
    0,
    1,
  ]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["A"], "compare: given a; allowed: two or more of different names"),
    (["A", "A"], "compare: given a, a; allowed: two or more"),
    (["A", "x="], "compare: given 'x='; allowed: NAME=X,Y"),
    (["A", "/nowhere"], "/nowhere"),
    (["A", "B", "--k", "0"], "--k: given 0; allowed: at least 1"),
    (["A", "B", "--draws", "9"], "--draws: given 9; allowed: at least 100"),
    (["A", "B", "--k", "401"], "--k: given 401; allowed: at most the 400"),
    (["A", "B", "--data", "fashion"], "--data"),
    (["A", "B", "--out", "/proc/none/x.json"], "/proc/none"),
    (["A", "B", "--picture", "/proc/none/x.png"], "/proc/none"),
    (["A", "B", "--data_dir", "/nowhere"], "data_dir"),
  ],
)
def test_bad_input_is_one_line(
  encoders, request, words, message, capsys, monkeypatch
):
  if not any(word.startswith("--data") for word in words):
    request.getfixturevalue("few")
  words = [str(encoders.get(word.lower(), word)) for word in words]
  assert message in support.refused(compare.main, words, capsys, monkeypatch)

"""Bad input: one line on stderr, exit code 2, nothing written."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from genrep_jax import main as main_lib
from genrep_jax.lib import errors
from genrep_jax.tools import _cli
from tests import support

QUICKSTART = str(support.ROOT / "configs" / "quickstart.py")


def refused(capsys, monkeypatch, words, **options):
  """Runs main.py in this process; returns its one line on stderr."""
  return support.refused(main_lib.main, words, capsys, monkeypatch, **options)


def tiny_words(workdir, *overrides, config=QUICKSTART):
  return [
    "--config",
    config,
    "--workdir",
    str(workdir),
    *support.flags(*overrides),
  ]


@pytest.mark.parametrize(
  "overrides, words",
  [
    (["encoder.wdith=3"], ["encoder.wdith", "nearest", "encoder.width"]),
    (["global_batch=many"], ["global_batch", "many", "16"]),
    (["encoder.name=resnt"], ["resnt", "nearest: 'resnet'", "small"]),
    (["generator.name=smal"], ["smal", "nearest: 'small'"]),
    (["objective.name=simcrl"], ["simcrl", "simclr", "supcon"]),
    (["views.latent.name=gauss"], ["gauss", "gaussian", "independent"]),
    (["views.pixel.name=my_lab.no_such"], ["my_lab.no_such"]),
    (["data.name=mnist"], ["mnist", "fashion_mnist"]),
    (["optimizer.name=sdg"], ["sdg", "sgd", "adamw", "lars"]),
    (["schedule.name=cosin"], ["cosin", "cosine"]),
    (["source.name=real"], ["real", "array, generator, groups, mix"]),
    (
      ["source.name=mix", "source.mix_ratio=1.5"],
      ["source.mix_ratio: given 1.5", "0..1"],
    ),
    (["job=trian"], ["trian", "train", "evaluate"]),
    (["precision=float16"], ["float16", "float32", "bfloat16"]),
    (["global_batch=12"], ["12", "8 devices"]),
    (["views.num_views=1"], ["num_views", "1", "2"]),
    (["objective.name=supcon"], ["supcon", "labels", "unconditional"]),
    (["cpu_devices=-1"], ["cpu_devices", "-1"]),
    (
      ["generator.channels=3"],
      ["evaluations.knn.data", "mini, c = 1", "3 channel"],
    ),
    (["views.latent.sigma=-0.1"], ["sigma", "-0.1"]),
    (["objective.temperature=0.0"], ["temperature", "0.0"]),
    (["views.pixel.crop_px=64"], ["64", "28"]),
    (["total_epochs=3"], ["total_steps", "total_epochs"]),
    (["total_steps=0"], ["total_steps", "total_epochs", "total_examples"]),
    (["steps_per_call=3"], ["steps_per_call", "3"]),
    (["log_every_steps=3", "steps_per_call=2"], ["log_every_steps", "3", "2"]),
    (
      [
        *("stop_at_step=5", "steps_per_call=2", "log_every_steps=10"),
        "checkpoint.every_steps=10",
      ],
      ["stop_at_step: given 5", "a multiple of steps_per_call, 2"],
    ),
    (["sampler.num_anchors=-1"], ["num_anchors", "-1"]),
    (["views.num_neighbors=-1"], ["num_neighbors", "-1"]),
    (["views.num_views=4", "views.num_neighbors=2"], ["2", "at least 3"]),
    (["views.pixel_on=(0,2)"], ["pixel_on", "(0, 2)", "0..1"]),
    (["sampler.file=/no/z.npz"], ["sampler.file", "/no/z.npz"]),
    (
      ["source.name=array", "sampler.file=z.npz"],
      ["sampler.file", "'array' has no generator"],
    ),
    (["checkpoint.keep=0"], ["keep", "0"]),
    (["evaluations.knn.k=0"], ["evaluations.knn.k: given 0", "integer in 1.."]),
    (["generator.weights=/no/such.safetensors"], ["/no/such.safetensors"]),
    (["report.recorded=/no/table.json"], ["/no/table.json"]),
    (["distributed.mode=maybe"], ["maybe", "auto, on, off"]),
    (["job=evaluate"], ["no checkpoint"]),
    (["encoder.weights=x.safetensors"], ["x.safetensors", "job=evaluate"]),
    (
      ["job=evaluate", "encoder.weights=/no/such.safetensors"],
      ["/no/such.safetensors"],
    ),
    (["ema_decay=1.5"], ["ema_decay", "1.5"]),
    (["evaluations.knn.temperature=nan"], ["temperature: given nan; allowed"]),
    (["optimizer.learning_rate=1e39"], ["learning_rate: given 1e+39"]),
    # What had another name once is told the new one.
    (["job=game"], ["job=train with program.name=gan"]),
    (["job=steer"], ["job=train with program.name=walks"]),
    (["game.loss=hinge"], ["game: is now program", "'gan'"]),
    (["steering.max_zoom=2.0"], ["steering: is now program", "'walks'"]),
    (["views.latent.name=steered"], ["views.latent.name", "'walks'"]),
    (["report.floors=False"], ["report.floors", "report.baselines"]),
  ],
  ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_config_mistakes(overrides, words, tmp_path, capsys, monkeypatch):
  workdir = tmp_path / "run"
  line = refused(capsys, monkeypatch, tiny_words(workdir, *overrides))
  for word in words:
    assert word in line, line
  assert not workdir.exists()


@pytest.mark.parametrize(
  "text, words",
  [
    (None, ["--config: given", "experiment.py", "a Python file of"]),
    ("def get_config(:\n", ["SyntaxError"]),
    ("x = 1\n", ["no function get_config"]),
    ("import no_such_module_x\n", ["no_such_module_x"]),
    (
      "from configs import common\n"
      "def get_config():\n"
      "  c = common.get_config()\n"
      "  c.globl_batch = 3\n"
      "  return c\n",
      ["globl_batch", "nearest: 'global_batch'"],
    ),
    (
      "from configs import common\n"
      "def get_config():\n"
      "  c = common.get_config()\n"
      "  c.game.name = 'gan'\n"
      "  return c\n",
      ["game is now program", "c.program.name = 'gan'"],
    ),
    (
      "from configs import common\n"
      "def get_config():\n"
      "  c = common.get_config()\n"
      "  c.job = 'steer'\n"
      "  return c\n",
      ["job=train with program.name=walks"],
    ),
  ],
  ids=[
    "missing",
    "syntax",
    "no_function",
    "import",
    "misspelt",
    "moved",
    "moved_job",
  ],
)
def test_config_files(text, words, tmp_path, capsys, monkeypatch):
  file = tmp_path / "experiment.py"
  if text is not None:
    file.write_text(text)
  line = refused(
    capsys,
    monkeypatch,
    ["--config", str(file), "--workdir", str(tmp_path / "run")],
  )
  for word in words:
    assert word in line, line
  assert not (tmp_path / "run").exists()


def test_flags(capsys, monkeypatch, tmp_path):
  line = refused(capsys, monkeypatch, ["--workdir", str(tmp_path / "run")])
  assert "--config" in line
  line = refused(capsys, monkeypatch, ["--config", QUICKSTART])
  assert "--workdir" in line
  line = refused(
    capsys, monkeypatch, ["--config", QUICKSTART, "--wrokdir", "x"]
  )
  assert "--wrokdir" in line


def weights_of(tmp_path, **changes):
  """Writes weights of the tiny generator, with some leaves changed."""
  program, _, _, _ = support.open_program(support.tiny())
  from genrep_jax.lib import weights

  file = tmp_path / "weights.safetensors"
  weights.save(file, program.frozen["generator"], {"arch": "small"})
  if changes:
    arrays = safetensors.numpy.load_file(file)
    for name in list(arrays)[: changes["mis_shaped"]]:
      arrays[name] = np.zeros((3, 5, 7), np.float32)
    safetensors.numpy.save_file(arrays, file)
  return file


def test_weights_files(tmp_path, capsys, monkeypatch):
  from genrep_jax.lib import weights

  run = tmp_path / "run"

  def line_for(file, sha256=""):
    words = tiny_words(
      run, f"generator.weights={file}", f"generator.sha256={sha256}"
    )
    return refused(capsys, monkeypatch, words)

  file = weights_of(tmp_path)
  right = weights.sha256(file)
  line = line_for(file, "0" * 64)
  assert right in line and "0" * 64 in line
  truncated = tmp_path / "truncated.safetensors"
  truncated.write_bytes(file.read_bytes()[:-100])
  assert "truncated" in line_for(truncated)
  pickled = tmp_path / "weights.pkl"
  pickled.write_bytes(b"\x80\x04K\x01.")
  assert "pickle" in line_for(pickled)
  line = line_for(weights_of(tmp_path, mis_shaped=5))
  assert line.count("[3, 5, 7]") == 3 and "5 m" in line
  assert not run.exists()


def test_real_data_folder(tmp_path, capsys, monkeypatch):
  folder = tmp_path / "data"
  folder.mkdir()
  run = tmp_path / "run"

  def line_for():
    return refused(
      capsys,
      monkeypatch,
      tiny_words(run, "data.name=fashion_mnist", f"data.data_dir={folder}"),
    )

  line = line_for()
  assert str(folder) in line and "t10k-labels" in line
  header = (
    (2051).to_bytes(4, "big")
    + (60000).to_bytes(4, "big")
    + (28).to_bytes(4, "big") * 2
  )
  for part in ("train", "t10k"):
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as f:
      f.write(header + bytes(100))
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as f:
      f.write((2049).to_bytes(4, "big") + (60000).to_bytes(4, "big"))
  assert "truncated" in line_for()
  assert not run.exists()


def test_study_without_rows(tmp_path, capsys, monkeypatch):
  line = refused(capsys, monkeypatch, tiny_words(tmp_path / "run", "job=study"))
  assert "rows" in line
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_disk_full_keeps_the_last_good_checkpoint(
  tmp_path, capsys, monkeypatch
):
  """The whole command; what it relies on is in tests/lib/test_checkpoint.py."""
  from genrep_jax.lib import checkpoint

  real = checkpoint.Checkpoints.save
  run = tmp_path / "run"

  def save(self, step, state, **options):
    if step == 10:
      self.wait()
      raise OSError(28, "No space left on device", str(self.directory))
    return real(self, step, state, **options)

  monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
  limits = [f"evaluations.{name}.train_limit=200" for name in ("knn", "linear")]
  words = tiny_words(run, *limits)
  line = refused(capsys, monkeypatch, words)
  assert "No space left on device" in line
  assert [p.name for p in (run / "checkpoints").glob("[0-9]*")] == ["5"]
  # The half run resumes once there is room again.
  monkeypatch.setattr(checkpoint.Checkpoints, "save", real)
  monkeypatch.setattr("sys.argv", ["genrep_jax.main", *words])
  with pytest.raises(SystemExit) as stopped:
    _cli.run(main_lib.main)
  assert stopped.value.code == errors.EXIT_OK
  summary = json.loads(pathlib.Path(run / "summary.json").read_text())
  assert summary["steps"] == 20

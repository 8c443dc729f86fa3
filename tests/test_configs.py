"""Every shipped experiment loads, fits together, and pins what it loads."""

import numpy as np
import pytest
from PIL import Image

from genrep_jax.data import imagenet100
from genrep_jax.lib import configs, study
from tests import support

PATHS = sorted(
  path
  for path in (support.ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py", "common.py")
)

# Weights that we may not ship; the test draws random ones, of a thin network.
THIN = {
  "walks/biggan_deep": ("generator.ch=4", "job=compile_only"),
  "cars_stylegan2": ("generator.channel_max=4",),
  "faces64": ("generator.sha256=", "generator.widths=(8, 4, 4, 4)"),
}


def label(path) -> str:
  """A config's path without its folder and ending: "walks/simclr"."""
  folder = support.ROOT / "configs"
  return path.relative_to(folder).with_suffix("").as_posix()


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
  """A folder laid out as ImageNet's, of the 100 classes and three images."""
  root = tmp_path_factory.mktemp("imagenet")
  random = np.random.default_rng(0)
  for split, count in (("train", 2), ("val", 1)):
    for name in imagenet100.SYNSETS:
      place = root / split / name
      place.mkdir(parents=True)
      for number in range(count):
        pixels = random.integers(0, 256, (40, 30 + number, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{name}_{number}.JPEG")
  return root


def of_imagenet(path, root):
  """Overrides of a config of ImageNet: the folder, and thin networks."""
  overrides = [f"data.data_dir={root}", "global_batch=128"]
  name = configs.load(str(path)).generator.name
  if name:
    overrides += ["generator.weights=", "generator.ch=4"]
  if name == "biggan_deep":
    overrides.append("generator.resolution=128")
  return overrides


def parametrize(paths, slow):
  """Parametrizes over configs; those that `slow` says run with --slow."""
  marked = [
    pytest.param(
      path,
      id=label(path),
      marks=[pytest.mark.slow] if slow(label(path)) else [],
    )
    for path in paths
  ]
  return pytest.mark.parametrize("path", marked)


@parametrize(PATHS, lambda name: name.startswith("imagenet100/b"))
def test_it_builds(path, request):
  config = configs.load(str(path))
  if config.job == "study":
    names = [name for name, _ in config.study.rows]
    assert len(set(study.folders(names).values())) == len(names)
    drawn = [row for _, points in config.study.curves for _, row in points]
    assert {*drawn, *config.study.levels} <= {*names}
    for _, overrides in config.study.rows:
      row = configs.load(study.base_of(config, str(path)), overrides)
      assert support.open_run(row).program.total_steps > 0
    return
  assert config.job == "train"
  overrides = ()
  if config.program.name == "gan":  # the full data set is not shipped
    overrides = ("data.name=fashion_mnist_mini",)
  elif path.parent.name.startswith("imagenet"):
    root = request.getfixturevalue("imagenet")
    overrides = of_imagenet(path, root)
  elif label(path) in THIN:
    assert not config.generator.weights.startswith("asset:")
    overrides = ("generator.weights=", *THIN[label(path)])
  program = support.open_run(configs.load(str(path), overrides), 2).program
  assert program.total_steps > 0
  if config.total_steps:
    assert program.total_steps == config.total_steps
  if not overrides and path.parent.name != "games":  # these train their own
    assert len(config.generator.sha256) == 64
    assert program.facts["generator sha256"] == config.generator.sha256


@parametrize(
  [path for path in PATHS if path.parent.name.startswith("imagenet")],
  lambda name: name != "imagenet/simclr",
)
def test_the_rows_of_imagenet_run(path, imagenet, tmp_path):
  """Two steps and all evaluations, on images of ImageNet's layout."""
  overrides = [
    *of_imagenet(path, imagenet),
    *("total_examples=0", "total_steps=2", "global_batch=8"),
    *("encoder.depth=18", "encoder.width=0.125", "precision=float32"),
    *("views.pixel.crop_px=16", "data.image_px=16", "data.resize_px=20"),
    *("log_every_steps=1", "checkpoint.every_steps=2", "cpu_devices=1"),
    *("evaluations.linear_sgd.epochs=1", "report.baselines=False"),
    "compilation_cache=off",
  ]
  words = [f"--config.{word}" for word in overrides]
  ran = support.run(
    *("genrep_jax.main", "--config", str(path)),
    *("--workdir", str(tmp_path), *words),
  )
  assert ran.returncode == 0, ran.stderr
  text = (tmp_path / "summary.json").read_text()
  assert '"knn/knn20_accuracy"' in text
  assert (tmp_path / "report.html").stat().st_size < 3_000_000

"""Every shipped experiment loads, fits together, and pins what it loads."""

import pytest

from genrep_jax.lib import configs, study
from tests import support

PATHS = sorted(
  path
  for path in (support.ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py", "common.py")
)

# Weights that we may not ship; the test draws random ones, of a thin network.
THIN = {
  "imagenet/bigbigan": ("generator.ch=4",),
  "imagenet/biggan_deep": ("generator.ch=4",),
  "walks/biggan_deep": ("generator.ch=4", "job=compile_only"),
  "cars_stylegan2": ("generator.channel_max=4",),
  "faces64": ("generator.sha256=", "generator.widths=(8, 4, 4, 4)"),
}


def label(path) -> str:
  """A config's path without its folder and ending: "walks/simclr"."""
  folder = support.ROOT / "configs"
  return path.relative_to(folder).with_suffix("").as_posix()


@pytest.mark.parametrize("path", PATHS, ids=label)
def test_it_builds(path):
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
  elif label(path) in THIN:
    assert not config.generator.weights.startswith("asset:")
    overrides = ("generator.weights=", *THIN[label(path)])
  program = support.open_run(configs.load(str(path), overrides), 2).program
  assert program.total_steps > 0
  if config.total_steps:
    assert program.total_steps == config.total_steps
  if not overrides:
    assert len(config.generator.sha256) == 64
    assert program.facts["generator sha256"] == config.generator.sha256

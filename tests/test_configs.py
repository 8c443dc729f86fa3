"""Every shipped experiment loads, fits together, and pins what it loads."""

import pytest

from genrep_jax import step as step_lib
from genrep_jax.lib import configs
from genrep_jax.tools import study
from tests import support

PATHS = sorted(
  path
  for path in (support.ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py", "common.py")
)

# Weights that we may not ship; the test draws random ones, of a thin network.
THIN = {
  "bigbigan": ("generator.ch=4",),
  "biggan_deep": ("generator.ch=4",),
  "cars_stylegan2": ("generator.channel_max=4",),
  "faces64": ("generator.sha256=", "generator.widths=(8, 4, 4, 4)"),
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_builds(path):
  config = configs.load(str(path))
  if config.job == "study":
    names = [name for name, _ in config.study.rows]
    assert len(set(map(study.slug, names))) == len(names)
    drawn = [row for _, points in config.study.curves for _, row in points]
    assert {*drawn, *config.study.levels} <= {*names}
    for _, overrides in config.study.rows:
      row = configs.load(str(support.ROOT / config.study.base), overrides)
      step_lib.build(row, support.mesh_of(1))
  if config.job != "train":  # a game wants the full data set
    return
  if path.stem in THIN:
    assert not config.generator.weights.startswith("asset:")
    config = configs.load(str(path), ("generator.weights=", *THIN[path.stem]))
    program = step_lib.build(config, support.mesh_of(2))
    assert program.total_steps > 0
    return
  assert len(config.generator.sha256) == 64
  program = step_lib.build(config, support.mesh_of(2))
  assert program.total_steps == config.total_steps > 0
  assert program.facts["generator sha256"] == config.generator.sha256

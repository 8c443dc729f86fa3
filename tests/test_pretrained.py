"""docs/tutorial_pretrained.md, as printed, with a real third-party generator.

Slow, and from the network: PyPI's packages gan-face-generate and torch.
"""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from tests import support, test_tutorial

DOCUMENT = "docs/tutorial_pretrained.md"
SHORT = (
  "--config.total_steps=4 --config.log_every_steps=2 "
  "--config.checkpoint.every_steps=2 --config.evaluate_every_steps=0"
)


@pytest.mark.slow
def test_the_tutorial_runs_as_printed(tmp_path):
  for package in ("torch", "skimage"):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f"{package} is not installed: '.[torch,faces]'")
  (tmp_path / "configs").symlink_to(support.ROOT / "configs")
  script = "".join(
    content
    for info, content in test_tutorial.blocks(test_tutorial.read(DOCUMENT))
    if info == "bash" and "pip install" not in content
  )
  script = script.replace("\\\n", " ").replace(
    "configs/faces64.py", f"configs/faces64.py {SHORT}"
  )
  pip = f'pip() {{ python -m pip "$@"; }}\nexport PYTHONPATH={support.ROOT}\n'
  done = test_tutorial.shell(pip + script, tmp_path)
  assert done.returncode == 0, done.stderr
  with Image.open(tmp_path / "faces64.png") as image:
    pixels = np.asarray(image, np.float32)
  # Faces are lit: skin is redder than it is blue, and pictures differ.
  assert pixels[..., 0].mean() > pixels[..., 2].mean() + 10
  assert pixels.std() > 40
  summary = json.loads((tmp_path / "runs/faces64/summary.json").read_text())
  rows = {row["name"]: row for row in summary["rows"]}
  assert rows["raw pixels"]["results"]["linear/linear_accuracy"] > 0.8

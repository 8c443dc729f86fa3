"""A foreign checkpoint is the expected one, or its faults are named."""

import numpy as np
import pytest

from genrep_jax.lib import errors, foreign

EXPECTED = {"conv.weight": (3, 2), "conv.bias": (3,), "norm.scale": (5,)}


def arrays(**changes):
  made = {key: np.zeros(shape) for key, shape in EXPECTED.items()}
  made.update({key.replace("__", "."): x for key, x in changes.items()})
  return {key: x for key, x in made.items() if x is not None}


def test_the_expected_checkpoint_passes():
  foreign.check("toy", arrays(), EXPECTED)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"norm__scale": None}, ["not toy", "missing norm.scale"]),
    ({"other": np.zeros(1)}, ["unexpected other"]),
    (
      {"conv__weight": None, "conv__weigth": np.zeros((3, 2))},
      ["missing conv.weight (is it conv.weigth?)", "unexpected conv.weigth"],
    ),
    (
      {"conv__weight": np.zeros((2, 3))},
      ["mis-shaped conv.weight (2, 3) instead of (3, 2)"],
    ),
    (
      {f"extra{i}": np.zeros(1) for i in range(5)},
      ["unexpected extra0, extra1, extra2 and 2 more"],
    ),
  ],
)
def test_faults_are_named(changes, words):
  with pytest.raises(errors.UsageError) as refused:
    foreign.check("toy", arrays(**changes), EXPECTED)
  assert "\n" not in str(refused.value)
  for word in words:
    assert word in str(refused.value)

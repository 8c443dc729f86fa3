"""The files of tests/fixtures: numbers of the original implementations."""

import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / "fixtures"


def path(name: str) -> pathlib.Path:
  """Returns the path of a file, which must be there."""
  found = FOLDER / name
  assert found.exists(), f"tests/fixtures has no {name}"
  return found


def arrays(name: str) -> dict[str, np.ndarray]:
  """Reads all arrays of an npz file."""
  with np.load(path(name)) as file:
    return dict(file)


def state(recorded) -> dict[str, np.ndarray]:
  """The original's weights among recorded arrays, under their own keys."""
  return {
    key.removeprefix("state/"): x
    for key, x in recorded.items()
    if key.startswith("state/")
  }

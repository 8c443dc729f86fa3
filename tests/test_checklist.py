"""docs/checklist.md: every row is there, and what shows it exists."""

import re

import pytest

from genrep_jax.lib import configs
from tests import support

DOCUMENT = (support.ROOT / "docs" / "checklist.md").read_text()
# Rows of views, objectives and training that this repository answers whole.
WHOLE = {*range(1, 25), *range(29, 38)}


def rows(text):
  """Returns {number: (cells)} of the table."""
  found = {}
  for line in text.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if cells[0].isdigit():
      assert len(cells) == 5, line
      found[int(cells[0])] = cells
  return found


def shown_by(cells):
  """Returns the tests and configs of a row."""
  return re.findall(r"`((?:tests|configs)/[^`]*)`", cells[4])


def exists(name) -> bool:
  """Whether a test function is defined, or a config loads."""
  path, _, test = name.partition("::")
  if not (support.ROOT / path).is_file():
    return False
  if path.startswith("tests/"):
    text = (support.ROOT / path).read_text()
    return re.search(rf"^def {test}\(", text, re.M) is not None
  configs.load(str(support.ROOT / path))
  return True


def test_every_feature_has_its_row():
  found = rows(DOCUMENT)
  assert list(found) == list(range(1, 48))
  for number, cells in found.items():
    assert shown_by(cells) or number not in WHOLE, cells
    assert shown_by(cells) or "not here" in cells[3] or "none" in cells[3]


@pytest.mark.parametrize("number", sorted(rows(DOCUMENT)))
def test_what_shows_it_exists(number):
  for name in shown_by(rows(DOCUMENT)[number]):
    assert exists(name), name


def test_a_wrong_name_is_seen():
  assert not exists("tests/test_nothing.py::test_it")
  assert not exists("tests/test_checklist.py::test_it")
  assert exists("tests/test_checklist.py::test_a_wrong_name_is_seen")

"""docs/extend.md says what lib/contracts.py says; docs/options.md is made."""

import dataclasses
import inspect
import re

import pytest

from genrep_jax.lib import contracts, options
from genrep_jax.tools import list as list_tool
from tests import support
from tests.test_tutorial import read

DOCUMENT = read("docs/extend.md")
PROSE = re.sub(r"^```.*?^```$", "", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
# Every contract that a plug-in returns, is given, or finds in one of these.
CONTRACTS = {
  name: thing
  for name, thing in vars(contracts).items()
  if inspect.isclass(thing)
  and thing.__module__ == contracts.__name__
  and name != "Room"
}


def words(cell):
  """Returns what stands between backticks."""
  return re.findall(r"`([^`]+)`", cell)


def tables(first):
  """Lists the rows, as cells, of the tables whose head begins with a cell."""
  found = []
  for block in re.findall(r"(?:^\|.*\n)+", PROSE, re.MULTILINE):
    head, _, *rows = [
      [cell.strip() for cell in line.strip("|").split(" | ")]
      for line in block.splitlines()
    ]
    if head[0].strip(" |") == first:
      found.append([[cell.strip(" |") for cell in row] for row in rows])
  return found


def page(room):
  """Returns the section of a room."""
  ((_, heading),) = re.findall(
    rf"^\| \[({room})\]\(#([\w-]+)\)", PROSE, re.MULTILINE
  )
  for section in re.split(r"^## ", PROSE, flags=re.MULTILINE)[1:]:
    title = re.sub(r"[^\w\- ]", "", section.splitlines()[0].lower())
    if title.replace(" ", "-") == heading:
      return section
  raise AssertionError(f"no page for {room}")


def test_the_table_of_rooms_is_the_contracts():
  (rows,) = tables("room")
  found = {}
  for room, path, make, returns in rows:
    (name,) = re.findall(r"^\[([\w/]+)\]", room)
    made = getattr(contracts, (words(returns) or [""])[0], None)
    found[name] = words(path) + words(make), made
  assert list(found) == list(contracts.ROOMS)
  for room, about in contracts.ROOMS.items():
    said, made = found[room]
    assert said == [about.path, about.make]
    assert made in (about.returns, contracts.LearnedView)


def test_the_table_of_hooks_is_the_contracts():
  (rows,) = tables("hook")
  found = {
    (room, words(hook)[0], words(kind)[0])
    for hook, rooms, kind in rows
    for room in rooms.split(", ")
  }
  assert found == {
    (room, hook, kind.__name__)
    for room, about in contracts.ROOMS.items()
    for hook, kind in about.hooks.items()
  }


@pytest.mark.parametrize("room", contracts.ROOMS)
def test_the_options_that_a_room_shares_are_named_in_its_page(room):
  found = re.findall(r"Options of every\s+entry: ([^.;(]*)", page(room))
  shared = set(contracts.ROOMS[room].shared)
  assert set(words("".join(found))) == shared


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_field_of_a_contract_is_named_and_no_other(name):
  (rows,) = tables(f"`{name}`")
  said = [field for row in rows for field in words(row[0])]
  contract = CONTRACTS[name]
  if dataclasses.is_dataclass(contract):
    fields = [field.name for field in dataclasses.fields(contract)]
  else:
    fields = list(contract._fields)
  assert sorted(said) == sorted(fields)


def test_a_contract_stands_in_the_page_of_its_room():
  for room, about in contracts.ROOMS.items():
    assert about.returns is None or (
      f"\n| `{about.returns.__name__}` |" in page(room)
    )
  assert "\n| `LearnedView` |" in page("views/latent")
  assert "\n| `Exporter` |" in page("encoders")


def test_every_kind_of_option_is_named():
  (rows,) = tables("kind")
  made = {
    name
    for name, thing in vars(options).items()
    if inspect.isfunction(thing)
    and not name.startswith("_")
    and "default" in inspect.signature(thing).parameters
  }
  assert {words(row[0])[0] for row in rows} == made | {"either", "Entry"}


def test_the_table_of_options_is_made_from_the_declarations():
  made = "\n".join(list_tool.option_lines()) + "\n"
  assert (support.ROOT / "docs" / "options.md").read_text() == made, (
    "python -m genrep_jax.tools.list --options > docs/options.md"
  )

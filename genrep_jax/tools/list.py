"""Lists what there is: experiments, plug-ins by room, assets.

`python -m genrep_jax.tools.list` prints the experiments of configs/ with the
hardware and the numbers that their headers name, every plug-in with its first
line, and the files that come with the package; `--room encoders` prints one
room's plug-ins with all their options, `--options` those of everything, as
Markdown: docs/options.md.
"""

import pathlib
import re

from genrep_jax.lib import errors, options
from genrep_jax.tools import _cli

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_FIELDS = ("Hardware", "Time", "Expected")


def main(argv) -> int:
  """Prints the lists; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.list", __doc__)
  add = arguments.add_argument
  add("--room", help="only this room, with every option")
  add("--options", action="store_true", help="every option there is")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("list: takes no --config")
  from genrep_jax.lib import contracts

  if flags.room is not None:
    if flags.room not in contracts.ROOMS:
      options.refuse("--room", flags.room, ", ".join(contracts.ROOMS))
    print("\n".join(room_lines(flags.room, full=True)))
    return errors.EXIT_OK
  if flags.options:
    print("\n".join(option_lines()))
    return errors.EXIT_OK
  lines = ["# experiments", *experiment_lines(_PACKAGE.parent / "configs")]
  for room in contracts.ROOMS:
    lines += ["", *room_lines(room)]
  lines += ["", "# assets", *asset_lines()]
  print("\n".join(lines))
  return errors.EXIT_OK


def experiment_lines(folder: pathlib.Path) -> list[str]:
  """Returns a line per experiment, and its header's hardware and numbers."""
  from genrep_jax.lib import configs

  lines = []
  for file in sorted(folder.rglob("*.py")):
    header = configs.header(str(file))
    if "def get_config" not in file.read_text("utf-8") or not header:
      continue
    if "Command:" not in header:
      continue  # what others build on
    lines.append(f"{file.relative_to(folder.parent)}: {_first(header)}")
    for name in _FIELDS:
      found = re.search(
        rf"^{name}:\s*(.*(?:\n[ \t]+\S.*)*)", header, re.MULTILINE
      )
      if found:
        lines.append(f"    {name.lower()}: {' '.join(found[1].split())}")
  return lines or [f"none: no folder {folder}"]


def room_lines(room: str, full: bool = False) -> list[str]:
  """Returns a line per plug-in of a room; `full` adds its options."""
  from genrep_jax.lib import configs, contracts, plugins

  about = contracts.ROOMS[room]
  lines = [f"# {room}: config entry {about.path!r}, {about.make}"]
  for name in plugins.names(room):
    module = plugins.resolve(room, name)
    lines.append(f"{name}: {_first(module.__doc__)}")
    if full:
      known = plugins.declared(room, module)
      lines += [f"    {line}" for line in configs.option_lines(known)]
  return lines


def option_lines() -> list[str]:
  """Returns docs/options.md: every option as it is declared, by room."""
  from genrep_jax.lib import contracts, experiment, plugins

  lines = [
    "# Options",
    "",
    "Made by `python -m genrep_jax.tools.list --options > docs/options.md`:",
    "every key of a config and every option of every plug-in, as declared.",
    "`python -m genrep_jax.main --config FILE --describe` prints what they are",
    "in one experiment. A star: the option belongs to the weights, and a file",
    "of weights that was made with another value is refused.",
    *("", "## Experiment", "", *_table(experiment.OPTIONS)),
  ]
  for room, about in contracts.ROOMS.items():
    lines += ["", f"## {room}"]
    if about.shared:
      lines += ["", "Every entry has", "", *_table(about.shared)]
    for name in plugins.names(room):
      module = plugins.resolve(room, name)
      known = plugins.declared(room, module)
      own = {key: known[key] for key in known if key not in about.shared}
      lines += ["", f"**{name}**: {_first(module.__doc__)}"]
      lines += ["", *_table(own)] if own else []
  return lines


def _table(known) -> list[str]:
  """Returns declared options as a table in Markdown."""
  lines = ["| option | default | allowed | unit | |", "| --- " * 5 + "|"]
  for cells in _rows(known):
    lines.append("|".join(["", *(_cell(text) for text in cells), ""]))
  return lines


def _cell(text: str) -> str:
  return " " + text.replace("|", "\\|") + " " * bool(text)


def _rows(known, path=""):
  """Yields the cells of every option, of nested ones too."""
  for key, option in known.items():
    name = f"{path}{key}"
    if isinstance(option, options.Option):
      default, star = f"`{option.default!r}`", "\\*" * option.bound
      yield f"`{name}`{star}", default, option.allowed, option.unit, option.help
    elif isinstance(option, options.Entry):
      default = "" if option.many else f"`{option.default!r}`"
      what = f"{'any number of ' * option.many}{option.room}"
      yield f"`{name}`", default, what, "", option.help
      yield from _rows(option.shared, f"{name}.{'ANY.' * option.many}")
    else:
      yield from _rows(option, f"{name}.")


def asset_lines() -> list[str]:
  """Returns a line per file of the package's assets."""
  folder = _PACKAGE / "assets"
  return [
    f"asset:{file.relative_to(folder)} ({file.stat().st_size:,} bytes)"
    for file in sorted(folder.rglob("*"))
    if file.is_file()
  ]


def _first(text: str | None) -> str:
  return (text or "").strip().split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
  _cli.run(main)

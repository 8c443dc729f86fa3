"""Lists what there is: experiments, plug-ins by room, assets.

`python -m genrep_jax.tools.list` prints the experiments of configs/ with the
hardware and the numbers that their headers name, every plug-in with its first
line, and the files that come with the package; `--room encoders` prints one
room's plug-ins with all their options.
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
  arguments.add_argument("--room", help="only this room, with every option")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("list: takes no --config")
  from genrep_jax.lib import contracts

  if flags.room is not None:
    if flags.room not in contracts.ROOMS:
      options.refuse("--room", flags.room, ", ".join(contracts.ROOMS))
    print("\n".join(room_lines(flags.room, full=True)))
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
    if "def get_config" not in file.read_text() or not header:
      continue
    if "Command:" not in header:
      continue  # what others build on
    lines.append(f"{file.relative_to(folder.parent)}: {_first(header)}")
    for name in _FIELDS:
      found = re.search(rf"^{name}:\s*(.*(?:\n[ \t]+\S.*)*)", header, re.MULTILINE)
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

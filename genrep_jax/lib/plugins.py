"""One resolver for every room: a name in a config is a module of that room.

`resolve("encoders", "resnet")` is `genrep_jax.encoders.resnet`; a dotted name
(`"my_lab.my_encoder"`) is imported from outside the package. Adding a file
that defines `make` is registering it.
"""

import difflib
import importlib
import pathlib
import re
import types

from genrep_jax.lib import errors

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def names(room: str) -> list[str]:
  """Lists the plug-ins of a room: its modules that define `make`.

  Args:
    room: folder of the package, e.g. "encoders" or "views/latent".

  Returns:
    Sorted module names, without importing any of them.
  """
  return sorted(
    path.stem
    for path in (_PACKAGE / room).glob("*.py")
    if re.search(r"^def make\(", path.read_text(), re.MULTILINE)
  )


def defines(room: str, name: str, function: str) -> bool:
  """Says whether a plug-in's file defines or re-exports a function.

  Args:
    room: folder of the package.
    name: a name that `names` lists; it is not imported.
    function: e.g. "convert".
  """
  text = (_PACKAGE / room / f"{name}.py").read_text()
  pattern = rf"^def {function}\(|^  {function} as {function},$"
  return re.search(pattern, text, re.MULTILINE) is not None


def resolve(room: str, name: str) -> types.ModuleType:
  """Imports the plug-in `name` of `room`, or the dotted module `name`.

  Args:
    room: folder of the package, e.g. "encoders".
    name: module of that room, or a dotted module name from outside.

  Returns:
    The module; it has a function `make`.

  Raises:
    UsageError: no such plug-in; the line lists what exists.
  """
  known = names(room)
  name = str(name)
  if "." in name:
    try:
      module = importlib.import_module(name)
    except ImportError as error:
      raise errors.UsageError(
        f"{room}: cannot import plug-in {name!r}: {error}"
      ) from error
    if not hasattr(module, "make"):
      raise errors.UsageError(f"{room}: {name!r} has no function make")
    return module
  if name not in known:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; nearest: {near[0]!r}" if near else ""
    raise errors.UsageError(
      f"{room}: unknown name {name!r}{hint}; known: {', '.join(known)}, "
      "or a dotted module name"
    )
  dotted = room.replace("/", ".")
  return importlib.import_module(f"genrep_jax.{dotted}.{name}")

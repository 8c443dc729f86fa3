"""One resolver for every room: a name in a config is a module of that room.

`resolve("encoders", "resnet")` is `genrep_jax.encoders.resnet`; a dotted name
(`"my_lab.my_encoder"`) is imported from outside the package. Adding a file
that defines `make` is registering it; names that begin with `_` are helpers.
What a module may have beside `make` is in `contracts.ROOMS`.
"""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import re
import types
import typing
from typing import Any

import ml_collections

from genrep_jax.lib import contracts, errors, options as options_lib

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# What had another name once, so that an old config is told the new one.
_RENAMED = {("views/latent", "steered"): "walks"}
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def names(room: str) -> list[str]:
  """Lists the plug-ins of a room, without importing any of them.

  Args:
    room: folder of the package, e.g. "encoders" or "views/latent".
  """
  found = (path.stem for path in (_PACKAGE / room).glob("*.py"))
  return sorted(name for name in found if not name.startswith("_"))


def resolve(room: str, name: str, path: str = "") -> types.ModuleType:
  """Imports the plug-in `name` of `room`, or the dotted module `name`.

  Args:
    room: folder of the package, e.g. "encoders".
    name: module of that room, or a dotted module name from outside.
    path: config key that says the name, for messages.

  Returns:
    The module; it has a function `make`.

  Raises:
    UsageError: no such plug-in; the line lists what exists.
    PluginError: a module from outside that cannot be imported or has no `make`.
  """
  path = path or f"{contracts.ROOMS[room].path}.name"
  if isinstance(name, str) and _DOTTED.fullmatch(name):
    with guard(name, f"import (of {path})"):
      module = importlib.import_module(name)
    if not callable(getattr(module, "make", None)):
      raise errors.PluginError(f"{path}: plug-in {name!r} has no function make")
    return module
  known = names(room)
  if name not in known:
    near = options_lib.nearest(name, known)
    if new := _RENAMED.get((room, str(name))):
      near = f"; renamed: {new!r}"
    options_lib.refuse(
      path, name, f"{', '.join(known)}, or a dotted module name{near}"
    )
  dotted = room.replace("/", ".")
  return importlib.import_module(f"genrep_jax.{dotted}.{name}")


def hook(room: str, module: types.ModuleType, name: str):
  """Returns an optional attribute of a plug-in's module, or None.

  Args:
    room: of the plug-in.
    module: from `resolve`.
    name: one of `contracts.ROOMS[room].hooks`.

  Raises:
    PluginError: it is there and of another type.
  """
  wanted = contracts.ROOMS[room].hooks[name]
  value = getattr(module, name, None)
  if value is not None and not isinstance(value, wanted):
    raise errors.PluginError(
      f"plug-in {module.__name__}: {name} is {type(value).__name__}; allowed: "
      f"{wanted.__name__}"
    )
  return value


def declared(room: str, module: types.ModuleType) -> options_lib.Options:
  """Returns the options of a plug-in, its own and those of its room."""
  own = getattr(module, "OPTIONS", {})
  right = (options_lib.Option, options_lib.Entry)
  wrong = not hasattr(own, "items") or any(
    not isinstance(option, right) for option in own.values()
  )
  if wrong:
    raise errors.PluginError(
      f"plug-in {module.__name__}: OPTIONS is no dictionary of "
      "lib.options.Option"
    )
  return {**own, **contracts.ROOMS[room].shared}


def defaults(room: str, name: str) -> dict:
  """Returns a plug-in's options as an entry of a config has them by default."""
  module = resolve(room, name)
  return {"name": name, **options_lib.defaults(declared(room, module))}


def make(room: str, entry, *args, path: str = "", **kwargs):
  """Completes and checks an entry of a config, then makes its plug-in.

  Args:
    room: folder of the package.
    entry: {"name": ..., option: value, ...}, a dictionary or ConfigDict; it is
      not changed.
    *args: what `make` wants beside the entry.
    path: of the entry in the config, for messages.
    **kwargs: likewise.

  Returns:
    What the plug-in's `make` returns, of the room's type.

  Raises:
    UsageError: an unknown name or option, a wrong value, or what `make`
      refuses.
    PluginError: `make` failed or returned something else.
  """
  path = path or contracts.ROOMS[room].path
  entry = ml_collections.ConfigDict(entry).copy_and_resolve_references()
  complete(entry, room, path)
  module = resolve(room, entry.name, f"{path}.name")
  label = label_of(room, entry.name)
  at = contracts.ROOMS[room].path, path
  with guard(label, "make", at):
    made = module.make(entry, *args, **kwargs)
  wanted = contracts.ROOMS[room].returns
  if not (isinstance(made, wanted) if wanted else made is not None):
    said = f"a contracts.{wanted.__name__}" if wanted else "a function"
    raise errors.PluginError(
      f"plug-in {label}: make returned {type(made).__name__}; allowed: {said}"
    )
  return _guarded(made, label, at)


def _guarded(made, label, at):
  """Wraps the functions of what a plug-in returned, so that they are named.

  A function that stands for several stays one: who shares is seen by identity.
  """
  known = {}

  def wrap(function, name):
    if id(function) not in known:

      @functools.wraps(function)
      def named(*args, **kwargs):
        with guard(label, name, at):
          return function(*args, **kwargs)

      known[id(function)] = named
    return known[id(function)]

  if isinstance(made, types.FunctionType | functools.partial):
    return wrap(made, "its function")
  if not dataclasses.is_dataclass(made):
    return made
  _check_fields(made, label)
  if isinstance(made, contracts.Program):
    return made
  changed = {}
  for field in dataclasses.fields(made):
    value = getattr(made, field.name)
    if field.name == "views":
      changed[field.name] = [wrap(view, field.name) for view in value]
    elif isinstance(
      value, types.FunctionType | types.MethodType | functools.partial
    ):
      changed[field.name] = wrap(value, field.name)
  return dataclasses.replace(made, **changed)


def _check_fields(made, label):
  """Refuses a contract's fields of other types than it declares."""
  for name, wanted in typing.get_type_hints(type(made)).items():
    union = isinstance(wanted, types.UnionType)
    some = typing.get_args(wanted) if union else (wanted,)
    kinds = tuple(typing.get_origin(one) or one for one in some)
    value = getattr(made, name)
    text = isinstance(value, str) and str not in kinds
    if Any in kinds or isinstance(value, kinds) and not text:
      continue
    words = " or ".join(kind.__name__ for kind in kinds)
    given = " ".join(f"{value!r:.60}".split())
    raise errors.PluginError(
      f"plug-in {label}: {name} is {given}; allowed: {words}"
    )


def label_of(room: str, name: str) -> str:
  """How messages call a plug-in: "my_lab.x", or "encoders/resnet"."""
  return name if "." in name else f"{room}/{name}"


@contextlib.contextmanager
def guard(label: str, function: str, at: tuple[str, str] = ("", "")):
  """Turns an exception of a plug-in's own code into one line that names it.

  Args:
    label: from `label_of`.
    function: which of its functions is called, e.g. "make".
    at: (path of the room, path of the entry): the plug-in names its options by
      the first, "evaluations.k", and the user reads the second, as in
      "evaluations.my_knn.k".

  Raises:
    PluginError: "plug-in LABEL failed in FUNCTION: ValueError: ..."; what is
      addressed to the user already (UsageError, Diverged, Preempted) passes.
  """
  try:
    yield
  except errors.UsageError as error:
    room, entry = at
    line = str(error)
    if not line.startswith(f"{room}.") or line.startswith(f"{entry}."):
      raise
    raise type(error)(entry + line.removeprefix(room)) from error
  except (errors.Diverged, errors.Preempted):
    raise
  except (Exception, SystemExit) as error:
    reason = " ".join(str(error).split())
    raise errors.PluginError(
      f"plug-in {label} failed in {function}: {type(error).__name__}: {reason}"
    ) from error


def complete(entry, room: str, path: str, *, shared=None, label="") -> None:
  """Fills in an entry's defaults and checks every value, in place.

  Args:
    entry: an ml_collections.ConfigDict.
    room: of the plug-in that it names.
    path: of the entry in the config, for messages.
    shared: further options at this place.
    label: the plug-in's name where the entry has none.

  Raises:
    UsageError: names the key, what was given and what is allowed.
  """
  if not isinstance(entry, ml_collections.ConfigDict):
    options_lib.refuse(path, entry, "a dictionary of options")
  with entry.unlocked():
    entry.name = entry.get("name", label)
    module = resolve(room, entry.name, f"{path}.name")
    known = {**declared(room, module), **(shared or {})}
    fill(entry, known, path, named=True)


def fill(config, known: options_lib.Options, path="", *, named=False) -> None:
  """Fills in and checks a dictionary of a config, in place.

  Args:
    config: an ml_collections.ConfigDict.
    known: what may be in it.
    path: of the dictionary, for messages; "" at the top.
    named: it is a plug-in's and has a `name`.

  Raises:
    UsageError: names the key, what was given and what is allowed.
  """
  for key in config:
    if key not in known and not (named and key == "name"):
      options_lib.unknown(path, key, known)
  with config.unlocked(), config.ignore_type():
    for key, option in known.items():
      here = f"{path}.{key}" if path else key
      if isinstance(option, options_lib.Entry):
        _fill_entry(config, key, option, here)
      elif isinstance(option, options_lib.Option):
        if key not in config:
          config[key] = option.default
        options_lib.check(here, option, config[key])
      else:
        if key not in config:
          config[key] = {}
        if not isinstance(config[key], ml_collections.ConfigDict):
          options_lib.refuse(here, config[key], "a dictionary of options")
        fill(config[key], option, here)


def _fill_entry(config, key, option, here):
  """Fills in an option that names a plug-in, or several."""
  if key not in config:
    start = {} if option.many else {"name": option.default}
    config[key] = {**start, **option.settings}
  entry = config[key]
  if not isinstance(entry, ml_collections.ConfigDict):
    options_lib.refuse(here, entry, "a dictionary of options")
  if option.many:
    for label in entry:
      path = f"{here}.{label}"
      complete(
        entry[label], option.room, path, shared=option.shared, label=label
      )
    return
  if "name" not in entry:
    with entry.unlocked():
      entry.name = option.default
  if entry.name == "" and set(entry) <= {"name"}:
    return
  complete(entry, option.room, here, shared=option.shared)

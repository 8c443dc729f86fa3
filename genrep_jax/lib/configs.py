"""Loads an experiment: its file, its plug-ins' defaults, then the overrides.

A config states what it changes; `load` fills in the defaults of every plug-in
it names, checks every key and value against its declaration (lib/options.py),
and returns the whole, locked. No device is touched.
"""

import ast
import dataclasses
import importlib.util
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import ml_collections

from genrep_jax.lib import (
  contracts,
  errors,
  experiment,
  files,
  options as options_lib,
  plugins,
)

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One value of a resolved config.

  Attributes:
    key: its dotted path, "views.latent.sigma".
    option: its declaration.
    value: what it is.
  """

  key: str
  option: options_lib.Option
  value: Any


def load(path: str, overrides=()) -> ml_collections.ConfigDict:
  """Loads a config file and applies command-line overrides.

  Args:
    path: a Python file with `get_config()`; "file.py:text" calls
      `get_config("text")`.
    overrides: strings "a.b=value". Overriding a plug-in's `name` starts that
      entry afresh from the new plug-in's defaults. "evaluations.X.name=lidar"
      adds an evaluation, and "evaluations.X.name=" takes it out.

  Returns:
    The resolved config, locked.

  Raises:
    UsageError: unreadable file, unknown key (with the nearest one), bad value.
  """
  config = _read(path)
  pairs = [_split(text) for text in overrides]
  if config.get("job") == "study":  # the others are for the runs' own config
    pairs = [pair for pair in pairs if pair[0].startswith("study.")]
  for key, value in pairs:
    if key.endswith(".name"):
      _rename(config, key.removesuffix(".name"), value)
  complete(config)
  _apply(config, pairs)
  return config


def complete(config: ml_collections.ConfigDict) -> None:
  """Fills in every default, in place, checks every value, and locks.

  Args:
    config: as an experiment's `get_config()` returns it.

  Raises:
    UsageError: names the key, what was given and what is allowed.
  """
  for key in experiment.MOVED:
    if _get(config, key) is not None:
      _moved(key)
  _check_job(config.get("job"))
  config.unlock()
  plugins.fill(config, experiment.OPTIONS)
  config.lock()


def leaves(config, known=None, path: str = "") -> Iterator[Leaf]:
  """Yields every value of a resolved config with its declaration.

  Args:
    config: from `load`, or a dictionary within it.
    known: declarations of its keys; None: an experiment's.
    path: of the dictionary; "" at the top.
  """
  known = experiment.OPTIONS if known is None else known
  for key, option in known.items():
    here = f"{path}.{key}" if path else key
    if isinstance(option, options_lib.Option):
      yield Leaf(here, option, config[key])
    elif not isinstance(option, options_lib.Entry):
      yield from leaves(config[key], option, here)
    elif option.many:
      for label, entry in config[key].items():
        yield from _entry_leaves(entry, option, f"{here}.{label}")
    else:
      yield from _entry_leaves(config[key], option, here)


def describe(path: str, config) -> str:
  """Says what an experiment is: every option with its help and its range.

  Args:
    path: of the config's file, whose header is shown.
    config: from `load`.

  Returns:
    A line per option: "key = value", help, unit, what is allowed, and the
    default where the value is another.
  """
  text = [header(path), ""]
  for leaf in leaves(config):
    text += _described(leaf.key, leaf.value, leaf.option)
  return "\n".join(text)


def option_lines(known: options_lib.Options) -> list[str]:
  """Returns lines on declared options: default, help, unit and range."""
  text = []
  for key, option in known.items():
    if isinstance(option, options_lib.Entry):
      option = _name_option(option)
    text += _described(key, option.default, option)
  return text


def _described(key, value, option) -> list[str]:
  unit = f" ({option.unit})" if option.unit else ""
  about = f"{option.help}{unit}; allowed: {option.allowed}"
  if value != option.default and not key.endswith(".name"):
    about += f"; default: {option.default!r}"
  indent = "    "
  wrapped = textwrap.wrap(
    about, 72, initial_indent=indent, subsequent_indent=indent
  )
  return [f"{key} = {value!r}", *wrapped]


def header(path: str) -> str:
  """Returns the docstring of an experiment's file, without running it."""
  try:
    tree = ast.parse(pathlib.Path(_parts(path)[0]).read_bytes())
  except (OSError, SyntaxError, ValueError):
    return ""
  return ast.get_docstring(tree) or ""


def _name_option(option: options_lib.Entry) -> options_lib.Option:
  known = ", ".join(plugins.names(option.room))
  name = options_lib.text(option.default, option.help)
  return dataclasses.replace(name, allowed=f"{known}, or a dotted module name")


def _entry_leaves(entry, option, path):
  yield Leaf(f"{path}.name", _name_option(option), entry.name)
  if entry.name:
    module = plugins.resolve(option.room, entry.name)
    declared = {**plugins.declared(option.room, module), **option.shared}
    yield from leaves(entry, declared, path)


def _parts(path: str) -> tuple[str, str]:
  """Splits "file.py:text"; a file's name may hold colons itself."""
  files.folder(path, "--config")  # refuses what is no path
  path = os.path.expanduser(path)
  if pathlib.Path(path).is_file():
    return path, ""
  file, _, argument = path.rpartition(":")
  return (file, argument) if file else (path, "")


def _read(path: str) -> ml_collections.ConfigDict:
  file, argument = _parts(path)
  if not pathlib.Path(file).is_file():
    raise errors.UsageError(
      f"--config: given {path!r}; allowed: a Python file of an experiment, and "
      "this is no file"
    )
  spec = importlib.util.spec_from_file_location("genrep_config", file)
  if spec is None:
    options_lib.refuse("--config", path, "a Python file of an experiment")
  try:
    try:
      config = _run(spec, argument, _home(file))
    except ImportError as error:
      if not _is_configs(error.name or ""):
        raise
      config = _run(spec, argument, _ROOT)  # it means ours; another hides it
  except errors.UsageError:
    raise
  except (Exception, SystemExit) as error:  # the experiment's own code
    reason = " ".join(str(error).split()).partition(". Other fields")[0]
    said = f"failed: {type(error).__name__}: {reason}"
    if isinstance(error, AttributeError):  # of a locked ConfigDict, perhaps
      key = next(iter(re.findall(r"\w+", reason.removeprefix("'Key"))), "")
      said += options_lib.nearest(key, experiment.OPTIONS)
      if key in experiment.MOVED:
        said = f"{key} is now {experiment.MOVED[key]}"
    raise errors.UsageError(f"--config: {file!r}: {said}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.UsageError(
      f"--config: {file!r}: get_config() returned {type(config).__name__}; "
      "allowed: an ml_collections.ConfigDict"
    )
  with config.unlocked():
    config.title = config.get("title") or pathlib.Path(file).stem
  return config


def _run(spec, argument: str, root: pathlib.Path | None):
  """Runs an experiment's file and returns what its `get_config` returns.

  Args:
    spec: of the file.
    argument: of `get_config`, or "".
    root: folder whose `configs` the file imports from, whatever else is called
      so in the current folder or on PYTHONPATH; None: as Python finds it.
  """
  path, aside, foreign = list(sys.path), {}, False
  if root is not None:
    sys.path.insert(0, str(root))
    known = getattr(sys.modules.get("configs"), "__path__", ())
    foreign = str(root / "configs") not in known
  if foreign:
    aside = {n: m for n, m in sys.modules.items() if _is_configs(n)}
    for name in aside:
      del sys.modules[name]
  try:
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    if not callable(getattr(loaded, "get_config", None)):
      raise errors.UsageError(
        f"--config: {spec.origin!r} has no function get_config()"
      )
    config = loaded.get_config(argument) if argument else loaded.get_config()
    if isinstance(config, ml_collections.ConfigDict):
      config = config.copy_and_resolve_references()
      config.to_dict()  # fails where a key is no text
    return config
  finally:
    sys.path[:] = path
    if foreign:  # whoever imports that name elsewhere means another
      for name in [name for name in sys.modules if _is_configs(name)]:
        del sys.modules[name]
      sys.modules.update(aside)


def _is_configs(name: str) -> bool:
  return name.partition(".")[0] == "configs"


def _home(file: str) -> pathlib.Path | None:
  """The folder above a file's own collection of experiments, if it is one."""
  for folder in pathlib.Path(file).resolve().parents:
    if folder.name == "configs" and (folder / "common.py").is_file():
      return folder.parent
  return None


def _moved(key: str):
  """Refuses a key of an earlier version; says what to write instead."""
  raise errors.UsageError(f"{key}: is now {experiment.MOVED[key]}")


def _check_job(job) -> None:
  if isinstance(job, str) and job in experiment.MOVED_JOBS:
    raise errors.UsageError(
      f"job: given {job!r}; it is now {experiment.MOVED_JOBS[job]}"
    )


def _split(text: str) -> tuple[str, str]:
  key, equals, value = text.partition("=")
  if not equals:
    options_lib.refuse(f"--config.{text}", "", "key=value")
  for old in experiment.MOVED:
    if key == old or key.startswith(f"{old}."):
      _moved(old)
  if key == "job":
    _check_job(value)
  return key, value


def _get(config, path):
  for part in path.split("."):
    if not isinstance(config, ml_collections.ConfigDict) or part not in config:
      return None
    config = config[part]
  return config


def _rename(config, path, name):
  """Starts an entry afresh under another name; `complete` fills it in.

  An evaluation that there is not yet is added; one without a name goes.
  """
  entry = _get(config, path)
  if _is_evaluation(path) and not (entry and name):
    with config.evaluations.unlocked():
      if name:
        config.evaluations[path.split(".")[1]] = {"name": name}
      elif entry is not None:
        del config.evaluations[path.split(".")[1]]
    return
  if entry is None:  # a default that the file does not mention
    room = next((r for r in contracts.ROOMS.values() if r.path == path), None)
    if room is None or "." in path:
      return  # `_apply` refuses the key
    with config.unlocked():
      config[path] = {"name": name}
    return
  if isinstance(entry, ml_collections.ConfigDict):
    if entry.get("name", path.split(".")[-1]) != name:
      with entry.unlocked():
        for key in list(entry.keys()):
          del entry[key]
        entry.name = name


def _is_evaluation(path):
  room, _, label = path.partition(".")
  return room == "evaluations" and label and "." not in label


def _apply(config, pairs):
  for key, word in pairs:
    if (
      not word
      and key.endswith(".name")
      and _is_evaluation(key[: -len(".name")])
    ):
      continue  # it is gone
    found = {leaf.key: leaf for leaf in leaves(config)}
    if key not in found:
      _unknown(config, key, found)
    if key.endswith(".name"):
      if found[key].value != word:  # an entry that is an option of another
        _rename(config, key.removesuffix(".name"), word)
        complete(config)
      continue
    value = options_lib.parse(key, found[key].option, word)
    *parents, last = key.split(".")
    entry = _get(config, ".".join(parents)) if parents else config
    with config.unlocked(), entry.unlocked(), entry.ignore_type():
      entry[last] = value


def _unknown(config, key, found):
  """Refuses a key that the config does not have."""
  parent = key.rpartition(".")[0]
  entry = _get(config, parent) if parent else None
  if isinstance(entry, ml_collections.ConfigDict) and entry.get("name") == "":
    raise errors.UsageError(f"{key}: {parent}.name is '', which has no options")
  near = options_lib.nearest(key, found)
  siblings = [k for k in found if k.rpartition(".")[0] == parent]
  if not parent or not siblings:
    siblings = list(dict.fromkeys(k.split(".")[0] for k in found))
  raise errors.UsageError(
    f"{key}: unknown key; allowed: {', '.join(siblings)}{near}"
  )

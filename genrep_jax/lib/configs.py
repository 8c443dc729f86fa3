"""Loads an experiment: its file, its plug-ins' defaults, then the overrides.

A config states what it changes; `load` fills in the defaults of every plug-in
it names, checks every key, and returns the whole, locked.
"""

import difflib
import importlib.util
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from genrep_jax.lib import errors, plugins

# Config path -> room, for every entry that names a plug-in.
ROOMS = {
  "generator": "generators",
  "views.latent": "views/latent",
  "views.pixel": "views/pixel",
  "encoder": "encoders",
  "objective": "objectives",
  "data": "data",
  "game": "games",
  "steering": "games",
}
# Options that every plug-in of a room has, because the trainer reads them.
SHARED_OPTIONS = {
  "generators": {
    "weights": "",  # safetensors file, or asset:NAME; empty: random weights
    "sha256": "",  # of that file; empty: not checked, and said so
    "render_chunk": 0,  # images per lax.map chunk; 0: all at once
  },
  "encoders": {
    "weights": "",  # job evaluate: a safetensors file instead of a checkpoint
    "sha256": "",
  },
  "evaluations": {
    "every_steps": -1,  # -1: config.evaluate_every_steps; 0: only at the end
  },
}


def load(path: str, overrides=()) -> ml_collections.ConfigDict:
  """Loads a config file and applies command-line overrides.

  Args:
    path: a Python file with `get_config()`; "file.py:text" calls
      `get_config("text")`.
    overrides: strings "a.b=value". Overriding a plug-in's `name` starts that
      entry afresh from the new plug-in's defaults.

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
    if key.endswith(".name") and key[: -len(".name")] in ROOMS:
      _rename(config, key[: -len(".name")], value)
  complete(config)
  _apply(config, pairs)
  return config


def complete(config: ml_collections.ConfigDict) -> None:
  """Fills in the defaults of every named plug-in, in place, and locks.

  Args:
    config: as an experiment's `get_config()` returns it.

  Raises:
    UsageError: unknown plug-in, or an option that it does not have.
  """
  config.unlock()
  for path, room in ROOMS.items():
    entry = _get(config, path)
    if entry is not None and entry.name:
      _fill(entry, path, room)
  for name, entry in config.evaluations.items():
    if "name" not in entry:
      entry.name = name
    _fill(entry, f"evaluations.{name}", "evaluations")
    if entry.data.name:
      _fill(entry.data, f"evaluations.{name}.data", "data")
  from genrep_jax.lib import optim, schedules  # floor 0, but imports jax

  for path, module in (("optimizer", optim), ("schedule", schedules)):
    _check(_get(config, path), path, module.default_config())
  config.lock()


def dotted_keys(config: ml_collections.ConfigDict) -> list[str]:
  """Lists every leaf of a config as "a.b.c"."""
  keys = []
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      keys += [f"{key}.{inner}" for inner in dotted_keys(value)]
    else:
      keys.append(key)
  return keys


def _read(path: str) -> ml_collections.ConfigDict:
  file, _, argument = path.partition(":")
  if not pathlib.Path(file).is_file():
    raise errors.UsageError(f"config: no such file: {file!r}")
  spec = importlib.util.spec_from_file_location("genrep_config", file)
  if spec is None:
    raise errors.UsageError(f"config: {file!r} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise errors.UsageError(f"config: {file!r} has no get_config()")
    config = module.get_config(argument) if argument else module.get_config()
  except errors.UsageError:
    raise
  except Exception as error:  # whatever the experiment's own code raises
    reason = " ".join(str(error).split())
    raise errors.UsageError(
      f"config: {file!r} failed: {type(error).__name__}: {reason}"
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.UsageError(f"config: {file!r}: get_config() returned no dict")
  if "title" in config and not config.title:
    config.title = pathlib.Path(file).stem
  return config


def _split(text: str) -> tuple[str, str]:
  key, equals, value = text.partition("=")
  if not equals:
    raise errors.UsageError(f"config: override {text!r} is not key=value")
  return key, value


def _get(config, path):
  for part in path.split("."):
    if part not in config:
      return None
    config = config[part]
  return config


def _rename(config, path, name):
  entry = _get(config, path)
  if entry is None:
    raise errors.UsageError(f"config: no entry {path!r}")
  if entry.name != name:
    with entry.unlocked():
      for key in list(entry.keys()):
        del entry[key]
      entry.name = name


def _fill(entry, path, room):
  module = plugins.resolve(room, entry.name)
  defaults = getattr(module, "default_config", dict)()
  _check(entry, path, {**defaults, **SHARED_OPTIONS.get(room, {})})
  if hasattr(module, "complete"):  # of options within options
    with entry.unlocked():
      module.complete(entry)


def _check(entry, path, defaults):
  known = list(dict.fromkeys(["name", *defaults]))
  for key in entry:
    if key not in known:
      raise errors.UsageError(
        f"config: {path}.name={entry.name!r} has no option {key!r}"
        f"{_nearest(key, known)}; options: {', '.join(known)}"
      )
  with entry.unlocked():
    for key, value in defaults.items():
      if key not in entry:
        entry[key] = value


def _nearest(key, known):
  near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
  return f"; nearest: {near[0]!r}" if near else ""


def _apply(config, pairs):
  known = dotted_keys(config)
  for key, _ in pairs:
    if key not in known:
      raise errors.UsageError(
        f"config: unknown key {key!r}{_nearest(key, known)}"
      )
  for key, value in pairs:
    argv = ["genrep_jax", f"--config.{key}={value}"]
    values = flags.FlagValues()
    try:
      config_flags.DEFINE_config_dict(
        "config", config, lock_config=True, flag_values=values, sys_argv=argv
      )
      values(argv)
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
      raise errors.UsageError(
        f"config: bad value for {key!r}: {value!r} "
        f"(now {_get(config, key)!r}): {' '.join(str(error).split())}"
      ) from error

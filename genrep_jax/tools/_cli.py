"""Command lines: `--config FILE --config.a.b=value`, and exit codes."""

import argparse
import ast
import difflib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from genrep_jax.lib import errors

EPILOG = """exit codes: 0 done; 2 bad input (one line on stderr, nothing
written); 3 the loss left the finite numbers; 75 preempted, state saved: run
the same command again."""


def parser(prog: str, description: str) -> argparse.ArgumentParser:
  """Returns an argument parser whose help names the exit codes."""
  return argparse.ArgumentParser(
    prog=f"python -m {prog}",
    description=description,
    epilog=EPILOG,
    allow_abbrev=False,
  )


def add_config(arguments: argparse.ArgumentParser) -> None:
  """Adds --config, and its place in the help for --config.a.b=value."""
  arguments.add_argument(
    "--config",
    required=True,
    metavar="FILE[:TEXT]",
    help="an experiment, e.g. configs/quickstart.py; override any key of it "
    "with --config.a.b=value",
  )


def add_set(arguments: argparse.ArgumentParser, what: str) -> None:
  """Adds --set KEY=VALUE, which may be repeated; `typed` reads it."""
  arguments.add_argument(
    "--set",
    action="append",
    default=[],
    metavar="KEY=VALUE",
    help=f"{what}; may be repeated",
  )


def add_overwrite(arguments: argparse.ArgumentParser) -> None:
  """Adds --overwrite, without which `output` refuses what exists."""
  arguments.add_argument(
    "--overwrite", action="store_true", help="replace what exists"
  )


def typed(pairs: Sequence[str], defaults: Mapping, what: str) -> dict:
  """Reads --set's "key=value" words, each value in the type of its default.

  Args:
    pairs: the words.
    defaults: {allowed key: default value}; a default of None takes text.
    what: whose keys they are, for the message.

  Returns:
    {key: value} of the given keys.

  Raises:
    UsageError: not key=value, an unknown key, or a value of another type.
  """
  values = {}
  for pair in pairs:
    key, equals, text = pair.partition("=")
    if not equals:
      raise errors.UsageError(f"--set: {pair!r} is not key=value")
    if key not in defaults:
      near = difflib.get_close_matches(key, defaults, n=1)
      hint = f"; nearest: {near[0]!r}" if near else ""
      raise errors.UsageError(
        f"--set: no option {key!r} of {what}{hint}; options: "
        f"{', '.join(defaults) or 'none'}"
      )
    values[key] = _typed(key, text, defaults[key])
  return values


def _typed(key, text, default):
  if default is None or isinstance(default, str):
    return text
  if isinstance(default, bool):
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
      raise errors.UsageError(f"--set: {key} is true or false, not {text!r}")
    return known[text.lower()]
  kind = type(default)
  try:
    if kind in (int, float):
      return kind(text)
    value = ast.literal_eval(text)
    if not isinstance(value, (list, tuple)):
      raise ValueError
    return tuple(value)
  except (ValueError, SyntaxError) as error:
    raise errors.UsageError(
      f"--set: {key} is of type {kind.__name__} (now {default!r}), not {text!r}"
    ) from error


def output(path: str, overwrite: bool) -> pathlib.Path:
  """Checks that a file can be written, before anything is computed.

  Args:
    path: where to.
    overwrite: whether it may exist.

  Raises:
    UsageError: it exists, is a folder, or lies in one that cannot be written.
  """
  out = pathlib.Path(path)
  if out.is_dir():
    raise errors.UsageError(f"--out: {path} is a folder")
  if out.exists() and not overwrite:
    raise errors.UsageError(f"--out: {path} exists (--overwrite replaces it)")
  check_writable(out.parent)
  return out


def check_writable(folder: pathlib.Path) -> None:
  """Refuses a folder in which nothing can be written or made."""
  while not folder.exists():
    folder = folder.parent
  if not folder.is_dir():
    raise errors.UsageError(f"--out: {folder} is not a folder")
  if not os.access(folder, os.W_OK | os.X_OK):
    raise errors.UsageError(f"--out: {folder} cannot be written")


def parse(arguments: argparse.ArgumentParser, argv):
  """Parses a command line with `--config.a.b=value` overrides.

  Args:
    arguments: from `parser`, with --config added.
    argv: the words after the program's name.

  Returns:
    (namespace, list of "a.b=value").

  Raises:
    UsageError: a flag without a value, or an unknown flag.
  """
  prefix, overrides, words = "--config.", [], []
  stream = iter(argv)
  for word in stream:
    if not word.startswith(prefix):
      words.append(word)
      continue
    if "=" not in word:
      value = next(stream, None)
      if value is None:
        raise errors.UsageError(f"{word}: no value given")
      word = f"{word}={value}"
    overrides.append(word[len(prefix) :])

  def fail(message):
    raise errors.UsageError(message)

  arguments.error = fail
  return arguments.parse_args(words), overrides


def run(main) -> None:
  """Runs `main(argv)` and ends the process with the documented exit code."""
  try:
    code = main(sys.argv[1:]) or errors.EXIT_OK
  except errors.UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    code = errors.EXIT_USAGE
  except errors.Diverged as error:
    print(f"diverged: {error}", file=sys.stderr)
    code = errors.EXIT_DIVERGED
  except errors.Preempted as error:
    print(f"preempted: {error}", file=sys.stderr)
    code = errors.EXIT_PREEMPTED
  except BrokenPipeError:  # | head
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = errors.EXIT_OK
  except OSError as error:  # a full disk, a folder that may not be written
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    code = errors.EXIT_USAGE
  sys.exit(code)

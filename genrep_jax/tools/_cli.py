"""Command lines: `--config FILE --config.a.b=value`, and exit codes."""

import argparse
import contextlib
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

from genrep_jax.lib import errors, files, options, stopping

EPILOG = """exit codes: 0 done; 2 bad input (one line on stderr, nothing
written); 3 the loss left the finite numbers; 75 preempted, state saved: run
the same command again."""

_PATHS = ("workdir", "out", "runs", "json", "data_dir")  # flags that are paths


def parser(prog: str, description: str) -> argparse.ArgumentParser:
  """Returns an argument parser whose help names the exit codes."""
  arguments = argparse.ArgumentParser(
    prog=f"python -m {prog}",
    description=description,
    epilog=EPILOG,
    allow_abbrev=False,
  )
  arguments.add_argument(
    "--debug",
    action="store_true",
    help="show where bad input was found, or where a plug-in failed",
  )
  return arguments


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
  """Adds --set KEY=VALUE, which may be repeated; `read_set` reads it."""
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


def read_set(words: Sequence[str], declared: options.Options, path: str):
  """Reads --set's "key=value" words.

  Args:
    words: as typed.
    declared: the options that may be set.
    path: whose they are, for messages, e.g. "generator".

  Returns:
    {key: value} of the given keys.

  Raises:
    UsageError: not key=value, an unknown key, or a value that is not allowed.
  """
  values = {}
  for word in words:
    key, equals, text = word.partition("=")
    if not equals:
      options.refuse("--set", word, "key=value")
    if not isinstance(declared.get(key), options.Option):
      known = [k for k, o in declared.items() if isinstance(o, options.Option)]
      options.unknown(path, key, known)
    values[key] = options.parse(f"{path}.{key}", declared[key], text)
  return values


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
    UsageError: a flag without a value, an unknown flag, no path where one is
      meant, or a current folder that is gone.
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
  flags = arguments.parse_args(words)
  try:
    os.getcwd()
  except FileNotFoundError:
    raise errors.UsageError(
      "current folder: it was deleted; allowed: one that exists (cd)"
    ) from None
  for name in _PATHS:
    if getattr(flags, name, None):
      setattr(flags, name, str(files.folder(getattr(flags, name), f"--{name}")))
  return flags, overrides


def progress(done: int, total: int) -> None:
  """Shows a bar on stderr where that is a terminal."""
  if not sys.stderr.isatty():
    return
  width = 40
  full = width * done // total
  bar = "#" * full + "." * (width - full)
  end = "\n" if done == total else ""
  print(f"\r{bar} {done}/{total}", end=end, file=sys.stderr, flush=True)


def run(main) -> None:
  """Runs `main(argv)` and ends the process with the documented exit code.

  From here on, SIGTERM and Ctrl-C end it with 75 (lib/stopping).
  """
  _open_streams()
  stopping.install()
  line = ""
  try:
    code = main(sys.argv[1:]) or errors.EXIT_OK
    sys.stdout.flush()
  except errors.UsageError as error:
    if "--debug" in sys.argv:
      traceback.print_exception(error.__cause__ or error)
    code, line = errors.EXIT_USAGE, f"error: {error}"
  except errors.Diverged as error:
    code, line = errors.EXIT_DIVERGED, f"diverged: {error}"
  except errors.Preempted as error:
    code, line = errors.EXIT_PREEMPTED, f"preempted: {error}"
  except BrokenPipeError:  # | head
    code = errors.EXIT_OK
  except OSError as error:  # a full disk, a folder that may not be written
    nameless = error.errno and error.filename is None
    reason = nameless and _full_stdout() or " ".join(str(error).split())
    code, line = errors.EXIT_USAGE, f"error: {reason}"
  except Exception as error:
    if isinstance(error, ValueError) and "jax" not in sys.modules:
      # `import jax` failed: a variable such as JAX_ENABLE_X64=perhaps.
      code, line = errors.EXIT_USAGE, f"error: {error}"
    else:
      if stopping.word() is None:
        traceback.print_exc()
      code, line = errors.EXIT_BUG, f"error: {type(error).__name__}, see above"
  if code not in (errors.EXIT_OK, errors.EXIT_PREEMPTED):
    # A collective fails when another process has left it: that one says why.
    code, line, _ = stopping.word() or (code, line, None)
    stopping.leave(code, line)
  if line:
    _complain(line)
  _drain()
  sys.exit(code)


def _open_streams() -> None:
  """Makes the three standard streams safe to write to.

  A stream that was closed (`>&-`) would give its number to the next file that
  is opened, and whatever a library prints would land in a checkpoint. A letter
  that the locale cannot show is written as its number, not refused after hours.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if getattr(sys, name) is None:
      stream = open(os.devnull, "w" if number else "r", encoding="utf-8")
      setattr(sys, name, stream)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def _complain(line: str) -> None:
  with contextlib.suppress(OSError):  # nobody listens; the exit code stays
    print(line, file=sys.stderr, flush=True)


def _full_stdout() -> str:
  """Says that standard output takes no more, which Python does not; or ""."""
  try:
    with files.writing("standard output"):
      print(flush=True)
  except OSError as error:
    return str(error)
  return ""


def _drain() -> None:
  """Drops what a full or closed stream would not take at exit, either."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""Command lines: `--config FILE --config.a.b=value`, and exit codes."""

import argparse
import os
import sys

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

"""Errors a user can cause, and the exit codes a scheduler can read."""

EXIT_OK = 0
EXIT_BUG = 1  # a traceback; a run of a study failed
EXIT_USAGE = 2  # bad input: one line on stderr, nothing written
EXIT_DIVERGED = 3  # a NaN or infinity stopped the run: do not retry
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: state saved, run the same command again


class UsageError(ValueError):
  """Bad input. Its message is one line: what was given, what is allowed."""


class PluginError(UsageError):
  """A plug-in failed, or returned what its contract does not allow.

  Its message names the plug-in; its cause is the plug-in's own exception, whose
  traceback `--debug` shows.
  """


class Diverged(RuntimeError):
  """A loss or gradient left the finite numbers; the message names the step."""


class Preempted(RuntimeError):
  """The run was asked to stop, and its state is saved."""

"""What ran: package versions, source commit, devices. Cheap; never fails."""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

import genrep_jax

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_PACKAGES = {
  "jax": "jax",
  "jaxlib": "jaxlib",
  "flax": "flax",
  "optax": "optax",
  "orbax": "orbax-checkpoint",
  "numpy": "numpy",
}


def packages() -> dict[str, str | None]:
  """Returns {package: version} and the python version; None: not installed."""
  found: dict[str, str | None] = {"python": platform.python_version()}
  for name, distribution in _PACKAGES.items():
    try:
      found[name] = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return {**found, "genrep_jax": genrep_jax.__version__}


def git_commit(root: pathlib.Path = _ROOT) -> str | None:
  """Returns the commit of the source tree.

  Args:
    root: folder that holds `.git`. An enclosing repository does not count: an
      installed package may lie inside a user's own one.

  Returns:
    40 hexadecimal digits, with "-dirty" appended if tracked files were
    changed; None if there is no repository, commit or git.
  """
  if not (root / ".git").exists():
    return None
  try:
    done = subprocess.run(
      [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
      ],
      capture_output=True,
      encoding="utf-8",
      errors="replace",
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() or None


def devices() -> dict[str, Any]:
  """Returns platform, device kind, and counts of devices and processes."""
  try:
    found = jax.devices()
    return {
      "platform": found[0].platform,
      "device_kind": found[0].device_kind,
      "devices": len(found),
      "processes": jax.process_count(),
    }
  except (RuntimeError, AssertionError) as error:  # no backend: do not fail
    return {"platform": None, "error": str(error)}


def versions() -> dict[str, Any]:
  """Returns everything above as one plain dict."""
  return {**packages(), "git_commit": git_commit(), **devices()}

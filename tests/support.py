"""Small experiments that every test of the core can afford."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import configs, errors, execution, mesh as mesh_lib
from genrep_jax.run import Run
from genrep_jax.tools import _cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The quick start, shrunk: same plug-ins, random generator weights, 28x28.
TINY = (
  "generator.weights=",
  "generator.sha256=",
  "generator.widths=(8, 4)",
  "generator.extra_convs=(0, 0)",
  "generator.latent_dim=8",
  "encoder.width=0.25",
  "global_batch=16",
  "total_steps=20",
  "evaluate_every_steps=0",
  "log_every_steps=5",
  "checkpoint.every_steps=5",
  "report.recorded=",
  "report.pictures=False",
  "compilation_cache=off",
)

# For comparisons of runs that add in another order: Adam makes whole steps of
# a vanishing gradient's rounding, e.g. of a bias that the feature norm undoes.
SGD = ("optimizer.name=sgd", "optimizer.learning_rate=3e-3")

# No T_x, for gray images.
NO_PIXEL_VIEW = (
  "views.pixel.name=none",
  "views.pixel.mean=(0.5,)",
  "views.pixel.std=(0.5,)",
)


def tiny(*overrides):
  """Returns the quick start's config, shrunk, with overrides on top."""
  return configs.load(
    str(ROOT / "configs" / "quickstart.py"), [*TINY, *overrides]
  )


def flags(*overrides):
  """The same as command-line words."""
  return [f"--config.{text}" for text in (*TINY, *overrides)]


def mesh_of(devices: int):
  """A mesh over the first `devices` of the eight fake ones."""
  return mesh_lib.make_mesh(jax.devices()[:devices])


def open_run(config, devices=1):
  """Returns the Run of a config on so many devices."""
  return Run(config, mesh_of(devices))


def open_program(config, devices=1):
  """Builds a program; returns (program, mesh, state, frozen)."""
  run = open_run(config, devices)
  program = run.program
  return (
    program,
    run.mesh,
    execution.initial(program),
    execution.put_frozen(program),
  )


_shows = {}  # (config, devices, optimized) -> (compiled program, its arrays)


def shown(config, devices=1, step=0):
  """The views of one step, as numpy: (before T_x, after T_x, latents)."""
  optimized = not jax.config.values["jax_disable_most_optimizations"]
  key = config.to_json(), devices, optimized
  if key not in _shows:
    if len(_shows) == 4:
      _shows.clear()
    run = open_run(config, devices)
    frozen = execution.put_frozen(run.program)
    _shows[key] = jax.jit(run.stages.views), frozen
  views_of, frozen = _shows[key]
  views, before = views_of(jnp.int32(step), frozen)
  return tuple(np.asarray(x) for x in (before, views.images, views.latents))


def leaves(tree) -> dict[str, np.ndarray]:
  """Flattens a tree to {path: numpy array}."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in flat}


def command(*words, devices=1, **environment):
  """Arguments of `subprocess` for a `python -m` command of ours.

  With devices=0 the command says itself how many devices and threads.
  """
  count = "--xla_force_host_platform_device_count"
  kept = [f for f in os.environ["XLA_FLAGS"].split() if count not in f]
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  # Processes repeat each other's programs, the small ones, too.
  env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  env |= environment
  if devices:
    kept.append(f"{count}={devices}")
  else:
    env.pop("NPROC", None)
  env["XLA_FLAGS"] = " ".join(kept)
  return {
    "args": [sys.executable, "-m", *words],
    "cwd": ROOT,
    "env": env,
    "text": True,
  }


def run(*words, devices=1, timeout=300, **environment):
  """Runs such a command to its end; returns the CompletedProcess."""
  return subprocess.run(
    **command(*words, devices=devices, **environment),
    capture_output=True,
    timeout=timeout,
    check=False,
  )


def refused(main, words, capsys, monkeypatch, code=errors.EXIT_USAGE):
  """Runs a tool's main in this process; returns its one line on stderr."""
  monkeypatch.setattr("sys.argv", ["genrep_jax", *map(str, words)])
  with pytest.raises(SystemExit) as stopped:
    _cli.run(main)
  captured = capsys.readouterr()
  assert stopped.value.code == code, captured.err
  (line,) = captured.err.strip().splitlines()
  return line


def until(process, text: str) -> None:
  """Reads a process's output as far as the line that holds the text."""
  for line in process.stdout:
    if text in line:
      return
  pytest.fail(f"no {text!r}: {process.stderr.read()}")


def main(workdir, *overrides, **options):
  """Runs main.py on the tiny experiment."""
  return run(
    "genrep_jax.main",
    "--config",
    "configs/quickstart.py",
    "--workdir",
    str(workdir),
    *flags(*overrides),
    **options,
  )

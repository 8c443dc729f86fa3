"""Times the stages of the train step: where a step's time goes.

`python -m benchmarks.step_stages --config configs/quickstart.py` compiles
growing prefixes of the step (the compiler drops what a prefix does not need)
and prints the median milliseconds of each, the quartiles, and what it adds to
the one before. The whole step is one fused program, so the differences are a
split, not a sum of kernels. The devices are those of the run itself
(`cpu_devices`).
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from genrep_jax.lib import configs, devices, execution
from genrep_jax.run import Run
from genrep_jax.tools import _cli


def prefixes(config, mesh):
  """Returns ({name: jitted function}, their arguments)."""
  run = Run(config, mesh)
  views_of, encoder = run.stages.views, run.encoder
  state = execution.initial(run.program)
  frozen = execution.put_frozen(run.program)

  def sample(state, frozen):
    return views_of(state.step, frozen)[0].latents

  def render(state, frozen):
    return views_of(state.step, frozen)[1]

  def augment(state, frozen):
    return views_of(state.step, frozen)[0].images

  def encode(state, frozen):
    images = augment(state, frozen)
    variables = {
      "params": state.params["encoder"],
      "batch_stats": state.batch_stats,
    }
    rows = images.reshape(-1, *images.shape[2:])
    return encoder.apply(variables, rows, train=True)

  functions = {"render": render, "augment": augment, "encode": encode}
  if run.source.differentiable:
    functions = {"sample": sample, **functions}
  functions["whole step"] = run.program.step
  return {k: jax.jit(f) for k, f in functions.items()}, (state, frozen)


def measure(functions, arguments, repeats):
  """Returns {name: (lower quartile, median, upper) seconds}, interleaved."""
  for function in functions.values():
    jax.block_until_ready(function(*arguments))
  seconds = {name: [] for name in functions}
  for k in range(repeats):
    state = arguments[0].replace(step=jnp.int32(k))
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function(state, arguments[1]))
      seconds[name].append(time.perf_counter() - start)
  return {name: statistics.quantiles(s, n=4) for name, s in seconds.items()}


def main(argv):
  """Command line."""
  arguments = argparse.ArgumentParser(description=__doc__)
  _cli.add_config(arguments)
  arguments.add_argument("--repeats", type=int, default=20)
  flags, overrides = _cli.parse(arguments, argv)
  config = configs.load(flags.config, overrides)
  functions, values = prefixes(config, devices.start(config, None))
  measured = measure(functions, values, flags.repeats)
  before = 0.0
  print(f"{'up to':<12} {'ms':>8} {'quartiles':>15} {'adds ms':>8}")
  for name, (low, median, high) in measured.items():
    quartiles = f"{1e3 * low:.1f}-{1e3 * high:.1f}"
    adds = 1e3 * (median - before)
    print(f"{name:<12} {1e3 * median:8.1f} {quartiles:>15} {adds:8.1f}")
    before = median
  facts = {"kind": jax.devices()[0].device_kind, "devices": jax.device_count()}
  print(json.dumps({**facts, "quartiles": measured}))


if __name__ == "__main__":
  _cli.run(main)

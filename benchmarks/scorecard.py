"""One row for each generator: its own metrics, and those of an encoder on it.

`python -m benchmarks.scorecard --steps 300 --out card.json` measures the two
embedded generators, untrained and procedural ones, and any weights files named
by --weights: fid, kid, precision_recall and inception_score in the features of
a small classifier of the real images, cas where there are classes; images per
second and FLOPs of an image; the license that the file's metadata name, and
whether labels were used; and kNN and linear accuracy of an encoder that the
quick start trains on it for --steps. Which of the generator's metrics predicts
the encoder's? Kendall's tau (b) of every pair is printed with the number of
generators it is of: below seven it is no evidence of anything.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

_RATE_BATCH = 64
_RATE_CALLS = 5
_PROCEDURAL = ("dead_leaves", "spectrum", "spectrum_color")
_UNTRAINED = {"weights": "", "sha256": ""}


def generators(paths) -> dict[str, dict]:
  """Returns {row: entry of a config} of what is at hand.

  Args:
    paths: weights files that name their generators.
  """
  from configs import common
  from genrep_jax.lib import frozen

  procedural = {
    kind: {"name": "procedural", "kind": kind, "resolution": 28, "channels": 1}
    for kind in _PROCEDURAL
  }
  given = {}
  for path in paths:
    made = frozen.from_file(path)
    given[pathlib.Path(path).name] = dict(made.options)
  return {
    "embedded": common.EMBEDDED,
    "embedded, conditional": common.EMBEDDED_CONDITIONAL,
    "untrained": {"name": "small", **_UNTRAINED},
    **procedural,
    **given,
  }


def speed(generator, variables) -> dict:
  """Returns {"images_per_second", "mflop_per_image"} on these devices."""
  import jax

  from genrep_jax.lib import hlo, rendering

  z, y = jax.device_put(rendering.draw(generator, 0, _RATE_BATCH))

  def render(variables, z, y):
    return generator.apply(variables, generator.latents(variables, z, y), y)

  compiled = jax.jit(render).lower(variables, z, y).compile()
  jax.block_until_ready(compiled(variables, z, y))
  start = time.perf_counter()
  for _ in range(_RATE_CALLS):
    jax.block_until_ready(compiled(variables, z, y))
  rate = _RATE_CALLS * _RATE_BATCH / (time.perf_counter() - start)
  flops = hlo.costs(compiled)["flops"]
  return {
    "images_per_second": rate,
    # The body of a loop is counted once: of procedural ones it says little.
    "mflop_per_image": flops and flops / _RATE_BATCH / 1e6,
  }


def encoder(entry, steps: int, limit: int, environment) -> dict:
  """Trains the quick start's encoder on a generator; returns its accuracies."""
  defaults = {"weights": "", "sha256": "", **entry}
  words = [
    f"--config.generator.{key}={value}" for key, value in defaults.items()
  ]
  words += [
    f"--config.total_steps={steps}",
    "--config.evaluate_every_steps=0",
    f"--config.log_every_steps={max(1, steps // 2)}",
    *(
      f"--config.evaluations.{probe}.{split}_limit={limit}"
      for probe in ("knn", "linear")
      for split in ("train", "test")
    ),
    "--config.report.recorded=",
  ]
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / "run"
    command = [sys.executable, "-m", "genrep_jax.main"]
    command += ["--config", "configs/quickstart.py", "--workdir", str(workdir)]
    done = subprocess.run(
      [*command, *words], env=environment, capture_output=True, text=True
    )
    if done.returncode:
      raise SystemExit(done.stderr)
    summary = json.loads((workdir / "summary.json").read_text())
  wanted = "knn/knn20_accuracy", "linear/linear_accuracy"
  return {name: summary["results"][name] for name in wanted}


def measure(entry, flags) -> dict:
  """Returns the row of one generator."""
  import jax

  from genrep_jax import data
  from genrep_jax.lib import frozen, mesh as mesh_lib
  from genrep_jax.tools import assess_generator

  made = frozen.from_config(entry)
  mesh = mesh_lib.make_mesh()
  variables = jax.device_put(made.variables, mesh_lib.replicated(mesh))
  real = len(data.load({"name": flags.data}).test.labels)
  entries = assess_generator.entries(flags, flags.samples, real)
  generator = made.generator
  if generator.num_classes:
    shared = {key: entries[0][key] for key in ("data", "seed", "epochs")}
    cas = {"name": "cas", "samples": flags.samples, **shared}
    entries.append(cas)
  model = assess_generator.model_of(generator, flags.seed, "scorecard")
  return {
    "label_free": not generator.num_classes,
    "license": str(made.metadata.get("license", "")) or "not said",
    **speed(generator, variables),
    **assess_generator.measure(entries, model, variables, mesh),
    **encoder(entry, flags.steps, flags.limit, dict(os.environ)),
  }


def correlations(rows) -> list[tuple[str, str, float, int]]:
  """Returns (generator's metric, encoder's metric, tau, n) of all pairs.

  Args:
    rows: {generator: {metric: value}}; a metric that one lacks is left out for
      that one.
  """
  import scipy.stats

  names = dict.fromkeys(name for row in rows.values() for name in row)
  of_encoder = [name for name in names if name.startswith(("knn/", "linear/"))]
  found = []
  for one in names:
    for other in of_encoder:
      pairs = [
        (row[one], row[other])
        for row in rows.values()
        if isinstance(row.get(one), float) and other in row
      ]
      if one not in of_encoder and len(pairs) > 2:
        tau = scipy.stats.kendalltau(*zip(*pairs)).statistic
        if not math.isnan(tau):
          found.append((one, other, float(tau), len(pairs)))
  return found


def main() -> None:
  """Prints the scorecard of the command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add("--weights", nargs="*", default=[], help="files that name a generator")
  add("--only", nargs="*", help="rows of the built-in ones")
  add("--data", default="fashion_mnist_mini")
  add("--data_dir")
  add("--samples", type=int, default=2000, help="generated images")
  add("--epochs", type=int, default=3, help="of the classifiers")
  add("--steps", type=int, default=30, help="of the encoders")
  add("--limit", type=int, default=2000, help="of the probes' images")
  add("--seed", type=int, default=0)
  add("--inception", default="", help="file of the FID InceptionV3")
  add("--resize", default="clean")
  add("--out", help="JSON file of the rows; those that it has are kept")
  flags = parser.parse_args()
  out = pathlib.Path(flags.out) if flags.out else None
  rows = json.loads(out.read_text()) if out and out.exists() else {}
  for name, entry in generators(flags.weights).items():
    if flags.only and name not in flags.only:
      continue
    if name not in rows:
      rows[name] = measure(entry, flags)
    print(f"\n{name}")
    for metric, value in rows[name].items():
      shown = f"{value:.4f}" if isinstance(value, float) else value
      print(f"  {metric:<48} {shown}", flush=True)
    if out:
      out.write_text(json.dumps(rows, indent=2))
  print("\nKendall's tau over generators")
  for one, other, tau, count in correlations(rows):
    print(f"  {one:<48} {other:<24} {tau:+.2f}  n = {count}")


if __name__ == "__main__":
  main()

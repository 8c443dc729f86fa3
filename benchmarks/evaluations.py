"""Seconds and memory of the probe and of kNN on raw pixels of RGB images.

`python -m benchmarks.evaluations --sides 32 64 112 --rows 2000 10000` tints the
embedded garments, sets them before clouds of a 1/f spectrum (so that pixels are
correlated as those of photographs are, at full rank), and prints for each size:
f = 3 side^2 features; the seconds of the whole linear probe, from rows on the
host to a model that chose its l2; the iterations and the gradient's length of
its last fit; the accuracies on 2,000 test images; the seconds of kNN; and the
peak memory of the process, the rows alone, and how many times more that is.
Every case runs in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

_TEST_ROWS = 2000


def images(split, count: int, side: int, seed: int) -> np.ndarray:
  """Makes RGB images of garments before clouds.

  Args:
    split: contracts.Split of gray images; taken in turn, each any number of
      times.
    count: how many.
    side: in pixels.
    seed: of tints and clouds.

  Returns:
    float32 [count, 3 side^2], of 0 to 255 rounded to whole numbers.
  """
  from PIL import Image

  random = np.random.default_rng(seed)
  u = np.fft.fftfreq(side)[:, None, None], np.fft.rfftfreq(side)[:, None]
  spectrum = 1 / np.maximum(np.hypot(*u), 1 / side)
  rows = np.empty((count, side, side, 3), np.float32)
  for i, row in enumerate(rows):
    noise = random.normal(size=(side, side, 3)) @ random.normal(size=(3, 3))
    clouds = np.fft.irfft2(
      np.fft.rfft2(noise, axes=(0, 1)) * spectrum, (side, side), axes=(0, 1)
    )
    clouds = 90 + 30 * clouds / clouds.std()
    garment = Image.fromarray(split.images[i % len(split.images), :, :, 0])
    alpha = np.asarray(garment.resize((side, side), Image.Resampling.BICUBIC))
    alpha = alpha[:, :, None] / 255
    row[:] = (1 - alpha) * clouds + alpha * random.uniform(90, 255, 3)
  return rows.clip(0, 255).round().reshape(count, -1)


def measure(side: int, rows: int) -> dict:
  """Runs one case in this process."""
  import jax

  from genrep_jax import data
  from genrep_jax.evaluations import knn, linear
  from genrep_jax.lib import mesh as mesh_lib

  dataset = data.load({"name": "fashion_mnist_mini"})
  train = images(dataset.train, rows, side, 0)
  labels = dataset.train.labels[np.arange(rows) % len(dataset.train.labels)]
  test = images(dataset.test, _TEST_ROWS, side, 1)
  wanted = dataset.test.labels[:_TEST_ROWS]
  mesh = mesh_lib.make_mesh(jax.devices())
  start = time.perf_counter()
  predicted = knn.classify(
    train, labels, test, k=20, temperature=0.07, num_classes=10, mesh=mesh
  )
  middle = time.perf_counter()
  grid = linear.OPTIONS["l2"].default
  model, l2, _ = linear.probe(
    train, labels, num_classes=10, mesh=mesh, l2_grid=grid
  )
  end = time.perf_counter()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
  return {
    "side": side,
    "f": train.shape[1],
    "rows": rows,
    "probe_seconds": end - middle,
    "l2": l2,
    "iterations": model.iterations,
    "gradient_norm": model.gradient_norm,
    "linear_accuracy": linear.accuracy(model, test, wanted),
    "knn_seconds": middle - start,
    "knn_accuracy": float(np.mean(predicted == wanted)),
    "peak_mib": peak / 2**20,
    "rows_mib": train.nbytes / 2**20,
  }


def main():
  """Prints a line for every case."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--sides", type=int, nargs="*", default=[32, 64, 112])
  flags.add_argument("--rows", type=int, nargs="*", default=[2000, 10000])
  flags.add_argument("--case", action="store_true", help="in this process")
  parser, flags = flags, flags.parse_args()
  if min(*flags.sides, *flags.rows) < 20:
    parser.error("--sides, --rows: allowed: integers >= 20")
  if flags.case:
    print(json.dumps(measure(flags.sides[0], flags.rows[0])))
    return
  for rows in flags.rows:
    for side in flags.sides:
      words = ["--sides", str(side), "--rows", str(rows), "--case"]
      command = [sys.executable, "-m", "benchmarks.evaluations", *words]
      done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
      one = json.loads(done.stdout)
      print({k: float(f"{v:.4g}") for k, v in one.items()}, flush=True)


if __name__ == "__main__":
  main()

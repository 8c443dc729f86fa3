"""Memory of InfoNCE and its gradient on a TPU slice, by rows and by chunks.

`python -m benchmarks.contrastive_memory --topology v5e:2x4` compiles the
gradient of `objectives.simclr.loss` for n rows of d = 128, with and without row
chunks, for a slice that is not there, and prints what one device needs at its
peak. Unchunked, a device holds its n / devices rows of the n x n similarities;
in chunks, its part of `chunk_rows` rows.
"""

import argparse
import json
import os
import time


def measure(topology: str, rows: int, dim: int, chunk_rows: int) -> dict:
  """Compiles one gradient; returns what a device needs.

  Args:
    topology: e.g. "v5e:2x4".
    rows: n = b v, with v = 2.
    dim: d.
    chunk_rows: 0: all at once.
  """
  import jax
  import jax.numpy as jnp

  from genrep_jax.lib import hlo, mesh as mesh_lib
  from genrep_jax.objectives import simclr
  from genrep_jax.tools import compile_for

  mesh = mesh_lib.make_mesh(compile_for.topology_devices(topology))
  split = mesh_lib.batch(mesh)

  def loss(z):
    return simclr.loss(z, temperature=0.1, chunk_rows=chunk_rows)

  z = jax.ShapeDtypeStruct((rows // 2, 2, dim), jnp.float32, sharding=split)
  start = time.perf_counter()
  try:
    compiled = (
      jax.jit(
        jax.value_and_grad(loss),
        out_shardings=(mesh_lib.replicated(mesh), split),
      )
      .lower(z)
      .compile()
    )
  except Exception as error:  # a JaxRuntimeError; its class is not public
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed = compile_for.needed_and_available(str(error))
    return {
      "rows": rows,
      "chunk_rows": chunk_rows,
      "fits": False,
      "peak_mib": needed[0] / 2**20 if needed else None,
    }
  costs = hlo.costs(compiled)
  return {
    "rows": rows,
    "chunk_rows": chunk_rows,
    "fits": True,
    "peak_mib": costs["memory_bytes"]["peak"] / 2**20,
    "seconds": time.perf_counter() - start,
  }


def draw(path, found, topology: str, dim: int) -> None:
  """Draws the peaks of what fits against n, on logarithmic axes."""
  from genrep_jax.lib import figures

  series = {}
  for one in found:
    chunk = one["chunk_rows"]
    name = f"chunk_rows = {chunk}" if chunk else "all at once"
    if one["fits"]:
      point = (one["rows"], one["peak_mib"], 0.0)
      series.setdefault(name, []).append(point)
  panel = figures.Panel(
    f"InfoNCE and its gradient, d = {dim}: peak of a {topology} chip",
    "rows n",
    "peak memory, MiB",
    list(series.items()),
    log_x=True,
    log_y=True,
  )
  figures.line_plot(path, panel)


def main():
  """Prints a line per n and chunk, and writes them as JSON and as a plot."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--topology", default="v5e:2x4")
  flags.add_argument(
    "--rows", type=int, nargs="*", default=[4096, 8192, 16384, 32768, 65536]
  )
  flags.add_argument("--dim", type=int, default=128)
  flags.add_argument("--chunk_rows", type=int, default=1024)
  flags.add_argument("--json", help="file to write the numbers to")
  flags.add_argument("--plot", help="SVG file to draw them in")
  flags = flags.parse_args()
  from genrep_jax.tools import compile_for

  for name, value in compile_for._ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  os.environ["JAX_PLATFORMS"] = "cpu"
  found = []
  for rows in flags.rows:
    for chunk_rows in (0, flags.chunk_rows):
      found.append(measure(flags.topology, rows, flags.dim, chunk_rows))
      print(found[-1], flush=True)
  if flags.json:
    with open(flags.json, "w") as file:
      json.dump(found, file, indent=1)
  if flags.plot:
    draw(flags.plot, found, flags.topology, flags.dim)


if __name__ == "__main__":
  main()

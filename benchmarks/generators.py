"""Costs of the published generators: counted, compiled for a TPU, or timed.

`python -m benchmarks.generators` counts parameters, FLOPs and bytes of one
image as XLA compiles it here, runs one image with random weights, and compares
bfloat16 with float32 (peak signal-to-noise ratio, peak 2).
`--topology v5e:2x4 --batch 64` compiles each model for a TPU slice that is not
there instead. `--time` measures images per second on the devices that are
there, float32 and bfloat16, beside the rate of a large matrix product.
"""

import argparse
import json
import math
import os
import statistics
import time

MODELS = {
  "biggan_deep 128": ("biggan_deep", {"resolution": 128}),
  "biggan_deep 256": ("biggan_deep", {"resolution": 256}),
  "biggan_deep 512": ("biggan_deep", {"resolution": 512}),
  "bigbigan 128": ("bigbigan", {}),
  "stylegan2 256": ("stylegan2", {"resolution": 256}),
  "stylegan2 256, half width": (
    "stylegan2",
    {"resolution": 256, "channel_base": 16384},
  ),
  "stylegan2 512": ("stylegan2", {"resolution": 512}),
  "stylegan2 1024": ("stylegan2", {"resolution": 1024}),
  "dcgan 64": ("dcgan", {}),
  "small 28": ("small", {}),
}
_REPEATS = 5
_MATMUL = 8192


def entry_of(label):
  """Returns a model's entry of a config, complete."""
  from genrep_jax.lib import plugins

  name, options = MODELS[label]
  return plugins.defaults("generators", name) | options


def make(entry, precision="float32"):
  """Makes the generator of an entry."""
  import jax.numpy as jnp

  from genrep_jax.lib import plugins

  return plugins.make("generators", entry, dtype=jnp.dtype(precision))


def arguments_of(generator, batch, sharding=None, whole=None):
  """Returns abstract (variables, z, y) of a batch."""
  import jax
  import jax.numpy as jnp

  def abstract(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  variables = jax.tree.map(
    lambda x: abstract(x.shape, x.dtype, whole),
    jax.eval_shape(generator.init, jax.random.key(0)),
  )
  z = abstract((batch, generator.latent_dim), jnp.float32, sharding)
  return variables, z, abstract((batch,), jnp.int32, sharding)


def parameters(entry, variables) -> int:
  """Returns the published parameter count, or that of our variables."""
  from genrep_jax.lib import plugins, trees

  module = plugins.resolve("generators", entry["name"])
  converter = plugins.hook("generators", module, "CONVERTER")
  if converter and converter.parameters:
    return converter.parameters(entry)
  return trees.parameter_count(variables)


def without_slice(entry, variables):
  """FLOPs of BigGAN-deep as released: `ch` RGB outputs, of which 3 are kept."""
  import jax
  import jax.numpy as jnp

  from genrep_jax.generators import biggan_deep

  layer = variables["to_rgb"]
  wide = {
    leaf: jax.ShapeDtypeStruct((*x.shape[:-1], entry["ch"]), x.dtype)
    for leaf, x in layer.items()
  }

  def apply(variables, z, y):
    run = biggan_deep.activations(entry, jnp.float32, variables, z, y)
    *_, (_, images) = run
    return images[..., :3]

  _, z, y = arguments_of(make(entry), 1)
  lowered = jax.jit(apply).lower(variables | {"to_rgb": wide}, z, y)
  return lowered.compile().cost_analysis()["flops"]


def count(label) -> dict:
  """Counts, runs one image, and compares the two precisions."""
  import jax
  import numpy as np

  entry = entry_of(label)
  generator = make(entry)
  abstract = arguments_of(generator, 1)
  compiled = jax.jit(generator.apply).lower(*abstract).compile()
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  row = {
    "parameters": parameters(entry, abstract[0]),
    "gflop": cost["flops"] / 1e9,
    "mbytes": cost["bytes accessed"] / 1e6,
    "weights_mib": memory.argument_size_in_bytes / 2**20,
    "temporary_mib": memory.temp_size_in_bytes / 2**20,
  }
  if entry["name"] == "biggan_deep":
    row["gflop_unsliced"] = without_slice(entry, abstract[0]) / 1e9
  variables = jax.jit(generator.init)(jax.random.key(0))
  z, y = jax.vmap(generator.sample)(jax.random.split(jax.random.key(1), 1))
  z = generator.latents(variables, z, y)
  start = time.perf_counter()
  images = np.asarray(compiled(variables, z, y))
  row["seconds"] = time.perf_counter() - start
  assert np.isfinite(images).all()
  short = make(entry, "bfloat16")
  rounded = np.asarray(jax.jit(short.apply)(variables, z, y))
  error = float(np.mean((rounded - images) ** 2))
  row["bf16_psnr_db"] = 10 * math.log10(4 / error)
  return row


def compile_for_slice(label, topology, batch, precision) -> dict:
  """Compiles a batch for a TPU slice; says what one device needs."""
  import jax

  from genrep_jax.lib import hlo, mesh as mesh_lib
  from genrep_jax.tools import compile_for

  mesh = mesh_lib.make_mesh(compile_for.topology_devices(topology))
  generator = make(entry_of(label), precision)
  split, whole = mesh_lib.batch(mesh), mesh_lib.replicated(mesh)
  abstract = arguments_of(generator, batch, split, whole)
  jitted = jax.jit(generator.apply, out_shardings=split)
  start = time.perf_counter()
  try:
    costs = hlo.costs(jitted.lower(*abstract).compile())
  except Exception as error:  # a JaxRuntimeError; its class is not public
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed = compile_for.needed_and_available(str(error)) or (math.nan, 0)
    return {"fits": False, "peak_mib": needed[0] / 2**20}
  return {
    "fits": True,
    "peak_mib": costs["memory_bytes"]["peak"] / 2**20,
    "gflop_per_image": costs["flops"] / 1e9 / (batch / mesh.devices.size),
    "collectives": sum(c["count"] for c in costs["collectives"].values()),
    "compile_seconds": time.perf_counter() - start,
  }


def matmul_rate(dtype) -> float:
  """Measures the TFLOP/s of a large square matrix product."""
  import jax
  import jax.numpy as jnp

  size = _MATMUL if jax.default_backend() != "cpu" else _MATMUL // 8
  x = jnp.ones((size, size), dtype)
  product = jax.jit(lambda x: x @ x)
  return 2 * size**3 / median_seconds(lambda: product(x)) / 1e12


def median_seconds(function) -> float:
  """Returns the median time of a call, its first ones left out."""
  import jax

  for _ in range(2):
    jax.block_until_ready(function())
  seconds = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(function())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def timed(label, batch, precision) -> dict:
  """Measures images per second of one device at a batch."""
  import jax
  import jax.numpy as jnp

  from genrep_jax.lib import frozen

  made = frozen.from_config(entry_of(label), dtype=jnp.dtype(precision))
  generator, variables = made.generator, jax.device_put(made.variables)
  keys = jax.random.split(jax.random.key(1), batch)
  z, y = jax.jit(jax.vmap(generator.sample))(keys)
  z = generator.latents(variables, z, y)
  compiled = jax.jit(generator.apply).lower(variables, z, y).compile()
  seconds = median_seconds(lambda: compiled(variables, z, y))
  flops = compiled.cost_analysis().get("flops", math.nan)
  if flops <= 0 or not math.isfinite(flops):  # a GPU's compiler may not say
    flops = math.nan
  return {
    "batch": batch,
    "images_per_second": batch / seconds,
    "tflops": flops / seconds / 1e12,
  }


def table(rows):
  """Prints a markdown table of {label: {column: value}}."""
  columns = list(dict.fromkeys(c for row in rows.values() for c in row))
  print("| model | " + " | ".join(columns) + " |")
  print("|---" * (len(columns) + 1) + "|")

  def text(value):
    if isinstance(value, float):
      return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)

  for label, row in rows.items():
    cells = [text(row.get(column, "")) for column in columns]
    print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def main():
  """Runs the chosen measurement over the chosen models."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--models", nargs="*", default=list(MODELS))
  flags.add_argument("--topology", help="of a TPU slice, e.g. v5e:2x4")
  flags.add_argument("--time", action="store_true")
  flags.add_argument("--batch", type=int, nargs="*", default=[64])
  flags.add_argument("--precision", default="bfloat16")
  flags.add_argument("--json", help="write the rows to this file")
  flags = flags.parse_args()
  if flags.topology:
    from genrep_jax.tools import compile_for

    for name, value in compile_for._ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    os.environ["JAX_PLATFORMS"] = "cpu"
  import jax

  rows = {}
  if flags.topology:
    for label in flags.models:
      rows[label] = compile_for_slice(
        label, flags.topology, flags.batch[0], flags.precision
      )
      print(label, rows[label], flush=True)
  elif flags.time:
    for precision in ("float32", "bfloat16"):
      rate = matmul_rate(precision)
      print(f"{precision} matrix product: {rate:.3g} TFLOP/s", flush=True)
      for label, batch in ((m, b) for m in flags.models for b in flags.batch):
        row = timed(label, batch, precision)
        row["share_of_matmul"] = row["tflops"] / rate
        rows[f"{label}, {precision}, {batch}"] = row
        print(label, precision, row, flush=True)
  else:
    for label in flags.models:
      rows[label] = count(label)
      print(label, rows[label], flush=True)
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
  table(rows)
  if flags.json:
    with open(flags.json, "w") as file:
      json.dump(rows, file, indent=1)


if __name__ == "__main__":
  main()

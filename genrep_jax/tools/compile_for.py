"""Compiles an experiment's real step for a TPU slice that is not there.

`python -m genrep_jax.tools.compile_for --topology v5e:2x4 --config FILE` says
what one device of the slice would need: memory, and whether it fits; FLOPs;
and every collective by kind and by what it carries. `--program render` compiles
only the generator's share of the step. Needs the compiler only (`pip install
-e '.[tpu]'`), no TPU. Exit code 1: it does not fit.
"""

import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import time

from genrep_jax.lib import errors, files
from genrep_jax.tools import _cli, _collectives

EXIT_TOO_LARGE = 1
EXAMPLES = "v2:2x2 v3:2x2 v4:2x2x1 v5e:2x4 v5e:4x4 v5p:2x2x1 v6e:2x4 v6e:16x16"
# Memory of one JAX device in GiB, by its kind (Google's system architecture
# pages); the compiler keeps a little for itself, so it has the last word.
HBM_GIB = {
  "TPU v2": 8,
  "TPU v3": 16,
  "TPU v4": 32,
  "TPU v5 lite": 16,
  "TPU v5": 95,
  "TPU v6 lite": 32,
}
# libtpu asks the machine it is on for these; there is none to ask.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Cloud accelerator types count chips (v5e, v6e) or cores (all others).
_BY_CHIPS = {
  1: "1x1",
  4: "2x2",
  8: "2x4",
  16: "4x4",
  32: "4x8",
  64: "8x8",
  128: "8x16",
  256: "16x16",
}
_BY_CORES_2D = {8: "2x2", 32: "4x4", 128: "8x8", 512: "16x16", 2048: "32x32"}
_BY_CORES_3D = {
  8: "2x2x1",
  16: "2x2x2",
  32: "2x2x4",
  64: "2x4x4",
  128: "4x4x4",
  256: "4x4x8",
  512: "4x8x8",
  1024: "8x8x8",
}
_ACCELERATORS = {
  "v2": _BY_CORES_2D,
  "v3": _BY_CORES_2D,
  "v4": _BY_CORES_3D,
  "v5p": _BY_CORES_3D,
  "v5e": _BY_CHIPS,
  "v6e": _BY_CHIPS,
}
_USED = (  # the compiler's two ways to say that memory ran out
  re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
  re.compile(
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
  ),
)


def parse_topology(text: str) -> tuple[str, dict]:
  """Turns a user's spelling of a slice into the compiler's.

  Args:
    text: "v5e:2x4" (chips along each side), or an accelerator type of Google
      Cloud: "v5litepod-8", "v4-16".

  Returns:
    (topology name, options), for which every device is what JAX shows on such
    a slice: one per chip from v4 on.

  Raises:
    UsageError: no such spelling.
  """
  given = text.strip().lower()
  name = given.replace("v5litepod", "v5e").replace("v5lite", "v5e")
  kind, dash, count = name.partition("-")
  if dash:
    sides = _ACCELERATORS.get(kind, {})
    if not count.isdigit() or int(count) not in sides:
      known = ", ".join(f"{kind}-{n}" for n in sides) or EXAMPLES
      raise errors.UsageError(f"topology: unknown {text!r}; known: {known}")
    name = f"{kind}:{sides[int(count)]}"
  if not re.fullmatch(r"[a-z0-9]+:\d+x\d+(x\d+)?", name):
    raise errors.UsageError(
      f"topology: {text!r} is not GENERATION:SIDExSIDE; examples: {EXAMPLES}"
    )
  options = {}
  if name.startswith("v4:"):
    options["chip_config_name"] = "megacore"  # a device is a chip, not a core
  if math.prod(map(int, name.split(":")[1].split("x"))) == 1:
    options["chips_per_host_bounds"] = [1, 1, 1]
  return name, options


def topology_devices(text: str):
  """Returns the devices of a slice that is not there.

  Raises:
    UsageError: libtpu is missing, or does not know the slice.
  """
  name, options = parse_topology(text)
  if importlib.util.find_spec("libtpu") is None:
    raise errors.UsageError(
      "libtpu, the TPU compiler, is not installed: pip install -e '.[tpu]'"
    )
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    ).devices
  except Exception as error:  # a JaxRuntimeError; its class is not public
    reason = str(error).splitlines()[0]
    raise errors.UsageError(
      f"topology: the compiler refuses {text!r}: {reason}; examples: {EXAMPLES}"
    ) from error


def lower_step(run):
  """Lowers one step of a run's program; returns (lowered, Shapes or None).

  Shapes are None for a game, whose collectives have other names.
  """
  from genrep_jax.lib import execution

  program = run.program
  state, frozen = execution.abstract(program)
  lowered = execution.jit(program).lower(state, frozen)
  if "encode" not in program.stages:
    return lowered, None
  return lowered, _collectives.Shapes.of(state, program)


def lower_render(run):
  """Lowers the rendering of one step's views; returns (lowered, Shapes).

  Args:
    run: a Run; of its config only what concerns the generator counts.
  """
  import jax
  import jax.numpy as jnp

  from genrep_jax.lib import chunked, frozen, mesh as mesh_lib

  entry, mesh = run.config.generator, run.mesh
  generator, variables = frozen.abstract(entry, dtype=run.dtype)
  split, whole = mesh_lib.batch(mesh), run.replicated

  def abstract(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  variables = jax.tree.map(
    lambda x: abstract(x.shape, x.dtype, whole), variables
  )
  b, v = run.batch, run.config.views.num_views
  z = abstract((b, v, generator.latent_dim), jnp.float32, split)
  y = abstract((b,), jnp.int32, split)

  def render(variables, z, y):
    return chunked.render(
      generator,
      variables,
      z,
      y,
      devices=mesh.devices.size,
      chunk=entry.render_chunk,
    )

  jitted = jax.jit(render, out_shardings=split)
  lowered = jitted.lower(variables, z, y)
  none = frozenset()
  return lowered, _collectives.Shapes(none, none, b * v)


def analyse(lower) -> dict:
  """Compiles what `lower()` returns, (lowered, Shapes or None).

  Returns:
    lib.hlo.costs, and "lower_seconds", "compile_seconds", "by_purpose" (None
    without Shapes), "unexplained": op names.
  """
  from genrep_jax.lib import hlo

  start = time.perf_counter()
  lowered, shapes = lower()
  lowered_at = time.perf_counter()
  compiled = lowered.compile()
  done = time.perf_counter()
  result = {
    **hlo.costs(compiled),
    "lower_seconds": lowered_at - start,
    "compile_seconds": done - lowered_at,
    "by_purpose": None,
    "unexplained": [],
  }
  if shapes:
    found = hlo.collectives(compiled.as_text())
    result["by_purpose"] = _collectives.by_purpose(found, shapes)
    result["unexplained"] = _collectives.unexplained(found, shapes)
  return result


def needed_and_available(message: str) -> tuple[float, float] | None:
  """Reads (needed, available) bytes from a compiler's out-of-memory error."""
  scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  for pattern in _USED:
    found = pattern.search(message)
    if found:
      needed, a, available, b = found.groups()
      return float(needed) * scale[a], float(available) * scale[b]
  return None


def _compile(lower) -> dict:
  """`analyse`, with "fits"; a program that is too large is a result, too."""
  try:
    return {"fits": True, **analyse(lower)}
  except Exception as error:  # a JaxRuntimeError; its class is not public
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed, available = needed_and_available(str(error)) or (None, None)
    return {
      "fits": False,
      "needed_bytes": needed,
      "available_bytes": available,
      "reason": str(error).splitlines()[0],
    }


def _print(result, device_kind):
  from genrep_jax.lib import hlo

  hbm = HBM_GIB.get(device_kind)
  nominal = f"{hbm} GiB {device_kind}" if hbm else device_kind
  if not result["fits"]:
    if result["needed_bytes"] is None:
      print(f"fits            no: {result['reason']}")
    else:
      print(
        f"fits            no: it needs {hlo.size(result['needed_bytes'])} of "
        f"the {hlo.size(result['available_bytes'])} that a program has on a "
        f"{nominal}"
      )
    return
  peak = result["memory_bytes"]["peak"]
  share = f", {100 * peak / (hbm * 2**30):.1f} %" if hbm else ""
  print(hlo.format_costs(result))
  for i, (what, row) in enumerate((result["by_purpose"] or {}).items()):
    head = "" if i else "of these"
    print(
      f"{head:<15} {what:<36} {row['arrays']:>4} arrays  "
      f"{hlo.size(row['bytes']):>10}"
    )
  for line in result["unexplained"]:
    print(f"unexplained     {line}")
  print(
    f"compiled in     {result['compile_seconds']:.1f} s "
    f"(traced in {result['lower_seconds']:.1f} s)"
  )
  print(f"fits            yes: {hlo.size(peak)} of a {nominal}{share}")


def main(argv) -> int:
  """Runs the command; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.compile_for", __doc__)
  _cli.add_config(arguments)
  arguments.add_argument(
    "--topology",
    required=True,
    help=f"the slice: {EXAMPLES}; or its type in Google Cloud: v5litepod-8",
  )
  arguments.add_argument(
    "--program",
    default="step",
    choices=("step", "render"),
    help="the whole step, or the rendering of its views alone",
  )
  arguments.add_argument("--json", metavar="FILE", help="write the numbers too")
  flags, overrides = _cli.parse(arguments, argv)
  parse_topology(flags.topology)
  if flags.json and not pathlib.Path(flags.json).absolute().parent.is_dir():
    raise errors.UsageError(f"--json: no such folder for {flags.json!r}")
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  os.environ["JAX_PLATFORMS"] = "cpu"  # or JAX would look for a TPU here
  import jax

  from genrep_jax.lib import configs, environment, mesh as mesh_lib
  from genrep_jax.run import Run

  environment.pin()
  # The persistent cache does not serve these compilations.
  jax.config.update("jax_enable_compilation_cache", False)
  config = configs.load(flags.config, overrides)
  devices = topology_devices(flags.topology)
  run = Run(config, mesh_lib.make_mesh(devices))
  if flags.program == "step":
    images = run.program.images_per_step
    lower = functools.partial(lower_step, run)
  else:
    images = config.global_batch * config.views.num_views
    lower = functools.partial(lower_render, run)
  kind = devices[0].device_kind
  hosts = len({device.process_index for device in devices})
  print(
    f"experiment      {config.title}, {config.global_batch} anchors, "
    f"{images} images a step, {config.precision}\n"
    f"program         {flags.program}\n"
    f"slice           {flags.topology}: {len(devices)} devices ({kind}), "
    f"{hosts} host(s) as the compiler counts them",
    flush=True,
  )
  result = _compile(lower)
  _print(result, kind)
  if flags.json:
    about = {
      "program": flags.program,
      "topology": flags.topology,
      "devices": len(devices),
      "device_kind": kind,
      "hbm_gib": HBM_GIB.get(kind),
      "config": json.loads(config.to_json_best_effort()),
    }
    text = json.dumps({**about, **result}, indent=1)
    files.write_text(flags.json, text + "\n")
  return errors.EXIT_OK if result["fits"] else EXIT_TOO_LARGE


if __name__ == "__main__":
  _cli.run(main)

"""Compiles an experiment's real step for a TPU slice that is not there.

`python -m genrep_jax.tools.compile_for --topology v5e:2x4 --config FILE` says
what one device of the slice would need: memory, and whether it fits; FLOPs;
and every collective by kind and by what it carries. Needs the compiler only
(`pip install -e '.[tpu]'`), no TPU. Exit code 1: it does not fit.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import time

from genrep_jax.lib import errors
from genrep_jax.tools import _cli

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


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes by which the arrays of collectives are told apart.

  Attributes:
    params: dimensions, sorted and without ones, of every parameter.
    batch_stats: the same of every running statistic of a batch norm.
    rows: n = b*v.
  """

  params: frozenset[tuple[int, ...]]
  batch_stats: frozenset[tuple[int, ...]]
  rows: int

  @classmethod
  def of(cls, state, program) -> "Shapes":
    """Reads them from an abstract training state."""
    import jax

    def dims(tree):
      return frozenset(_plain(x.shape) for x in jax.tree.leaves(tree))

    return cls(
      dims(state.params), dims(state.batch_stats), program.images_per_step
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


def _plain(shape) -> tuple[int, ...]:
  """A shape up to transposition and axes of length one."""
  return tuple(sorted(d for d in shape if d != 1))


def purpose(kind, buffer, stages, shapes: Shapes) -> str:
  """Says what one array of a collective carries, by its size and its stage.

  Args:
    kind: the collective's.
    buffer: lib.hlo.Buffer.
    stages: the collective's (stage, backward) pairs; a combined collective
      names those of all its arrays.
    shapes: of the program.

  Returns:
    "embeddings": rows of the loss, [n d] or [n], gathered; or their gradient,
      on its way back.
    "batch-norm statistics": sums over the batch per channel, forward; and
      backward the same sums' gradients, which are also those of the batch
      norm's own scale and bias: the same shape, combined by the compiler.
    "gradients": of any other parameter.
    "scalars": the loss and what is measured beside it.
    "unexplained": anything else.
  """
  dims = _plain(buffer.shape)
  names = {stage for stage, _ in stages}
  backward = any(back for _, back in stages)
  if not dims:
    return "scalars" if names <= {"loss", "encode", "update"} else "unexplained"
  if "loss" in names and shapes.rows in (buffer.shape and _products(dims)):
    # A parameter may be as large as the embeddings; it is never scattered.
    if (
      kind == "all-gather"
      or backward
      and (kind == "reduce-scatter" or dims not in shapes.params)
    ):
      return "embeddings"
  if kind != "all-reduce":
    return "unexplained"
  if dims in shapes.batch_stats and "encode" in names:
    return "batch-norm statistics"
  if dims in shapes.params and backward:
    return "gradients"
  return "unexplained"


def _products(dims) -> set[int]:
  """Products of some of the dimensions: [b v d] has n = b*v rows."""
  found = {1}
  for d in dims:
    found |= {p * d for p in found}
  return found


def by_purpose(found, shapes: Shapes) -> dict[str, dict[str, int]]:
  """Sums the arrays of collectives: {"purpose, kind": {"arrays", "bytes"}}.

  Args:
    found: lib.hlo.Collective's.
    shapes: of the program.
  """
  table = {}
  for one in found:
    for buffer in one.buffers:
      what = purpose(one.kind, buffer, one.stages, shapes)
      row = table.setdefault(f"{what}, {one.kind}", {"arrays": 0, "bytes": 0})
      row["arrays"] += 1
      row["bytes"] += buffer.bytes * (one.repeats or 1)
  return dict(sorted(table.items()))


def analyse(program, mesh) -> dict:
  """Compiles one step of a program for the devices of a mesh.

  Args:
    program: contracts.Program, built for that mesh.
    mesh: its devices need not be present.

  Returns:
    lib.hlo.costs, and "lower_seconds", "compile_seconds", "by_purpose" (None
    for a game, whose collectives have other names), "op_names" of what is
    unexplained.
  """
  from genrep_jax import state as state_lib, step as step_lib
  from genrep_jax.lib import hlo

  state, frozen = state_lib.abstract(program, mesh)
  start = time.perf_counter()
  lowered = step_lib.jit(program, mesh).lower(state, frozen)
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
  if isinstance(state, state_lib.TrainState):
    shapes = Shapes.of(state, program)
    found = hlo.collectives(compiled.as_text())
    result["by_purpose"] = by_purpose(found, shapes)
    result["unexplained"] = [
      f"{one.kind} {buffer.dtype}{list(buffer.shape)} {one.op_name}"
      for one in found
      for buffer in one.buffers
      if purpose(one.kind, buffer, one.stages, shapes) == "unexplained"
    ]
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


def _compile(program, mesh) -> dict:
  """`analyse`, with "fits"; a program that is too large is a result, too."""
  try:
    return {"fits": True, **analyse(program, mesh)}
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
  arguments.add_argument("--json", metavar="FILE", help="write the numbers too")
  flags, overrides = _cli.parse(arguments, argv)
  parse_topology(flags.topology)
  if flags.json and not pathlib.Path(flags.json).absolute().parent.is_dir():
    raise errors.UsageError(f"--json: no such folder for {flags.json!r}")
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  os.environ["JAX_PLATFORMS"] = "cpu"  # or JAX would look for a TPU here
  import jax

  from genrep_jax.lib import configs, mesh as mesh_lib
  from genrep_jax.tools import _session

  # The persistent cache does not serve these compilations.
  jax.config.update("jax_enable_compilation_cache", False)
  config = configs.load(flags.config, overrides)
  devices = topology_devices(flags.topology)
  mesh = mesh_lib.make_mesh(devices)
  program = _session.build(config, mesh)
  kind = devices[0].device_kind
  hosts = len({device.process_index for device in devices})
  print(
    f"experiment      {config.title}, {config.global_batch} anchors, "
    f"{program.images_per_step} images a step, {config.precision}\n"
    f"slice           {flags.topology}: {len(devices)} devices ({kind}), "
    f"{hosts} host(s) as the compiler counts them",
    flush=True,
  )
  result = _compile(program, mesh)
  _print(result, kind)
  if flags.json:
    about = {
      "topology": flags.topology,
      "devices": len(devices),
      "device_kind": kind,
      "hbm_gib": HBM_GIB.get(kind),
      "config": json.loads(config.to_json_best_effort()),
    }
    text = json.dumps({**about, **result}, indent=1)
    pathlib.Path(flags.json).write_text(text + "\n")
  return errors.EXIT_OK if result["fits"] else EXIT_TOO_LARGE


if __name__ == "__main__":
  _cli.run(main)

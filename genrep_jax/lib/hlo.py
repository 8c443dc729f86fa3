"""Reads what a compiled program costs: memory, FLOPs, collectives.

The collectives are read from the text of the optimized HLO module, which is
the same language on CPU, GPU and TPU: so the communication of a pod can be
tested on eight fake CPU devices.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# The stages of the step: the `jax.named_scope`s that op names begin with.
STAGES = ("sample", "render", "augment", "encode", "loss", "update")
KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
_SPLIT_KINDS = {f"{kind}-start": kind for kind in KINDS}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')


class Buffer(NamedTuple):
  """One array of a collective: dtype as HLO spells it ("f32"), and shape."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    """Size in bytes, without padding."""
    return math.ceil(self.size * _bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation, as each device runs it.

  Attributes:
    kind: one of KINDS. A TPU's all-reduce fused with the slice that follows
      it is the reduce-scatter it amounts to.
    operands: what one device puts in.
    results: what one device gets out.
    op_name: the named scopes and primitives it comes from; several are joined
      by ":" where the compiler merged operations. Empty when it lost them.
    repeats: how often one call of the program runs it: more than once inside
      a loop of known length, None inside one of unknown length.
  """

  kind: str
  operands: tuple[Buffer, ...]
  results: tuple[Buffer, ...]
  op_name: str
  repeats: int | None = 1

  @property
  def buffers(self) -> tuple[Buffer, ...]:
    """The larger side: whole arrays rather than one device's part."""
    return max(self.operands, self.results, key=_total)

  @property
  def bytes(self) -> int:
    """Bytes of the larger side, over all repeats (unknown counts as one)."""
    return _total(self.buffers) * (self.repeats or 1)

  @property
  def stages(self) -> frozenset[tuple[str, bool]]:
    """(stage, whether backward) of each operation merged into this one."""
    return stages(self.op_name)


class _Instruction(NamedTuple):
  computation: str
  name: str
  root: bool
  shapes: tuple[Buffer, ...]
  opcode: str
  operands: tuple[str, ...]
  text: str


def _bits(dtype: str) -> int:
  if dtype == "pred":
    return 8
  digits = re.search(r"\d+", dtype)  # f8e4m3fn -> 8; token, opaque -> none
  return int(digits.group()) if digits else 0


def _total(buffers: Iterable[Buffer]) -> int:
  return sum(buffer.bytes for buffer in buffers)


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[i], 0)
    if not depth:
      return i
  return len(text) - 1


def _shapes(text: str) -> tuple[Buffer, ...]:
  text = re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", text)  # layouts, /*index=5*/
  return tuple(
    Buffer(dtype, tuple(int(re.sub("[<=]", "", d)) for d in dims.split(",")))
    if dims
    else Buffer(dtype, ())
    for dtype, dims in _ARRAY.findall(text)
  )


def _parse(text: str) -> list[_Instruction]:
  """Splits a module into instructions; what is no instruction is skipped."""
  found, computation = [], ""
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header and not _NAME.match(line):
      computation = header.group(2)
      continue
    name = _NAME.match(line)
    if not name:
      continue
    start = name.end()
    if line[start : start + 1] == "(":
      end = _closing(line, start) + 1
    else:
      end = line.find(" ", start)
    opcode = _OPCODE.match(line, end) if end > 0 else None
    if not opcode:
      continue
    close = _closing(line, opcode.end() - 1)
    operands = re.findall(r"%([\w.\-]+)", line[opcode.end() : close])
    found.append(
      _Instruction(
        computation,
        name.group(2),
        bool(name.group(1)),
        _shapes(line[start:end]),
        opcode.group(1),
        tuple(operands),
        line[close:],
      )
    )
  return found


class _Module:
  """The instructions of a module, and who calls which computation."""

  def __init__(self, text: str):
    self.instructions = _parse(text)
    self.shapes, self.roots, self.callers, self.done = {}, {}, {}, {}
    for it in self.instructions:
      self.shapes[it.computation, it.name] = it.shapes
      if it.root:
        self.roots[it.computation] = it
      for attribute, called in _CALLED.findall(it.text):
        self.callers.setdefault(called, (attribute, it))
      if it.opcode.endswith("-done") and it.operands:
        self.done[it.computation, it.operands[0]] = it

  def repeats(self, computation: str) -> int | None:
    """How often a computation runs in one call of the program."""
    total, seen = 1, set()
    while computation in self.callers and computation not in seen:
      seen.add(computation)
      attribute, caller = self.callers[computation]
      if attribute in ("body", "condition"):
        trips = _TRIPS.search(caller.text)
        if not trips:
          return None
        total *= int(trips.group(1))
      computation = caller.computation
    return total

  def op_name(self, it: _Instruction) -> str:
    """Its op name, or that of the fusion it is in."""
    for _ in range(8):
      name = _OP_NAME.search(it.text)
      if name:
        return name.group(1)
      if it.computation not in self.callers:
        break
      it = self.callers[it.computation][1]
    return ""

  def collective(self, it: _Instruction) -> Collective:
    """Describes an instruction whose opcode is a collective's."""
    kind = _SPLIT_KINDS.get(it.opcode, it.opcode)
    operands = sum(
      (self.shapes.get((it.computation, name), ()) for name in it.operands), ()
    )
    results = it.shapes
    if it.opcode in _SPLIT_KINDS:  # its own shape holds operands and contexts
      end = self.done.get((it.computation, it.name))
      results = end.shapes if end else results[len(operands) :]
    # A TPU's fusion of an all-reduce and a slice is called all-reduce-scatter.
    if it.computation.startswith("all-reduce-scatter"):
      kind, results = "reduce-scatter", self.roots[it.computation].shapes
    return Collective(
      kind, operands, results, self.op_name(it), self.repeats(it.computation)
    )


def collectives(text: str) -> list[Collective]:
  """Lists the collectives of an optimized HLO module, in its order.

  An asynchronous pair (-start, -done) is one collective, and so are the copies
  of one (the same channel) in the computations of an asynchronous fusion.

  Args:
    text: `jax.stages.Compiled.as_text()`.

  Returns:
    What each device takes part in; empty for a program of one device.
  """
  module = _Module(text)
  found, channels = [], set()
  for it in module.instructions:
    if it.opcode not in KINDS and it.opcode not in _SPLIT_KINDS:
      continue
    channel = _CHANNEL.search(it.text)
    key = channel and channel.group(1)
    if key and key in channels:
      continue
    channels.add(key)
    found.append(module.collective(it))
  return found


def stages(op_name: str, known=STAGES) -> frozenset[tuple[str, bool]]:
  """Finds the stages in an op name, "jit(f)/transpose(jvp(encode))/conv/add".

  Args:
    op_name: the metadata of an instruction.
    known: names of the stages.

  Returns:
    Set of (stage, whether it is the backward pass).
  """
  words = "|".join(known)
  found = re.findall(rf"(transpose\()?(?:jvp\()?\b({words})\b", op_name)
  return frozenset((stage, bool(backward)) for backward, stage in found)


def by_kind(found: Iterable[Collective]) -> dict[str, dict[str, int]]:
  """Sums collectives: {kind: {"count", "buffers", "bytes"}}.

  `count` is of operations in the program, `buffers` of the arrays in them (the
  compiler combines small ones), `bytes` of their larger side over all repeats.
  """
  table = {}
  for one in found:
    row = table.setdefault(one.kind, {"count": 0, "buffers": 0, "bytes": 0})
    row["count"] += 1
    row["buffers"] += len(one.buffers)
    row["bytes"] += one.bytes
  return dict(sorted(table.items()))


def costs(compiled) -> dict:
  """Says what one call of a compiled program costs one device.

  Args:
    compiled: `jax.jit(...).lower(...).compile()`.

  Returns:
    {"memory_bytes": {"arguments", "outputs", "aliased", "temporaries",
    "code", "peak"}, "flops": per call, or None where the compiler does not
    say, "collectives": as `by_kind`}. Aliased outputs reuse donated arguments.
    The compiler counts the body of a loop once, however often it runs.
  """
  memory = compiled.memory_analysis()
  analysis = compiled.cost_analysis() or {}
  if isinstance(analysis, list):  # one per program, in some versions
    analysis = analysis[0] if analysis else {}
  flops = analysis.get("flops")
  peak = memory.peak_memory_in_bytes
  if peak < memory.temp_size_in_bytes:  # the CPU's compiler leaves them out
    peak = (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
      + memory.temp_size_in_bytes
    )
  return {
    "memory_bytes": {
      "arguments": memory.argument_size_in_bytes,
      "outputs": memory.output_size_in_bytes,
      "aliased": memory.alias_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "code": memory.generated_code_size_in_bytes,
      "peak": peak,
    },
    "flops": flops if flops and flops > 0 else None,
    "collectives": by_kind(collectives(compiled.as_text())),
  }


def size(count: float) -> str:
  """Writes a number of bytes: 1536 -> "1.5 KiB"."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if abs(count) < 1024 or unit == "GiB":
      return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
    count /= 1024
  raise AssertionError("unreachable")


def format_costs(cost: Mapping) -> str:
  """Writes `costs` as lines for a person."""
  memory = cost["memory_bytes"]
  flops = cost["flops"]
  lines = [
    "memory/device   "
    + ", ".join(
      f"{name} {size(memory[name])}"
      for name in ("arguments", "outputs", "temporaries", "code", "peak")
    ),
    f"                (outputs include {size(memory['aliased'])} that reuse "
    "donated arguments)",
    "FLOPs/device    "
    + (f"{flops / 1e9:.3f} G a call" if flops else "not told by this compiler"),
  ]
  if not cost["collectives"]:
    lines.append("collectives     none")
  for i, (kind, row) in enumerate(cost["collectives"].items()):
    head = "" if i else "collectives"
    lines.append(
      f"{head:<15} {kind:<20} {row['count']:>4} of {row['buffers']:>4} "
      f"arrays  {size(row['bytes']):>10}"
    )
  return "\n".join(lines)


def describe(compiled) -> str:
  """Says in a few lines what one call of a compiled program costs a device."""
  return format_costs(costs(compiled))

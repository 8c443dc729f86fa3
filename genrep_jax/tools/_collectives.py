"""What each collective of a compiled training step is for."""

import dataclasses


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
    "labels": of all rows, whole numbers, for the loss to compare.
    "scalars": the loss and what is measured beside it.
    "unexplained": anything else.
  """
  dims = _plain(buffer.shape)
  names = {stage for stage, _ in stages}
  backward = any(back for _, back in stages)
  if not dims:
    return "scalars" if names <= {"loss", "encode", "update"} else "unexplained"
  if dims == (shapes.rows,) and buffer.dtype in ("s32", "u32"):
    return "labels"
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


def unexplained(found, shapes: Shapes) -> list[str]:
  """Lists the arrays of collectives whose purpose is none of the known."""
  return [
    f"{one.kind} {buffer.dtype}{list(buffer.shape)} {one.op_name}"
    for one in found
    for buffer in one.buffers
    if purpose(one.kind, buffer, one.stages, shapes) == "unexplained"
  ]

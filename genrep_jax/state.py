"""The training state, its abstract shape and its shardings."""

from typing import Any

import flax.struct
import jax

from genrep_jax.lib import contracts, mesh as mesh_lib


@flax.struct.dataclass
class TrainState:
  """Everything a step changes, and nothing else: no keys, no generator.

  Attributes:
    step: int32 scalar, steps done.
    params: {"encoder": ..., "head": ...}, float32.
    batch_stats: the encoder's running statistics, {} without BatchNorm.
    opt_state: optax state of `params`.
    ema: {"params": ..., "batch_stats": ...} averaged, or {} when off.
    objective: the objective's own state, {} when it has none.
    views: {"params": ..., "opt_state": ...} of a trained T_z, else {}.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any
  objective: Any
  views: Any


def abstract(program: contracts.Program, mesh) -> tuple[Any, Any]:
  """Returns shapes, dtypes and shardings of a program's arguments.

  Args:
    program: what the loop runs.
    mesh: the devices' mesh; its devices need not be present (AOT topology).

  Returns:
    (state, frozen), trees of `jax.ShapeDtypeStruct` with shardings.
  """
  whole = mesh_lib.replicated(mesh)
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    jax.eval_shape(program.init),
  )
  frozen = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    program.frozen,
  )
  return state, frozen


def initial(program: contracts.Program, mesh):
  """Computes the state of step 0, replicated over the mesh."""
  return jax.jit(program.init, out_shardings=mesh_lib.replicated(mesh))()


def put_frozen(program: contracts.Program, mesh):
  """Places a program's frozen arguments on every device, once."""
  whole = mesh_lib.replicated(mesh)

  def put(x):
    # Every process holds the same host array: no transfer between hosts.
    return jax.make_array_from_callback(x.shape, whole, lambda index: x[index])

  return jax.tree.map(put, program.frozen)

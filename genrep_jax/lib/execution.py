"""A program on its devices: abstract, placed, compiled.

Where arrays lie is said once, by `Program.shardings`.
"""

import jax

from genrep_jax.lib import contracts


def abstract(program: contracts.Program):
  """Returns shapes, dtypes and shardings of a program's arguments.

  Args:
    program: its devices need not be present (an AOT topology's).

  Returns:
    (state, frozen), trees of `jax.ShapeDtypeStruct` with shardings.
  """

  def shaped(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.shardings)

  state = jax.tree.map(shaped, jax.eval_shape(program.init))
  return state, jax.tree.map(shaped, program.frozen)


def initial(program: contracts.Program):
  """Computes the state of step 0 on the devices."""
  return jax.jit(program.init, out_shardings=program.shardings)()


def put_frozen(program: contracts.Program):
  """Places a program's frozen arguments on its devices, once."""

  def put(x):
    # Every process holds the same host array: no transfer between hosts.
    return jax.make_array_from_callback(
      x.shape, program.shardings, lambda index: x[index]
    )

  return jax.tree.map(put, program.frozen)


def jit(program: contracts.Program, steps_per_call: int = 1):
  """Compiles-on-call `(state, frozen) -> (state, metrics)`.

  Args:
    program: what is trained.
    steps_per_call: steps scanned inside one call; the metrics are merged.

  Returns:
    A jitted function that donates the state and keeps `frozen`.
  """

  def steps(state, frozen):
    if steps_per_call == 1:
      return program.step(state, frozen)
    state, measured = jax.lax.scan(
      lambda state, _: program.step(state, frozen),
      state,
      length=steps_per_call,
    )
    return state, measured.reduce()

  return jax.jit(
    steps,
    donate_argnums=0,
    in_shardings=(program.shardings, program.shardings),
    out_shardings=program.shardings,
  )

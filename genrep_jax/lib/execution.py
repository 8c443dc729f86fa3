"""A program on its devices: abstract, placed, compiled.

Where arrays lie is said once, by `Program.shardings`.
"""

import jax

from genrep_jax.lib import contracts, feeding


def abstract(program: contracts.Program, steps_per_call: int = 1):
  """Returns shapes, dtypes and shardings of a program's arguments.

  Args:
    program: its devices need not be present (an AOT topology's).
    steps_per_call: of the call that is given them.

  Returns:
    (state, frozen), trees of `jax.ShapeDtypeStruct` with shardings.
  """

  def shaped(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.shardings)

  state = jax.tree.map(shaped, jax.eval_shape(program.init))
  frozen = jax.tree.map(shaped, program.frozen)
  if program.feed is not None:
    frozen["fed"] = feeding.shapes(program, steps_per_call)
  return state, frozen


def initial(program: contracts.Program):
  """Computes the state of step 0 on the devices."""
  return jax.jit(program.init, out_shardings=program.shardings)()


def put_frozen(program: contracts.Program, step: int = 0):
  """Places a program's frozen arguments on its devices, once.

  Args:
    program: where its feed, if it has one, gives what `step` is fed.
    step: of the run.
  """

  def put(x):
    # Every process holds the same host array: no transfer between hosts.
    return jax.make_array_from_callback(
      x.shape, program.shardings, lambda index: x[index]
    )

  frozen = jax.tree.map(put, program.frozen)
  if program.feed is not None:
    frozen["fed"] = feeding.put(program, step)
  return frozen


def jit(program: contracts.Program, steps_per_call: int = 1):
  """Compiles-on-call `(state, frozen) -> (state, metrics)`.

  Args:
    program: what is trained.
    steps_per_call: steps scanned inside one call; the metrics are merged. What
      is fed is then [steps_per_call ...].

  Returns:
    A jitted function that donates the state and keeps `frozen`.
  """

  def steps(state, frozen):
    if steps_per_call == 1:
      return program.step(state, frozen)
    rest = {name: x for name, x in frozen.items() if name != "fed"}
    state, measured = jax.lax.scan(
      lambda state, fed: program.step(state, {**rest, **fed}),
      state,
      {"fed": frozen["fed"]} if program.feed is not None else {},
      length=steps_per_call,
    )
    return state, measured.reduce()

  where = program.shardings
  given = where
  if program.feed is not None:
    fed = feeding.shapes(program, steps_per_call)
    fed = {name: x.sharding for name, x in fed.items()}
    given = dict.fromkeys(program.frozen, where) | {"fed": fed}
  return jax.jit(
    steps,
    donate_argnums=0,
    in_shardings=(where, given),
    out_shardings=where,
  )

"""In which type weights are used, so that they are placed in it once."""

import jax
import jax.numpy as jnp
import numpy as np

# Calls that pass their arguments on to one inner program, one by one.
_CALLS = ("jit", "pjit", "closed_call", "remat", "checkpoint", "remat2")
_CUSTOM_CALLS = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def used(function, variables, *args):
  """Returns the dtype that each leaf of `variables` is used in.

  A leaf that every use first converts to one type is used in that type; any
  other leaf is used in its own.

  Args:
    function: called as function(variables, *args); is traced, not run.
    variables: pytree of arrays or ShapeDtypeStructs.
    *args: likewise.

  Returns:
    The tree of dtypes.
  """
  leaves, structure = jax.tree.flatten(variables)
  jaxpr = jax.make_jaxpr(function)(variables, *args).jaxpr
  found = []
  for leaf, variable in zip(leaves, jaxpr.invars):
    uses = _uses(jaxpr, variable)
    found.append(uses.pop() if len(uses) == 1 else jnp.dtype(leaf.dtype))
  return jax.tree.unflatten(structure, found)


def placed(x, dtype) -> jax.ShapeDtypeStruct:
  """Returns what an array is when it is placed to be used in a dtype.

  No array gets wider: that would take memory and save nothing.
  """
  wider = jnp.promote_types(x.dtype, dtype) != x.dtype
  return jax.ShapeDtypeStruct(x.shape, x.dtype if wider else dtype)


def cast(variables, dtypes):
  """Converts numpy leaves to the dtypes in which they are placed."""
  return jax.tree.map(
    lambda x, dtype: np.asarray(x, placed(x, dtype).dtype), variables, dtypes
  )


def _uses(jaxpr, variable) -> set:
  """Types that the uses of a variable convert it to, or have it in."""
  own, uses = variable.aval.dtype, set()
  if any(out is variable for out in jaxpr.outvars):
    uses.add(own)
  for equation in jaxpr.eqns:
    places = [i for i, x in enumerate(equation.invars) if x is variable]
    if not places:
      continue
    inner = _inner(equation)
    if equation.primitive.name == "convert_element_type":
      uses.add(equation.params["new_dtype"])
    elif inner is None:
      uses.add(own)
    else:
      for i in places:
        uses |= _uses(inner, inner.invars[i])
  return uses


def _inner(equation):
  """The program that an equation calls with its own arguments, or None."""
  name, params = equation.primitive.name, equation.params
  inner = None
  if name in _CALLS:
    inner = params.get("jaxpr", params.get("call_jaxpr"))
  elif name in _CUSTOM_CALLS:
    inner = params.get("call_jaxpr", params.get("fun_jaxpr"))
  return getattr(inner, "jaxpr", inner)

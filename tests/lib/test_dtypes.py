"""The type that weights are used in, read off the program."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from genrep_jax.lib import dtypes

HALF = jnp.dtype(jnp.bfloat16)
FULL = jnp.dtype(jnp.float32)


@jax.custom_jvp
def _twice(x):
  return 2 * x.astype(jnp.bfloat16)


_twice.defjvps(lambda t, out, x: 2 * t.astype(jnp.bfloat16))


def use(variables, x):
  """Each leaf says in its name how it is used."""
  inner = jax.jit(lambda w, x: x @ w.astype(x.dtype))
  x = x.astype(jnp.bfloat16)
  y = inner(variables["half_in_jit"], x) + variables["half"].astype(x.dtype)
  y = y + _twice(variables["half_in_custom"])
  y = y * variables["full_and_half"].astype(x.dtype)
  y = y + variables["full"] + variables["full_and_half"]
  y = y + jnp.sum(variables["count"].astype(jnp.float32))
  return jax.checkpoint(lambda w: y * w.astype(x.dtype))(
    variables["half_in_remat"]
  ), variables["full_returned"]


def test_types_follow_the_uses():
  names = ("half", "half_in_custom", "half_in_remat", "full", "full_and_half")
  arrays = {name: np.float32([1.1, 2.2, 3.3]) for name in names}
  arrays |= {"full_returned": np.float32(1.1), "full_unused": np.float32(1.1)}
  arrays["half_in_jit"] = np.float32(np.full((2, 3), 1.1))
  arrays["count"] = np.int32([3])
  found = dtypes.used(use, arrays, jnp.ones((4, 2)))
  assert found.pop("count") == FULL
  for name, dtype in found.items():
    assert dtype == (HALF if name.startswith("half") else FULL), name


def test_a_cast_rounds_as_a_program_does_and_never_widens():
  numbers = np.random.default_rng(0).normal(size=1000).astype(np.float32)
  arrays = {"a": numbers, "b": numbers.astype(np.float16), "c": np.int8([1])}
  cast = dtypes.cast(arrays, {"a": HALF, "b": FULL, "c": FULL})
  assert cast["a"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    cast["a"], jax.jit(lambda x: x.astype(jnp.bfloat16))(numbers)
  )
  assert cast["b"].dtype == np.float16 and cast["c"].dtype == np.int8

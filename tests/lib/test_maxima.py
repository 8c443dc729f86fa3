"""Maxima and their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import maxima

X = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)


def gradient(f, x):
  return jax.jit(jax.grad(lambda x: jnp.sum(jnp.cos(f(x)))))(x)


def test_values_and_derivatives_are_those_of_jax_where_nothing_is_equal():
  for axis in range(3):
    ours = functools.partial(maxima.largest, axis=axis)
    theirs = functools.partial(jnp.max, axis=axis)
    np.testing.assert_array_equal(ours(X), X.max(axis))
    np.testing.assert_array_equal(gradient(ours, X), gradient(theirs, X))
    if axis:
      rows = jax.vmap(functools.partial(maxima.largest, axis=axis - 1))
      np.testing.assert_array_equal(gradient(rows, X), gradient(ours, X))
    tangent = jax.jvp(ours, (X,), (X,))[1]
    np.testing.assert_array_equal(tangent, X.max(axis))


def test_the_first_of_equals_has_the_derivative():
  grad = jax.grad(lambda x: maxima.largest(x, 0))
  np.testing.assert_array_equal(grad(jnp.array([1.0, 3.0, 3.0])), [0, 1, 0])


def test_nothing_is_divided_by_how_many_are_equal():
  """A count that is 0 where the maximum was rounded otherwise than x."""
  text = str(jax.make_jaxpr(jax.grad(lambda x: maxima.largest(x, 0)))(X[0, 0]))
  assert " div " not in text
  text = str(jax.make_jaxpr(jax.grad(lambda x: jnp.max(x, 0)))(X[0, 0]))
  assert " div " in text

"""Randomness as a pure function of (seed, stream name, global sample index).

No key is stored, split down a chain or carried in a state, so sample k is
bit-equal for any batch size, device count or resume point.
"""

import math
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

MAX_SAMPLES = 2**32  # global sample indices are uint32
# Of JAX's generators the one whose bits do not depend on the batch: rbg's,
# which JAX_DEFAULT_PRNG_IMPL may ask for, do.
_IMPLEMENTATION = "threefry2x32"


def key(seed: int) -> jax.Array:
  """Returns the key of a seed, whatever generator JAX has for default."""
  return jax.random.key(seed, impl=_IMPLEMENTATION)


def stream(seed: int, name: str) -> jax.Array:
  """Returns the key of one named stream of a run.

  Args:
    seed: the run's seed.
    name: what the randomness is for, e.g. "sample" or "pixel_view".
  """
  return jax.random.fold_in(key(seed), zlib.crc32(name.encode()))


def indices(step, batch: int) -> jax.Array:
  """Returns the global sample indices of a step, uint32 [batch].

  Args:
    step: int or integer scalar.
    batch: samples of one step.
  """
  first = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(batch)
  return first + jnp.arange(batch, dtype=jnp.uint32)


def per_index(key: jax.Array, indices: jax.Array) -> jax.Array:
  """Folds each index into `key`: one key per global sample index.

  Args:
    key: scalar key of a stream.
    indices: uint32 [b], global sample indices (step * b + i).

  Returns:
    Keys [b].
  """
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def view_key(key: jax.Array, index: jax.Array, view: jax.Array) -> jax.Array:
  """Folds a global sample index and the number of a view into `key`."""
  return jax.random.fold_in(jax.random.fold_in(key, index), view)


def truncated_normal(key, shape, *, sigma=1.0, truncation=2.0):
  """Draws N^t(0, sigma, t): a normal cut at +-t*sigma (GenRep, section 3).

  Args:
    key: a PRNG key.
    shape: shape of the draw.
    sigma: standard deviation before truncation.
    truncation: t, in standard deviations; 0 or None leaves the normal uncut.

  Returns:
    float32 array of `shape`, all entries within +-truncation*sigma.
  """
  if not truncation:
    return sigma * jax.random.normal(key, shape)
  return sigma * jax.random.truncated_normal(
    key, -truncation, truncation, shape
  )


def latent_and_class(key, latent_dim, num_classes, *, sigma=1.0, truncation):
  """Draws what most generators take: z ~ N^t(0, sigma, t), y uniform.

  Args:
    key: a PRNG key.
    latent_dim: of z.
    num_classes: y is in [0, num_classes); 0 if there are none.
    sigma: as in `truncated_normal`.
    truncation: likewise.

  Returns:
    (z float32 [latent_dim], y int32 []).
  """
  z_key, y_key = jax.random.split(key)
  z = truncated_normal(z_key, (latent_dim,), sigma=sigma, truncation=truncation)
  y = jax.random.randint(y_key, (), 0, max(1, num_classes))
  return z, y.astype(jnp.int32)


def unconditional_latent(key, latent_dim: int, prior: str):
  """Draws what a game's generator takes.

  Args:
    key: a PRNG key.
    latent_dim: of z.
    prior: "uniform", in (-1, 1), or "gaussian".

  Returns:
    (z float32 [latent_dim], y int32 [], 0).
  """
  if prior == "uniform":
    z = jax.random.uniform(key, (latent_dim,), minval=-1.0, maxval=1.0)
    return z, jnp.zeros((), jnp.int32)
  return latent_and_class(key, latent_dim, 0, truncation=0.0)


def neighbors(key: jax.Array, pool: int, count: int) -> jax.Array:
  """Draws `count` of the neighbors 1 .. pool without replacement: uint32."""
  return (1 + jax.random.permutation(key, pool)[:count]).astype(jnp.uint32)


def one_draw(key: jax.Array, build: Callable):
  """Runs `build(normal)`, whose `normal(shape)` are parts of one draw.

  For networks with many layers: XLA takes about 0.1 s to compile each draw of
  its own, which is minutes for a large generator.

  Args:
    key: a PRNG key.
    build: calls `normal(shape)` for standard normal arrays, always in the same
      order and with the same shapes.

  Returns:
    What `build` returns.
  """
  sizes = []

  def count(shape):
    sizes.append(math.prod(shape))
    return jnp.zeros(shape)

  jax.eval_shape(lambda: build(count))
  numbers = jax.random.normal(key, (sum(sizes),))
  start = 0

  def normal(shape):
    nonlocal start
    start += math.prod(shape)
    return numbers[start - math.prod(shape) : start].reshape(shape)

  return build(normal)


def permuted_index(key: jax.Array, index: jax.Array, size: int) -> jax.Array:
  """Visits `range(size)` without replacement, epoch after epoch, statelessly.

  Position `index % size` of epoch `index // size` is mapped through a keyed
  bijection of range(size): a 4-round Feistel network on the next even power of
  two, walked until it lands inside (cycle walking). No sort, no state: one
  index costs a few integer operations on whichever device asks.

  Args:
    key: scalar key of a stream.
    index: uint32 scalar, global sample index.
    size: number of items, 1 <= size < 2**31.

  Returns:
    int32 scalar in [0, size).
  """
  half = max(1, ((size - 1).bit_length() + 1) // 2)
  mask = jnp.uint32(2**half - 1)
  epoch = index // jnp.uint32(size)
  round_keys = jax.random.bits(jax.random.fold_in(key, epoch), (4,))

  def mix(x):
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

  def permute(x):
    left, right = x >> half, x & mask
    for i in range(4):
      left, right = right, left ^ (mix(right ^ round_keys[i]) & mask)
    return (left << half) | right

  start = permute(index % jnp.uint32(size))
  inside = jax.lax.while_loop(lambda x: x >= jnp.uint32(size), permute, start)
  return inside.astype(jnp.int32)

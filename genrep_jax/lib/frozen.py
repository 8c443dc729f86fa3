"""A frozen generator ready to run: its network, its options, its weights.

Options and weights meet in one place, because some options belong to weights:
statistics that were converted for one truncation are wrong for another. A
weights file says in its metadata which options it was made with
(`{"generator": {"name": ..., option: value}}`); a plug-in declares which of its
options are `bound` to them.

Weights come in the type that they are used in: a step at bfloat16 converts no
kernel, every time anew, that could have been placed in bfloat16 once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genrep_jax.lib import (
  contracts,
  dtypes,
  errors,
  options as options_lib,
  plugins,
  rng,
  weights,
)


@dataclasses.dataclass(frozen=True)
class Frozen:
  """A generator and its weights.

  Attributes:
    name: the plug-in's.
    generator: the network, with the sha256.
    variables: its weights, numpy arrays, each in the type it is used in.
    options: the complete entry that the network was made from.
    sha256: of the weights file; "" for random weights.
    metadata: of the weights file; {} for random weights.
  """

  name: str
  generator: contracts.Generator
  variables: contracts.Tree
  options: Mapping[str, Any]
  sha256: str
  metadata: Mapping[str, Any]


def from_config(entry, *, dtype=jnp.float32, key=None) -> Frozen:
  """Makes the generator of a config and reads its weights.

  Args:
    entry: a config's `generator`: name, weights, sha256 and options.
    dtype: compute type.
    key: PRNG key of the random weights that stand in where `weights` is "".

  Returns:
    A Frozen.

  Raises:
    UsageError: unknown generator, options that do not fit together or the
      weights, or a weights file that `weights.load` refuses.
  """
  entry = ml_collections.ConfigDict(entry).copy_and_resolve_references()
  plugins.complete(entry, "generators", "generator")
  generator = plugins.make("generators", entry, dtype=dtype)
  with plugins.guard(plugins.label_of("generators", entry.name), "init"):
    expected = jax.eval_shape(generator.init, jax.random.key(0))
  digest, metadata = "", {}
  if entry.weights:
    metadata = weights.read_metadata(entry.weights)
    check_options(entry.weights, metadata, entry, "generators")
    variables = weights.load(entry.weights, entry.sha256, expected)
    digest = weights.sha256(entry.weights)
    generator = dataclasses.replace(generator, sha256=digest)
  else:
    if entry.sha256:
      options_lib.refuse("generator.sha256", entry.sha256, "'' without weights")
    key = rng.key(0) if key is None else key
    variables = jax.tree.map(np.asarray, jax.jit(generator.init)(key))
  if jnp.dtype(dtype) != jnp.float32:
    variables = dtypes.cast(variables, _used(generator, expected))
  name, values = str(entry.name), entry.to_dict()
  return Frozen(name, generator, variables, values, digest, metadata)


def abstract(entry, *, dtype=jnp.float32):
  """Returns (generator, its variables' shapes and placed types), unread.

  Args:
    entry: as in `from_config`; its weights are not opened.
    dtype: compute type.
  """
  generator = plugins.make("generators", entry, dtype=dtype)
  expected = jax.eval_shape(generator.init, jax.random.key(0))
  if jnp.dtype(dtype) == jnp.float32:
    return generator, expected
  used = _used(generator, expected)
  return generator, jax.tree.map(dtypes.placed, expected, used)


def _used(generator, expected):
  """The types in which drawing latents' images uses the variables."""

  def images(variables, z, y):
    return generator.apply(variables, generator.latents(variables, z, y), y)

  z = jax.ShapeDtypeStruct((2, generator.sample_dim), jnp.float32)
  y = jax.ShapeDtypeStruct((2,), jnp.int32)
  return dtypes.used(images, expected, z, y)


def from_file(
  path, *, name=None, options=None, sha256="", dtype=jnp.float32, key=None
) -> Frozen:
  """Makes the generator that a weights file describes.

  Args:
    path: the file, "asset:NAME" or "hf://..."; "" for random weights.
    name: the generator; None: as the file says.
    options: option -> value, in place of what the file says.
    sha256: that the file must have; "" pins nothing.
    dtype: compute type.
    key: as in `from_config`.

  Returns:
    A Frozen.

  Raises:
    UsageError: as `from_config`; an unknown option; or the file does not say
      which generator it is for and `name` is None.
  """
  made = made_with(path, "generators") if path else {}
  name = name or made.get("name")
  if not name:
    raise errors.UsageError(
      f"weights: {path!r} does not name its generator (metadata 'genrep_jax')"
    )
  known = plugins.declared(
    "generators", plugins.resolve("generators", name, "generator.name")
  )
  values = {}
  if made.get("name") == name:
    values = {option: made[option] for option in known if option in made}
  values |= dict(options or {}) | {
    "name": name,
    "weights": str(path or ""),
    "sha256": sha256,
  }
  return from_config(values, dtype=dtype, key=key)


def made_with(path, room: str, metadata=None) -> Mapping[str, Any]:
  """Returns the plug-in and options that a weights file was made with.

  Args:
    path: of the file.
    room: "generators" or "encoders".
    metadata: the file's, if it is known.

  Returns:
    {"name": ..., option: value}; {} if the file says nothing.

  Raises:
    UsageError: the metadata is not of this form.
  """
  metadata = weights.read_metadata(path) if metadata is None else metadata
  key = room.removesuffix("s")
  made = metadata.get(key, {})
  if not isinstance(made, Mapping):
    raise errors.UsageError(
      f"weights: {path}: metadata {key!r} is {type(made).__name__}; allowed: "
      "a dictionary of options"
    )
  if not isinstance(made.get("name", ""), str):
    raise errors.UsageError(
      f"weights: {path}: metadata '{key}.name' is "
      f"{type(made['name']).__name__}; allowed: a name"
    )
  return made


def check_options(path, metadata, entry, room: str) -> None:
  """Refuses weights of another plug-in, or made with other bound options.

  Args:
    path: of the weights file, for the message.
    metadata: the file's.
    entry: the plug-in's complete entry.
    room: "generators" or "encoders".

  Raises:
    UsageError: says which option is what, and what the file was made with.
  """
  made, key = made_with(path, room, metadata), room.removesuffix("s")
  if made.get("name", entry.name) != entry.name:
    raise errors.UsageError(
      f"weights: {path} are of {key} {made['name']!r}, not {entry.name!r}"
    )
  module = plugins.resolve(room, entry.name)
  for option in options_lib.bound(plugins.declared(room, module)):
    if option in made and _plain(entry[option]) != _plain(made[option]):
      options_lib.refuse(
        f"{key}.{option}",
        entry[option],
        f"{made[option]}, with which {path} was made",
      )


def _plain(value):
  """Returns the value as JSON gives it back: no tuples."""
  return (
    [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
  )

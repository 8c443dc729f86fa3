"""A frozen generator ready to run: its network, its options, its weights.

Options and weights meet in one place, because some options belong to weights:
statistics that were converted for one truncation are wrong for another. A
weights file says in its metadata which options it was made with
(`{"generator": {"name": ..., option: value}}`); a generator module says in
`FREE_OPTIONS` which of its options may differ from them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genrep_jax.lib import contracts, errors, plugins, weights


@dataclasses.dataclass(frozen=True)
class Frozen:
  """A generator and its weights.

  Attributes:
    name: the plug-in's.
    generator: the network.
    variables: its weights, numpy arrays.
    options: the config the network was made from.
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
  name = str(entry.name)
  module = plugins.resolve("generators", name)
  generator = module.make(entry, dtype=dtype)
  expected = jax.eval_shape(generator.init, jax.random.key(0))
  path = entry.get("weights", "")
  if not path:
    key = jax.random.key(0) if key is None else key
    variables = jax.tree.map(np.asarray, jax.jit(generator.init)(key))
    return Frozen(name, generator, variables, dict(entry), "", {})
  metadata = weights.read_metadata(path)
  check_options(path, metadata, module, entry, "generator")
  variables = weights.load(path, entry.get("sha256", ""), expected)
  digest = weights.sha256(path)
  return Frozen(name, generator, variables, dict(entry), digest, metadata)


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
  made = weights.read_metadata(path).get("generator", {}) if path else {}
  name = name or made.get("name")
  if not name:
    raise errors.UsageError(
      f"weights: {path!r} does not name its generator (metadata 'genrep_jax')"
    )
  module = plugins.resolve("generators", name)
  values = getattr(module, "default_config", dict)()
  known = [option for option in values if option != "name"]
  for option in options or {}:
    if option not in known:
      raise errors.UsageError(
        f"generator.{name}: no option {option!r}; options: {', '.join(known)}"
      )
  if made.get("name") == name:
    values |= {option: made[option] for option in known if option in made}
  values |= dict(options or {}) | {
    "name": name,
    "weights": str(path or ""),
    "sha256": sha256,
  }
  entry = ml_collections.ConfigDict(values)
  return from_config(entry, dtype=dtype, key=key)


def check_options(path, metadata, module, entry, room: str) -> None:
  """Refuses weights of another plug-in, or made with other options.

  Args:
    path: of the weights file, for the message.
    metadata: the file's.
    module: the plug-in's.
    entry: its config.
    room: "generator" or "encoder", under which metadata has the options.

  Raises:
    UsageError: says which option is what, and what the file was made with.
  """
  made, name = metadata.get(room, {}), entry.name
  if made.get("name", name) != name:
    raise errors.UsageError(
      f"weights: {path} are of {room} {made['name']!r}, not {name!r}"
    )
  if not hasattr(module, "FREE_OPTIONS"):
    return
  for option in module.default_config():
    if option in module.FREE_OPTIONS or option not in made:
      continue
    given, wanted = _plain(entry[option]), _plain(made[option])
    if given != wanted:
      raise errors.UsageError(
        f"{room}.{name}: {option} is {given}, but {path} was made with "
        f"{option} {wanted}"
      )


def _plain(value):
  """Returns the value as JSON gives it back: no tuples."""
  return (
    [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
  )

"""Latent walks: directions w_d of the latent space, and files of them.

A file is safetensors, an array [rows latent_dim] per operation; its metadata
say what the coefficients mean (views/edits.py) and which generator's latent
space it is, by the sha256 of its weights.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import errors, weights
from genrep_jax.views import edits

_KEY = "walks"  # of the metadata; in it:
_DISTRIBUTION = "law"  # the name that files of the first version have


@dataclasses.dataclass(frozen=True)
class Walks:
  """What a file holds.

  Attributes:
    distribution: of the edits that the walks imitate.
    directions: operation -> float32 [rows latent_dim], numpy.
    generator_sha256: of the weights of the generator they belong to.
  """

  distribution: edits.EditDistribution
  directions: dict[str, np.ndarray]
  generator_sha256: str


def displacement(distribution, directions, a: jax.Array) -> jax.Array:
  """Returns sum_d a_d w_d [... latent_dim] of coefficients a [... dims]."""
  w = jnp.concatenate([directions[name] for name in distribution.operations])
  # Few numbers: full precision costs nothing, and a TPU's default is bfloat16.
  return jnp.matmul(a, w, precision="highest")


def metadata_of(distribution, generator_sha256: str, metadata) -> dict:
  """Returns the metadata of a file of walks.

  Args:
    distribution: of the edits that the walks imitate.
    generator_sha256: of the generator's weights file.
    metadata: plain values that say how the walks were made.
  """
  own = {
    _DISTRIBUTION: dataclasses.asdict(distribution),
    "generator_sha256": generator_sha256,
  }
  return {**metadata, _KEY: own}


def save(
  path, distribution, directions, generator_sha256: str, metadata
) -> str:
  """Writes walks, operation -> [rows latent_dim]; returns the file's sha256."""
  own = metadata_of(distribution, generator_sha256, metadata)
  return weights.save(path, directions, own)


def read(path) -> Walks:
  """Reads a file that `save` wrote.

  Raises:
    UsageError: no such file, not safetensors, not walks, damaged, or with a NaN
      or an infinity.
  """
  own = weights.read_metadata(path).get(_KEY)
  try:
    said = dict(own[_DISTRIBUTION])
    said["operations"] = tuple(said["operations"])
    made, sha256 = edits.EditDistribution(**said), own["generator_sha256"]
  except (KeyError, TypeError, ValueError) as error:
    raise errors.UsageError(
      f"{path} holds no walks; allowed: a walks.safetensors of configs/walks"
    ) from error
  arrays = weights.read_arrays(path)
  found = {name: array.shape[:-1] for name, array in arrays.items()}
  expected = {name: (made.rows(name),) for name in made.operations}
  if found != expected:
    raise errors.UsageError(f"{path} holds {found} walks; wanted {expected}")
  arrays = {name: np.float32(arrays[name]) for name in made.operations}
  bad = [name for name, w in arrays.items() if not np.isfinite(w).all()]
  if bad:
    raise errors.UsageError(
      f"{path}: a NaN or an infinity in the walks {', '.join(bad)}"
    )
  return Walks(made, arrays, sha256)

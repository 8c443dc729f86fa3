"""Latent walks: directions w_d of the latent space, and files of them.

A file is safetensors, an array [rows latent_dim] per operation; its metadata
say what the coefficients mean (views/steering.py) and which generator's latent
space it is, by the sha256 of its weights.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import errors, weights
from genrep_jax.views import steering

_KEY = "walks"  # of the metadata


@dataclasses.dataclass(frozen=True)
class Walks:
  """What a file holds.

  Attributes:
    law: the edits that the walks imitate.
    directions: operation -> float32 [rows latent_dim], numpy.
    generator_sha256: of the weights of the generator they belong to.
  """

  law: steering.Law
  directions: dict[str, np.ndarray]
  generator_sha256: str


def displacement(law: steering.Law, directions, a: jax.Array) -> jax.Array:
  """Returns sum_d a_d w_d [... latent_dim] of coefficients a [... dims]."""
  w = jnp.concatenate([directions[name] for name in law.operations])
  # Few numbers: full precision costs nothing, and a TPU's default is bfloat16.
  return jnp.matmul(a, w, precision="highest")


def save(path, law, directions, generator_sha256: str, metadata) -> str:
  """Writes walks.

  Args:
    path: where to.
    law: the edits that the walks imitate.
    directions: operation -> [rows latent_dim].
    generator_sha256: of the generator's weights file.
    metadata: plain values that say how the walks were made.

  Returns:
    The sha256 of the file.
  """
  own = {"law": dataclasses.asdict(law), "generator_sha256": generator_sha256}
  return weights.save(path, directions, {**metadata, _KEY: own})


def read(path) -> Walks:
  """Reads a file that `save` wrote.

  Raises:
    UsageError: no such file, not safetensors, not walks, damaged, or with a NaN
      or an infinity.
  """
  own = weights.read_metadata(path).get(_KEY)
  try:
    law = own["law"] | {"operations": tuple(own["law"]["operations"])}
    law, sha256 = steering.Law(**law), own["generator_sha256"]
  except (KeyError, TypeError) as error:
    raise errors.UsageError(
      f"{path} holds no walks; allowed: a walks.safetensors of job=steer"
    ) from error
  arrays = weights.read_arrays(path)
  found = {name: array.shape[:-1] for name, array in arrays.items()}
  expected = {name: (law.rows(name),) for name in law.operations}
  if found != expected:
    raise errors.UsageError(f"{path} holds {found} walks; wanted {expected}")
  arrays = {name: np.float32(arrays[name]) for name in law.operations}
  bad = [name for name, w in arrays.items() if not np.isfinite(w).all()]
  if bad:
    raise errors.UsageError(
      f"{path}: a NaN or an infinity in the walks {', '.join(bad)}"
    )
  return Walks(law, arrays, sha256)

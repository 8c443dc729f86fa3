"""Steered latent view: the positive is a learned edit of the anchor.

GenRep's steered sets: z' = z + sum_d a_d w_d, where the walks w_d were trained
to imitate pixel edits (`job=steer`, configs/steering), all operations at
once, each a_d drawn from the law it was trained with. GenRep's data sets have
the rot3d term times five, at generation only, which its training never saw;
`rot3d_gain` is 1 by default and 5 gives those sets.
"""

import dataclasses
import math

import numpy as np

from genrep_jax.lib import contracts, errors
from genrep_jax.views import steering, walks
from genrep_jax.views.latent import _options

_PATH = "views.latent"


def default_config() -> dict:
  """Returns the options."""
  return {
    "name": "steered",
    "file": "",  # walks.safetensors, as job=steer writes it
    "operations": (),  # those that are used; (): all of the file
    "gain": 1.0,  # times every coefficient
    "rot3d_gain": 1.0,  # times rot3d's, too; GenRep's data sets: 5
  }


def check_weights(cfg, generator_weights: str) -> None:
  """Refuses walks in the latent space of another generator.

  Args:
    cfg: options as in `default_config`.
    generator_weights: the run's `generator.weights`.

  Raises:
    UsageError: the sha256 of that file is not the walks' generator's.
  """
  _options.check_generator(
    f"{_PATH}.file", cfg.file, _read(cfg).generator_sha256, generator_weights
  )


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z + sum_d g_d a_d w_d.

  Args:
    cfg: options as in `default_config`; `file` must be given.
    generator: its latent_dim must be the walks'.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim], of z's type. An operation draws
    the same a_d whichever others are used.

  Raises:
    UsageError: no file or not of walks, an unknown operation, walks of another
      length, a gain that is not finite.
  """
  made = _read(cfg)
  law = made.law
  if tuple(cfg.operations):
    some = steering.chosen(
      f"{_PATH}.operations", cfg.operations, law.operations
    )
    law = dataclasses.replace(law, operations=some)
  found = {w.shape[1:] for w in made.directions.values()}
  if found != {(generator.latent_dim,)}:
    raise errors.UsageError(
      f"{_PATH}.file: {cfg.file} holds walks of {_lengths(found)} numbers; the "
      f"generator's latents have {generator.latent_dim}"
    )
  for key in ("gain", "rot3d_gain"):
    if not math.isfinite(cfg[key]):
      _options.refuse("steered", key, cfg[key], "a finite number")
  gains = np.full(law.dims, cfg.gain, np.float32)
  if law.operations[0] == "rot3d":
    gains[0] *= cfg.rot3d_gain

  def view(key, z, y):
    del y
    a = gains * law.draw(key)
    moved = walks.displacement(law, made.directions, a)
    return z + moved.astype(z.dtype)

  return view


def _lengths(shapes):
  return " or ".join(sorted("x".join(map(str, shape)) for shape in shapes))


def _read(cfg):
  if not cfg.file:
    raise errors.UsageError(
      f"{_PATH}.file: ''; allowed: a walks.safetensors, which job=steer writes "
      "(configs/steering)"
    )
  try:
    return walks.read(cfg.file)
  except errors.UsageError as error:
    raise errors.UsageError(f"{_PATH}.file: {error}") from error

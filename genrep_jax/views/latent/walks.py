"""Latent view of trained walks: the positive is a learned edit of the anchor.

GenRep's steered sets: z' = z + sum_d a_d w_d, where the walks w_d were trained
to imitate pixel edits (`program.name=walks`, configs/walks), all operations at
once, each a_d drawn as it was in training. GenRep's data sets have the rot3d
term times five, at generation only, which its training never saw; `rot3d_gain`
is 1 by default and 5 gives those sets.
"""

import dataclasses

import numpy as np

from genrep_jax.lib import contracts, options
from genrep_jax.views import edits, walks as walks_lib
from genrep_jax.views.latent import _shared

_FILE = "views.latent.file"
OPTIONS = {
  "file": options.text("", "walks.safetensors, as a run of configs/walks ends"),
  "operations": dataclasses.replace(
    edits.some_operations(least=0),
    default=(),
    help="those that are used; (): all of the file",
  ),
  "gain": options.number(1.0, "times every coefficient", low=-1e3, high=1e3),
  "rot3d_gain": options.number(
    1.0, "times rot3d's, too; GenRep's data sets: 5", low=-1e3, high=1e3
  ),
}


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z + sum_d g_d a_d w_d.

  Args:
    cfg: the options; `file` must be given.
    generator: the walks'.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim], of z's type. An operation draws
    the same a_d whichever others are used.

  Raises:
    UsageError: no file or not of walks, an operation that it has not, walks of
      another generator.
  """
  if not cfg.file:
    options.refuse(_FILE, "", "a walks.safetensors of configs/walks")
  made = _shared.read(cfg.file, walks_lib.read)
  distribution = made.distribution
  known = distribution.operations
  if set(cfg.operations) - set(known):
    options.refuse(
      "views.latent.operations",
      tuple(cfg.operations),
      f"of the file's: {', '.join(known)}",
    )
  if cfg.operations:
    some = tuple(name for name in known if name in cfg.operations)
    distribution = dataclasses.replace(distribution, operations=some)
  found = {w.shape[1:] for w in made.directions.values()}
  if found != {(generator.latent_dim,)}:
    lengths = sorted("x".join(map(str, shape)) for shape in found)
    options.refuse(
      _FILE,
      cfg.file,
      f"walks of {generator.latent_dim} numbers, as the generator's latents; "
      f"these have {' or '.join(lengths)}",
    )
  _shared.check_generator(cfg.file, made.generator_sha256, generator)
  gains = np.full(distribution.dims, cfg.gain, np.float32)
  if distribution.operations[0] == "rot3d":
    gains[0] *= cfg.rot3d_gain

  def view(key, z, y):
    del y
    a = gains * distribution.draw(key)
    moved = walks_lib.displacement(distribution, made.directions, a)
    return z + moved.astype(z.dtype)

  return view

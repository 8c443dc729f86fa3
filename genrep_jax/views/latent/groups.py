"""Group-wise latent view: another view, on chosen parts of the latent only.

BigBiGAN reads z in six chunks of 20: chunk 0 feeds a linear layer, each other
one a block, coarse to fine. Serez et al. (TMLR 2025) move chunks 1 to 5 and
keep chunk 0, with sigma = 1:

  c.views.latent = {"name": "groups", "num_groups": 6,
    "groups": (1, 2, 3, 4, 5), "inner": {"name": "gaussian", "sigma": 1.0}}

Groups are equal, contiguous parts of the latent. StyleGAN2 has a w per layer,
coarse to fine, with `generator.latent = "w+"`: then group l is layer l, and
num_groups = 2 log2(resolution) - 2.
"""

import dataclasses

import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, options
from genrep_jax.views.latent import _shared

_SIGMA = options.number(low=0, high=1e3)
OPTIONS = {
  "num_groups": options.integer(
    1, "equal parts of z; divides latent_dim. BigBiGAN: 6", low=1, high=4096
  ),
  "groups": options.several(
    (0,),
    options.integer(low=0, high=4095),
    "the parts that move, from 0",
    least=1,
    only=("each once", lambda groups: len(set(groups)) == len(groups)),
  ),
  "sigma": options.either(
    options.several(
      (), _SIGMA, "(): inner.sigma; one number for all, or one per group"
    ),
    _SIGMA,
  ),
  "inner": options.Entry(
    "views/latent", "gaussian", "the view that moves them"
  ),
}


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z but for its groups g in `groups`, each z'_g = inner(z_g).

  The inner view of group g sees a generator whose latent is that group, and the
  key fold_in(key, g): what a group does is the same bits whichever others move.

  Args:
    cfg: the options.
    generator: its latent_dim is split; `independent` as the inner view takes
      the group of a fresh latent.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim]; other groups keep their bits.

  Raises:
    UsageError: num_groups does not divide latent_dim, a group that does not
      exist, sigma of another length, a bad inner view.
  """
  count, latent_dim = cfg.num_groups, generator.latent_dim
  if latent_dim % count:
    options.refuse(
      "views.latent.num_groups", count, f"a divisor of latent_dim, {latent_dim}"
    )
  if max(cfg.groups) >= count:
    options.refuse(
      "views.latent.groups", tuple(cfg.groups), f"some of 0..{count - 1}"
    )
  views = {}
  for group, inner in zip(cfg.groups, _inner_entries(cfg), strict=True):
    part = _part(generator, group, latent_dim // count)
    views[group] = _shared.make_inner(inner, part, "inner")

  def view(key, z, y):
    parts = jnp.split(z, count)
    for group, move in views.items():
      own = jax.random.fold_in(key, group)
      parts[group] = move(own, parts[group], y)
    return jnp.concatenate(parts)

  return view


def _part(generator, group, width):
  """The generator as the inner view of one group sees it."""

  def sample(key):
    z, y = generator.sample(key)
    return z[group * width : (group + 1) * width], y

  return dataclasses.replace(generator, latent_dim=width, sample=sample)


def _inner_entries(cfg):
  """Returns the inner view's options, for each group."""
  sigma, many = cfg.sigma, len(cfg.groups)
  sigma = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma,)
  inner = cfg.inner.to_dict()
  if not sigma:
    return [inner] * many
  if "sigma" not in inner:
    options.refuse(
      "views.latent.sigma", sigma, f"(): the view {cfg.inner.name!r} has none"
    )
  if len(sigma) not in (1, many):
    options.refuse(
      "views.latent.sigma", sigma, f"1 number, or {many}: one per group"
    )
  return [
    inner | {"sigma": x} for x in sigma * (many if len(sigma) == 1 else 1)
  ]

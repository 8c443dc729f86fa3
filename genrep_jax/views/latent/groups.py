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
import ml_collections

from genrep_jax.lib import contracts
from genrep_jax.views.latent import _options


def default_config() -> dict:
  """Returns the options: one group, all of z."""
  return {
    "name": "groups",
    "num_groups": 1,  # equal parts of z; divides latent_dim. BigBiGAN: 6
    "groups": (0,),  # the parts that move, 0 .. num_groups - 1
    "sigma": (),  # (): inner.sigma; one number for all, or one per group
    "inner": {"name": "gaussian"},  # the view that moves them, its options
  }


def complete(cfg, path: str = "views.latent") -> None:
  """Fills in the inner view's defaults, in place.

  Args:
    cfg: an unlocked config of this view.
    path: its key in the config, for messages.

  Raises:
    UsageError: an unknown view, or an option that it does not have.
  """
  cfg.inner = _options.completed(cfg.inner, f"{path}.inner", name="gaussian")


def make(cfg, generator: contracts.Generator) -> contracts.LatentView:
  """Makes z' = z but for its groups g in `groups`, each z'_g = inner(z_g).

  The inner view of group g sees a generator whose latent is that group, and the
  key fold_in(key, g): what a group does is the same bits whichever others move.

  Args:
    cfg: options as in `default_config`.
    generator: its latent_dim is split; `independent` as the inner view takes
      the group of a fresh latent.

  Returns:
    (key, z [latent_dim], y) -> z' [latent_dim]; other groups keep their bits.

  Raises:
    UsageError: num_groups does not divide latent_dim, a group that does not
      exist or is named twice, sigma of another length, a bad inner view.
  """
  groups = _checked_groups(cfg, generator.latent_dim)
  width = generator.latent_dim // int(cfg.num_groups)
  inner = _options.completed(cfg.inner, "views.latent.inner", name="gaussian")
  sigma = _checked_sigma(cfg, inner, len(groups))
  views = {}
  for i, group in enumerate(groups):
    options = inner.to_dict() | ({"sigma": sigma[i]} if sigma else {})
    views[group] = _options.make_inner(
      ml_collections.ConfigDict(options), _part(generator, group, width)
    )

  def view(key, z, y):
    parts = jnp.split(z, cfg.num_groups)
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


def _checked_groups(cfg, latent_dim):
  count, groups = cfg.num_groups, tuple(cfg.groups)
  if int(count) != count or count < 1 or latent_dim % count:
    _options.refuse(
      "groups", "num_groups", count, f"a divisor of latent_dim, {latent_dim}"
    )
  known = range(int(count))
  if not groups or not all(group in known for group in groups):
    _options.refuse(
      "groups", "groups", groups, f"at least one of 0..{count - 1}"
    )
  if len(set(groups)) < len(groups):
    _options.refuse("groups", "groups", groups, "each group once")
  return tuple(int(group) for group in groups)


def _checked_sigma(cfg, inner, num_groups):
  """Returns one number per group, or () to leave the inner view's alone."""
  sigma = cfg.sigma
  sigma = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma,)
  if not sigma:
    return ()
  if "sigma" not in inner:
    _options.refuse(
      "groups", "sigma", sigma, f"(): the inner view {inner.name!r} has none"
    )
  if len(sigma) not in (1, num_groups):
    allowed = "1" if num_groups == 1 else f"1 or {num_groups}"
    _options.refuse(
      "groups",
      "sigma",
      sigma,
      f"{allowed} number(s) for {num_groups} group(s), not {len(sigma)}",
    )
  sigma = tuple(float(x) for x in sigma)
  return sigma if len(sigma) == num_groups else sigma * num_groups

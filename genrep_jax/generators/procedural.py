"""Procedural images: generators that need no weights of anybody.

The recipes of Baradad et al. 2021, "Learning to See by Looking at Noise":
dead leaves, random fields with natural spectra and colors, and untrained
StyleGAN2s. What each keeps of the recipe and where it departs from it stands at
the head of its module, `_procedural_*.py`.

A latent holds the recipe's own random numbers, as standard normals; a latent
view moves a leaf, a slope or a style a little. In float32 all; only the
untrained networks' maps are computed in another type.
"""

import jax
import jax.numpy as jnp

from genrep_jax.generators import (
  _procedural_latent as latent,
  _procedural_leaves as leaves,
  _procedural_spectrum as spectrum,
  _procedural_stylegan as stylegan,
)
from genrep_jax.lib import options
from genrep_jax.lib.contracts import Generator

KINDS = (
  "dead_leaves",
  "spectrum",
  "spectrum_color",
  *(f"stylegan_{variant}" for variant in stylegan.VARIANTS),
)

OPTIONS = {
  "kind": options.choice("dead_leaves", KINDS, "of images", bound=True),
  "resolution": options.integer(
    64,
    "of the images; of the stylegan kinds a power of two",
    low=8,
    high=1024,
    unit="px",
    bound=True,
  ),
  "channels": options.one_of(
    3, (1, 3), "of the images; 1: the mean of the three", bound=True
  ),
  "shapes": options.choice("mixed", leaves.SHAPES, "of the dead leaves"),
  "num_shapes": options.integer(
    1000, "dead leaves painted; see `coverage`", low=1, high=65536
  ),
  "num_textures": options.integer(
    4, "textures: images the leaves are cut from", low=1, high=64
  ),
  "iterations": options.integer(
    10, "spectrum_color and textures: projections", low=1, high=1000
  ),
  "w_dim": options.integer(
    512, "stylegan kinds: length of a style", low=1, high=16384, bound=True
  ),
  "channel_base": options.integer(
    32768,
    "stylegan kinds: a map r px wide has min(base // r, max) channels",
    low=1,
    high=2**20,
    bound=True,
  ),
  "channel_max": options.integer(
    512, "see channel_base", low=1, high=16384, bound=True
  ),
  "noise_maps": options.integer(
    16,
    "stylegan kinds but random: a layer chooses among them",
    low=1,
    high=1024,
    bound=True,
  ),
}


def _fields(cfg) -> latent.Fields:
  if cfg.kind == "dead_leaves":
    return leaves.fields(cfg)
  if cfg.kind.startswith("spectrum"):
    return spectrum.fields(cfg)
  return stylegan.fields(cfg, cfg.kind.removeprefix("stylegan_"))


def coverage(cfg, z: jax.Array) -> jax.Array:
  """Returns the share of pixels that leaves cover, in each dead-leaves image.

  Args:
    cfg: an entry with the keys of `OPTIONS`, kind dead_leaves.
    z: [n latent_dim].

  Returns:
    [n], in [0, 1]. The recipe paints until it is 1; raise `num_shapes`.
  """
  return jax.vmap(lambda one: leaves.covered(cfg, one))(z)


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: an entry with the keys of `OPTIONS`.
    dtype: type of the untrained networks' maps; images are float32.

  Returns:
    A Generator; its variables are {} or, of the stylegan kinds, {"params"}.

  Raises:
    UsageError: options that do not fit together.
  """
  variant = cfg.kind.removeprefix("stylegan_")
  untrained = variant != cfg.kind
  if untrained and cfg.resolution & (cfg.resolution - 1):
    options.refuse(
      "generator.resolution",
      cfg.resolution,
      f"a power of two for kind {cfg.kind}",
    )
  if untrained and cfg.channel_base < cfg.resolution:
    options.refuse(
      "generator.channel_base",
      cfg.channel_base,
      f">= resolution, {cfg.resolution}",
    )
  latent_dim = latent.size(_fields(cfg))

  def draw(variables, z):
    if untrained:
      return stylegan.images(variables, z, cfg, variant, dtype)
    if cfg.kind == "dead_leaves":
      return jax.vmap(lambda one: leaves.image(cfg, one))(z)
    color = cfg.kind == "spectrum_color"
    return jax.vmap(lambda one: spectrum.image(cfg, one, color=color))(z)

  def sample(key):
    return jax.random.normal(key, (latent_dim,)), jnp.zeros((), jnp.int32)

  def apply(variables, z, y):
    del y  # unconditional
    images = draw(variables, z.astype(jnp.float32))
    if cfg.channels == 1:
      images = images.mean(-1, keepdims=True)
    return images

  return Generator(
    resolution=(cfg.resolution,) * 2,
    channels=cfg.channels,
    latent_dim=latent_dim,
    num_classes=0,
    init=lambda key: stylegan.init(key, cfg, variant) if untrained else {},
    sample=sample,
    apply=apply,
  )

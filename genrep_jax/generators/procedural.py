"""Procedural images: generators that need no weights of anybody.

The recipes of Baradad et al. 2021, "Learning to See by Looking at Noise":
dead leaves, random fields with natural spectra and colours, and untrained
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
from genrep_jax.lib import errors
from genrep_jax.lib.contracts import Generator

KINDS = (
  "dead_leaves",
  "spectrum",
  "spectrum_color",
  *(f"stylegan_{variant}" for variant in stylegan.VARIANTS),
)

# Options that may differ from those weights were saved with (lib/frozen.py).
FREE_OPTIONS = ("shapes", "num_shapes", "num_textures", "iterations")


def default_config() -> dict:
  """Returns the config keys of this generator: dead leaves, 64x64x3."""
  return {
    "name": "procedural",
    "kind": "dead_leaves",  # one of KINDS
    "resolution": 64,  # pixels; of the stylegan kinds a power of two
    "channels": 3,  # 1: the mean of the three
    "shapes": "mixed",  # dead leaves: square, oriented_square, mixed, textures
    "num_shapes": 1000,  # dead leaves painted; see `coverage`
    "num_textures": 4,  # textures: images the leaves are cut from
    "iterations": 10,  # spectrum_color and textures: projections
    "w_dim": 512,  # stylegan kinds: styles,
    "channel_base": 32768,  # and maps: min(base // side, max) channels
    "channel_max": 512,
    "noise_maps": 16,  # stylegan kinds but random: a layer chooses among them
  }


def _check(cfg) -> None:
  """Refuses options outside their range."""

  def refuse(text):
    raise errors.UsageError(f"generator.procedural: {text}")

  if cfg.kind not in KINDS:
    refuse(f"kind {cfg.kind!r} must be one of {', '.join(KINDS)}")
  if cfg.shapes not in leaves.SHAPES:
    refuse(f"shapes {cfg.shapes!r} must be one of {', '.join(leaves.SHAPES)}")
  if cfg.channels not in (1, 3):
    refuse(f"channels {cfg.channels} must be 1 or 3")
  size = cfg.resolution
  if size < 8:
    refuse(f"resolution {size} must be >= 8")
  for name in ("num_shapes", "num_textures", "iterations", "w_dim"):
    if cfg[name] < 1:
      refuse(f"{name} {cfg[name]} must be >= 1")
  for name in ("channel_max", "noise_maps"):
    if cfg[name] < 1:
      refuse(f"{name} {cfg[name]} must be >= 1")
  if cfg.kind.startswith("stylegan") and size & (size - 1):
    refuse(f"resolution {size} must be a power of two for kind {cfg.kind}")
  if cfg.kind.startswith("stylegan") and cfg.channel_base < size:
    refuse(f"channel_base {cfg.channel_base} must be >= resolution {size}")


def _fields(cfg) -> latent.Fields:
  if cfg.kind == "dead_leaves":
    return leaves.fields(cfg)
  if cfg.kind.startswith("spectrum"):
    return spectrum.fields(cfg)
  return stylegan.fields(cfg, cfg.kind.removeprefix("stylegan_"))


def coverage(cfg, z: jax.Array) -> jax.Array:
  """Returns the share of pixels that leaves cover, in each dead-leaves image.

  Args:
    cfg: a config with the keys of `default_config`, kind dead_leaves.
    z: [n latent_dim].

  Returns:
    [n], in [0, 1]. The recipe paints until it is 1; raise `num_shapes`.
  """
  return jax.vmap(lambda one: leaves.covered(cfg, one))(z)


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a config with the keys of `default_config`.
    dtype: type of the untrained networks' maps; images are float32.

  Returns:
    A Generator; its variables are {} or, of the stylegan kinds, {"params"}.

  Raises:
    UsageError: an option outside its range.
  """
  _check(cfg)
  variant = cfg.kind.removeprefix("stylegan_")
  untrained = variant != cfg.kind
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

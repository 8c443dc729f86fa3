"""StyleGAN2's options, their ranges, and the sizes that follow from them."""

import dataclasses
import math

from genrep_jax.lib import errors

_NOISES = ("const", "random", "none")
_LATENTS = ("z", "w", "w+")


def default_config() -> dict:
  """Returns the config keys: LSUN-like 256x256, config-f, unconditional."""
  return {
    "name": "stylegan2",
    "num_classes": 0,  # 0 = unconditional
    "resolution": 256,  # a power of two, at least 8
    "channels": 3,
    "z_dim": 512,
    "w_dim": 512,
    "latent": "z",  # what T_z moves: z; w, one for all layers; w+, one each
    "mapping_layers": 8,  # 2 in ADA's auto and cifar configurations
    "channel_base": 32768,  # a map r px wide has min(base // r, max) channels;
    "channel_max": 512,  # base 16384: config-e, paper256, ADA auto below 512
    "truncation": 0.0,  # z ~ N^t(0, 1, truncation); 0 = uncut, as trained
    "truncation_psi": 1.0,  # w = average + psi * (w - average)
    "truncation_cutoff": 0,  # only the first so many rows of w; 0 = all
    "w_average": True,  # False: the weights have none, and psi must be 1
    "noise": "const",  # const: stored maps; random: drawn per latent; none
    "conv_clamp": 0.0,  # clamps maps to +-conv_clamp (256 in ADA); 0 = no
    "crop_rows": (),  # (first, end) rows kept; (64, 448) for LSUN cars
    "clip": True,  # to [-1, 1], as the contract wants
  }


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The checked sizes of a network; `resolutions` ascend from 4."""

  cfg: object
  resolutions: tuple[int, ...]

  def width(self, resolution):
    return min(self.cfg.channel_base // resolution, self.cfg.channel_max)

  @property
  def num_ws(self):
    return 2 * len(self.resolutions)

  @property
  def latent_dim(self):
    widths = {"w": self.cfg.w_dim, "w+": self.num_ws * self.cfg.w_dim}
    return widths.get(self.cfg.latent, self.cfg.z_dim)


def checked(cfg) -> Sizes:
  """Checks a config; returns its sizes."""

  def refuse(text):
    raise errors.UsageError(f"generator.stylegan2: {text}")

  size = cfg.resolution
  if size < 8 or size & (size - 1):
    refuse(f"resolution {size} must be a power of two, at least 8")
  if cfg.channels not in (1, 3):
    refuse(f"channels {cfg.channels} must be 1 or 3")
  for name in ("z_dim", "w_dim", "mapping_layers", "channel_max"):
    if cfg[name] < 1:
      refuse(f"{name} {cfg[name]} must be >= 1")
  if cfg.channel_base < size:
    refuse(f"channel_base {cfg.channel_base} must be >= resolution {size}")
  for name in ("num_classes", "truncation", "truncation_cutoff", "conv_clamp"):
    if not cfg[name] >= 0:
      refuse(f"{name} {cfg[name]} must be >= 0")
  if not math.isfinite(cfg.truncation_psi):
    refuse(f"truncation_psi {cfg.truncation_psi} must be finite")
  if cfg.truncation_psi != 1 and not cfg.w_average:
    refuse(
      f"truncation_psi {cfg.truncation_psi} must be 1: with w_average=False "
      "the weights have no average of w to move to"
    )
  if cfg.noise not in _NOISES:
    refuse(f"noise {cfg.noise!r} must be one of {', '.join(_NOISES)}")
  rows = tuple(cfg.crop_rows)
  if rows and not (len(rows) == 2 and 0 <= rows[0] < rows[1] <= size):
    refuse(f"crop_rows {rows} must be () or (first, end) within 0..{size}")
  sizes = Sizes(cfg, tuple(2**k for k in range(2, size.bit_length())))
  if cfg.truncation_cutoff > sizes.num_ws:
    refuse(
      f"truncation_cutoff {cfg.truncation_cutoff} must be <= {sizes.num_ws}, "
      f"the rows of w at {size} px"
    )
  _check_latent(cfg, refuse)
  return sizes


def _check_latent(cfg, refuse):
  """Refuses what a latent in w cannot mean."""
  if cfg.latent not in _LATENTS:
    refuse(f"latent {cfg.latent!r} must be one of {', '.join(_LATENTS)}")
  if cfg.latent != "z" and cfg.noise == "random":
    refuse(
      f"noise 'random' is drawn from the bits of the latent, and those of "
      f"latent {cfg.latent!r} are rounded: use const or none"
    )
  if cfg.latent == "w" and cfg.truncation_cutoff and cfg.truncation_psi != 1:
    refuse(
      f"truncation_cutoff {cfg.truncation_cutoff} needs more than one w: use "
      "latent 'w+', or cutoff 0"
    )

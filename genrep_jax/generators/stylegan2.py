"""StyleGAN2's generator (Karras et al. 2020), as released and as in ADA.

Mapping network, style truncation, and the skip synthesis network of config-e
and config-f; conditional models embed the class beside the latent (Karras et
al. 2020, "Training GANs with Limited Data"). Any power-of-two resolution.

Variables hold effective weights: the equalized learning rate's run-time
factors are folded in by `init` and by `convert`, so a layer is kernel and bias.

The latent may be w instead of z, one for all layers or one for each ("w+"), so
that T_z moves single layers: `latent`.

The network's own range is unbounded. `apply` of the contract clips to [-1, 1],
as writing an 8-bit picture would; its `raw` does not.

At bfloat16 the 3x3 kernels stay in float32, because demodulation sums their
squares: a step converts them. All else is placed in the type it is used in.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from genrep_jax.generators import _stylegan2_ops as ops, _stylegan2_source
from genrep_jax.lib import options, rng
from genrep_jax.lib.contracts import Converter, Generator

_NOISE_STREAM = 0x57796C65  # any constant: the noise depends on the latent

OPTIONS = {
  "num_classes": options.integer(
    0, "0: unconditional", low=0, high=65536, bound=True
  ),
  "resolution": options.one_of(
    256,
    tuple(2**k for k in range(3, 13)),
    "of the uncropped images",
    unit="px",
    bound=True,
  ),
  "channels": options.one_of(3, (1, 3), "of the images", bound=True),
  "z_dim": options.integer(512, "length of z", low=1, high=65536, bound=True),
  "w_dim": options.integer(512, "length of w", low=1, high=8192, bound=True),
  "latent": options.choice(
    "z", ("z", "w", "w+"), "what T_z moves: z; w, one for all layers; one each"
  ),
  "mapping_layers": options.integer(
    8,
    "of the mapping network; 2 in ADA's auto and cifar configurations",
    low=1,
    high=64,
    bound=True,
  ),
  "channel_base": options.integer(
    32768,
    "a map r px wide has min(base // r, max) channels; 16384 in config-e, "
    "paper256 and, below 512 px, ADA's auto",
    low=8,
    high=2**20,
    bound=True,
  ),
  "channel_max": options.integer(
    512, "see channel_base", low=1, high=16384, bound=True
  ),
  "truncation": options.number(
    0.0, "z ~ N^t(0, 1, truncation); 0: uncut, as trained", low=0
  ),
  "truncation_psi": options.number(
    1.0, "w = average + psi * (w - average)", low=-100, high=100
  ),
  "truncation_cutoff": options.integer(
    0, "only the first so many rows of w; 0: all", low=0
  ),
  "w_average": options.flag(
    True, "False: the weights have none, and psi must be 1", bound=True
  ),
  "noise": options.choice(
    "const",
    ("const", "random", "none"),
    "stored maps, drawn per latent, or none",
  ),
  "conv_clamp": options.number(
    0.0, "clamps maps to +-conv_clamp (256 in ADA); 0: no", low=0
  ),
  "crop_rows": options.several(
    (),
    options.integer(low=0),
    "(first, end) of the rows that are kept; (64, 448) for LSUN cars",
    lengths=(0, 2),
  ),
}


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """The sizes of a network; `resolutions` ascend from 4."""

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


def _sizes(cfg) -> _Sizes:
  return _Sizes(cfg, tuple(2**k for k in range(2, cfg.resolution.bit_length())))


def _check(cfg, sizes):
  """Refuses options that do not fit together."""

  def refuse(name, allowed):
    options.refuse(f"generator.{name}", cfg[name], allowed)

  if cfg.channel_base < cfg.resolution:
    refuse("channel_base", f">= resolution, {cfg.resolution}")
  if cfg.truncation_psi != 1 and not cfg.w_average:
    refuse(
      "truncation_psi",
      "1 with w_average=False: the weights have no average of w to move to",
    )
  rows = tuple(cfg.crop_rows)
  if rows and not rows[0] < rows[1] <= cfg.resolution:
    refuse("crop_rows", f"() or (first, end) within 0..{cfg.resolution}")
  if cfg.truncation_cutoff > sizes.num_ws:
    refuse(
      "truncation_cutoff",
      f"<= {sizes.num_ws}, the rows of w at {cfg.resolution} px",
    )
  if cfg.latent != "z" and cfg.noise == "random":
    refuse(
      "noise",
      f"const or none with latent {cfg.latent!r}: random noise is drawn from "
      "the bits of the latent, and those of w are rounded",
    )
  if cfg.latent == "w" and cfg.truncation_cutoff and cfg.truncation_psi != 1:
    refuse(
      "truncation_cutoff",
      "0 with latent 'w'; a cutoff needs more than one w: latent 'w+'",
    )


def _init(normal, sizes):
  """The untrained network, as its authors initialize it (rng.one_draw)."""
  cfg = sizes.cfg

  def dense(inputs, outputs, bias=0.0):
    kernel = normal((inputs, outputs)) / inputs**0.5
    return {"kernel": kernel, "bias": jnp.full((outputs,), bias)}

  def layer(side, inputs, outputs):
    return {
      "kernel": normal((3, 3, inputs, outputs)),
      "affine": dense(cfg.w_dim, inputs, 1.0),
      "bias": jnp.zeros((outputs,)),
      "noise_strength": jnp.zeros(()),
      "noise_const": normal((side, side)),
    }

  first = cfg.z_dim
  dense_layers = {}
  if cfg.num_classes:
    dense_layers["embed"] = dense(cfg.num_classes, cfg.w_dim)
    first += cfg.w_dim
  for i in range(cfg.mapping_layers):
    dense_layers[f"fc{i}"] = dense(cfg.w_dim if i else first, cfg.w_dim)
  if cfg.w_average:
    dense_layers["w_avg"] = jnp.zeros((cfg.w_dim,))
  inputs = sizes.width(4)
  blocks = {"const": normal((4, 4, inputs))}
  for side in sizes.resolutions:
    outputs = sizes.width(side)
    block = {"conv1": layer(side, outputs, outputs)}
    if side > 4:
      block["conv0"] = layer(side, inputs, outputs)
    scale = outputs**-0.5
    block["torgb"] = {
      "kernel": scale * normal((1, 1, outputs, cfg.channels)),
      "affine": dense(cfg.w_dim, outputs, 1.0),
      "bias": jnp.zeros((cfg.channels,)),
    }
    blocks[f"b{side}"] = block
    inputs = outputs
  return {"params": {"mapping": dense_layers, "synthesis": blocks}}


def _dense(layer, x):
  return x @ layer["kernel"] + layer["bias"]


def mapping(variables, z, y, *, cfg) -> jax.Array:
  """Maps latents to styles, before truncation.

  Args:
    variables: of `init` or `convert`.
    z: [n z_dim].
    y: int [n]; unused when unconditional.
    cfg: a complete entry with the keys of `OPTIONS`.

  Returns:
    w, float32 [n w_dim].
  """
  params = variables["params"]["mapping"]
  x = ops.pixel_norm(z.astype(jnp.float32))
  if cfg.num_classes:
    embed = params["embed"]
    label = embed["kernel"][y] + embed["bias"]
    x = jnp.concatenate([x, ops.pixel_norm(label)], axis=-1)
  for i in range(cfg.mapping_layers):
    x = ops.leaky_relu(_dense(params[f"fc{i}"], x))
  return x


def truncate(variables, w, *, cfg) -> jax.Array:
  """Repeats w [n w_dim] for every layer and moves it to the average.

  Returns:
    [n num_ws w_dim]; only the first `truncation_cutoff` rows are moved.
  """
  sizes = _sizes(cfg)
  rows = jnp.repeat(w[:, None], sizes.num_ws, axis=1)
  if cfg.truncation_psi == 1:
    return rows
  average = variables["params"]["mapping"]["w_avg"]
  moved = average + cfg.truncation_psi * (rows - average)
  cutoff = cfg.truncation_cutoff or sizes.num_ws
  return jnp.concatenate([moved[:, :cutoff], rows[:, cutoff:]], axis=1)


def latent_keys(z: jax.Array, y: jax.Array) -> jax.Array:
  """Derives one PRNG key per latent from the bits of z and from y.

  So random noise is a function of the latent: `apply` stays pure, and a batch
  of any size or order draws the same noise for the same (z, y).

  Args:
    z: [n d].
    y: int [n].

  Returns:
    Keys [n].
  """
  bits = jax.lax.bitcast_convert_type(z.astype(jnp.float32), jnp.uint32)
  index = jnp.arange(z.shape[-1], dtype=jnp.uint32)
  words = []
  for odd in (jnp.uint32(0x9E3779B1), jnp.uint32(0x85EBCA77)):
    mixed = (bits ^ (bits >> 15)) * (2 * index * odd + odd)
    words.append(jnp.sum(mixed ^ (mixed >> 13), axis=-1, dtype=jnp.uint32))
  key = rng.key(_NOISE_STREAM)
  for word in (*words, y.astype(jnp.uint32)):
    fold = jax.vmap(jax.random.fold_in, in_axes=(0 if key.ndim else None, 0))
    key = fold(key, word)
  return key


def _clamp(x, cfg):
  if not cfg.conv_clamp:
    return x
  return jnp.clip(x, -cfg.conv_clamp, cfg.conv_clamp)


def _noise(layer, side, keys, index, cfg):
  """The noise term of layer `index`: [1 or n, side, side, 1], or 0."""
  if cfg.noise == "none":
    return 0.0
  if cfg.noise == "const":
    maps = layer["noise_const"][None]
  else:
    draw = functools.partial(jax.random.normal, shape=(side, side))
    maps = jax.vmap(lambda key: draw(jax.random.fold_in(key, index)))(keys)
  return (layer["noise_strength"] * maps)[..., None]


def _conv_layer(layer, x, w, noise, cfg, *, up=False):
  """Style, modulated convolution, noise, bias, activation, clamp."""
  x = ops.modulated_conv(x, layer["kernel"], _dense(layer["affine"], w), up=up)
  x = x + jnp.asarray(noise, x.dtype) + layer["bias"].astype(x.dtype)
  return _clamp(ops.leaky_relu(x), cfg)


def _to_rgb(layer, x, w, cfg):
  """One block's share of the image, float32."""
  style = _dense(layer["affine"], w)
  x = ops.modulated_conv(x, layer["kernel"], style, demodulate=False)
  return _clamp(x.astype(jnp.float32) + layer["bias"], cfg)


def synthesis(variables, rows, keys, *, cfg, dtype=jnp.float32) -> jax.Array:
  """Draws images from styles.

  Args:
    variables: of `init` or `convert`.
    rows: [n num_ws w_dim] of `truncate`.
    keys: [n] of `latent_keys`; only random noise reads them.
    cfg: a complete entry with the keys of `OPTIONS`.
    dtype: type of the maps; styles, demodulation and the image are float32.

  Returns:
    float32 [n r r channels], unbounded.
  """
  params = variables["params"]["synthesis"]
  const = params["const"].astype(dtype)
  x = jnp.broadcast_to(const, (rows.shape[0], *const.shape))
  image = None
  for b, side in enumerate(_sizes(cfg).resolutions):
    block = params[f"b{side}"]
    if b:
      noise = _noise(block["conv0"], side, keys, 2 * b - 1, cfg)
      x = _conv_layer(
        block["conv0"], x, rows[:, 2 * b - 1], noise, cfg, up=True
      )
    noise = _noise(block["conv1"], side, keys, 2 * b, cfg)
    x = _conv_layer(block["conv1"], x, rows[:, 2 * b], noise, cfg)
    # ToRGB shares its row with the first layer of the next block.
    share = _to_rgb(block["torgb"], x, rows[:, 2 * b + 1], cfg)
    image = share if image is None else ops.upsample(image) + share
  return image


def encode(variables, z, y, *, cfg) -> jax.Array:
  """Maps drawn z to the latent in w that T_z moves; truncation is in it.

  Args:
    variables: of `init` or `convert`.
    z: [n z_dim].
    y: int [n].
    cfg: a complete entry with the keys of `OPTIONS`, latent "w" or "w+".

  Returns:
    float32 [n w_dim], or [n num_ws*w_dim], the layers' w one after the other.
  """
  rows = truncate(variables, mapping(variables, z, y, cfg=cfg), cfg=cfg)
  return rows[:, 0] if cfg.latent == "w" else rows.reshape(len(rows), -1)


def raw(variables, latents, y, *, cfg, dtype=jnp.float32) -> jax.Array:
  """Runs the whole network, or what follows w: no crop, no clip.

  Args:
    variables: of `init` or `convert`.
    latents: [n latent_dim]: z, or of `encode` if cfg.latent is "w" or "w+".
    y: int [n].
    cfg: a complete entry with the keys of `OPTIONS`.
    dtype: type of the maps.

  Returns:
    float32 [n r r channels], unbounded; nominally in [-1, 1].
  """
  if cfg.latent == "z":
    w = mapping(variables, latents, y, cfg=cfg)
    rows = truncate(variables, w, cfg=cfg)
  else:
    rows = latents.reshape(len(latents), -1, cfg.w_dim)
    layers = (len(latents), _sizes(cfg).num_ws, cfg.w_dim)
    rows = jnp.broadcast_to(rows.astype(jnp.float32), layers)
  keys = latent_keys(latents, y) if cfg.noise == "random" else None
  return synthesis(variables, rows, keys, cfg=cfg, dtype=dtype)


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a complete entry with the keys of `OPTIONS`.
    dtype: compute type of the maps; images are float32.

  Returns:
    A Generator whose variables are {"params": {"mapping", "synthesis"}}.

  Raises:
    UsageError: options that do not fit together.
  """
  sizes = _sizes(cfg)
  _check(cfg, sizes)
  first, end = tuple(cfg.crop_rows) or (0, cfg.resolution)

  def sample(key):
    return rng.latent_and_class(
      key, cfg.z_dim, cfg.num_classes, truncation=cfg.truncation
    )

  def cropped(variables, latents, y):
    return raw(variables, latents, y, cfg=cfg, dtype=dtype)[:, first:end]

  in_w = functools.partial(encode, cfg=cfg)
  return Generator(
    resolution=(end - first, cfg.resolution),
    channels=cfg.channels,
    latent_dim=sizes.latent_dim,
    num_classes=cfg.num_classes,
    init=lambda key: rng.one_draw(key, functools.partial(_init, sizes=sizes)),
    sample=sample,
    apply=lambda *arguments: jnp.clip(cropped(*arguments), -1, 1),
    encode_latent=None if cfg.latent == "z" else in_w,
    raw=cropped,
  )


CONVERTER = Converter(
  _stylegan2_source.convert,
  options={
    "truncation_psi": OPTIONS["truncation_psi"],
    "conv_clamp": OPTIONS["conv_clamp"],
    "noise_seed": options.integer(
      0, "of the noise maps, where the file has none", low=0, high=2**32 - 1
    ),
  },
  parameters=_stylegan2_source.parameter_count,
  truncation="truncation_psi",
)

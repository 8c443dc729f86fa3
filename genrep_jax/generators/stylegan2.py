"""StyleGAN2's generator (Karras et al. 2020), as released and as in ADA.

Mapping network, style truncation, and the skip synthesis network of config-e
and config-f; conditional models embed the class beside the latent (Karras et
al. 2020, "Training GANs with Limited Data"). Any power-of-two resolution.

Variables hold effective weights: the equalised learning rate's run-time
factors are folded in by `init` and by `convert`, so a layer is kernel and bias.

The latent may be w instead of z, one for all layers or one for each ("w+"), so
that T_z moves single layers: `latent`.

The network's own range is unbounded. `apply` of the contract clips to [-1, 1],
as writing an 8-bit picture would; `raw` returns what the network says.
"""

import functools

import jax
import jax.numpy as jnp

from genrep_jax.generators import _stylegan2_ops as ops
from genrep_jax.generators._stylegan2_options import (
  checked as _checked,
  default_config as default_config,
)
from genrep_jax.generators._stylegan2_source import (
  convert as convert,
  expected_keys as expected_keys,
  parameter_count as parameter_count,
)
from genrep_jax.lib import rng
from genrep_jax.lib.contracts import Generator

_NOISE_STREAM = 0x57796C65  # any constant: the noise depends on the latent

# Options that say how weights are used, not which they are (lib/frozen.py).
FREE_OPTIONS = (
  "latent",
  "truncation",
  "truncation_psi",
  "truncation_cutoff",
  "noise",
  "conv_clamp",
  "crop_rows",
  "clip",
)
NATIVE_OPTIONS = {"clip": False}  # the network's own range, for comparisons


def _init(normal, sizes):
  """The untrained network, as its authors initialise it (rng.one_draw)."""
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
    cfg: a config with the keys of `default_config`.

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
  sizes = _checked(cfg)
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
  key = jax.random.key(_NOISE_STREAM)
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
    cfg: a config with the keys of `default_config`.
    dtype: type of the maps; styles, demodulation and the image are float32.

  Returns:
    float32 [n r r channels], unbounded.
  """
  params = variables["params"]["synthesis"]
  const = params["const"].astype(dtype)
  x = jnp.broadcast_to(const, (rows.shape[0], *const.shape))
  image = None
  for b, side in enumerate(_checked(cfg).resolutions):
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
    cfg: a config with the keys of `default_config`, latent "w" or "w+".

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
    cfg: a config with the keys of `default_config`.
    dtype: type of the maps.

  Returns:
    float32 [n r r channels], unbounded; nominally in [-1, 1].
  """
  if cfg.latent == "z":
    w = mapping(variables, latents, y, cfg=cfg)
    rows = truncate(variables, w, cfg=cfg)
  else:
    rows = latents.reshape(len(latents), -1, cfg.w_dim)
    layers = (len(latents), _checked(cfg).num_ws, cfg.w_dim)
    rows = jnp.broadcast_to(rows.astype(jnp.float32), layers)
  keys = latent_keys(latents, y) if cfg.noise == "random" else None
  return synthesis(variables, rows, keys, cfg=cfg, dtype=dtype)


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a config with the keys of `default_config`.
    dtype: compute type of the maps; images are float32.

  Returns:
    A Generator whose variables are {"params": {"mapping", "synthesis"}}.

  Raises:
    UsageError: an option outside its range.
  """
  sizes = _checked(cfg)
  first, end = tuple(cfg.crop_rows) or (0, cfg.resolution)

  def sample(key):
    return rng.latent_and_class(
      key, cfg.z_dim, cfg.num_classes, truncation=cfg.truncation
    )

  def apply(variables, latents, y):
    images = raw(variables, latents, y, cfg=cfg, dtype=dtype)[:, first:end]
    return jnp.clip(images, -1, 1) if cfg.clip else images

  in_w = functools.partial(encode, cfg=cfg)
  return Generator(
    resolution=(end - first, cfg.resolution),
    channels=cfg.channels,
    latent_dim=sizes.latent_dim,
    num_classes=cfg.num_classes,
    init=lambda key: rng.one_draw(key, functools.partial(_init, sizes=sizes)),
    sample=sample,
    apply=apply,
    encode_latent=None if cfg.latent == "z" else in_w,
  )

"""Images of an untrained StyleGAN2, in four variants of its weights.

Baradad et al. 2021, "Learning to See by Looking at Noise", section 3.4: the
synthesis network with ReLU and no mapping network; each layer's w is a leaky
ReLU (slope 0.2) of standard normals. The image's channels are standardized and
given random means and deviations like those of photographs.

- random: all weights as their authors initialize them; no noise, no biases.
- high_freq: every 3x3 filter is one of a bank of 40 wavelets, one per input
  channel, times a normal number per output channel, of which demodulation
  leaves the sign. Each layer adds pink noise of strength U(0, 0.3).
- sparse: as high_freq, but each noise map is multiplied by a smooth envelope of
  4x4 Laplace numbers, and biases are U(0, 0.2).
- oriented: another bank, of which each layer uses a random subset of 5 to 40
  wavelets; one noise map, of 512 px, is shrunk to every layer; biases are
  U(-0.2, 0.2).

Departures from the recipe, and why:
- constant, styles' affine layers and noise maps (and all weights of `random`)
  are drawn by `init` and stay; the recipe redraws them every 400 images: a
  frozen generator has one set. What it redraws at every forward pass (filters,
  signs, subsets, ToRGB, biases, strengths) is in the latent here. A moved
  latent exchanges the filters of a few channels: small steps, no gradient;
- a layer has 16 noise maps (`noise_maps`) instead of 100, and its map is a soft
  choice among them by the latent, of unit norm and mostly one map, instead of a
  hard one: so that it moves smoothly with the latent. `oriented` chooses among
  as many; the recipe draws its one map anew;
- the recipe's network is 256 px; this one has any power of two.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.generators import (
  _procedural_latent as latent,
  _stylegan2_ops as ops,
)

VARIANTS = ("random", "high_freq", "sparse", "oriented")
_STRENGTH = 0.3  # of the noise, the largest
_BIASES = {"sparse": (0.0, 0.2), "oriented": (-0.2, 0.2)}
_SHARED_PX = 512  # side of oriented's noise map
_SHARPNESS = 4.0  # of the soft choice of a noise map
_BANK = 40  # wavelets of a bank
_SUBSET = 5  # of the bank, the smallest
# Of the channels, in [0, 1]: mean and std of their means and deviations.
_MEANS = ((0.483, 0.145), (0.455, 0.142), (0.401, 0.161))
_DEVIATIONS = ((0.219, 0.063), (0.213, 0.062), (0.213, 0.069))


def _sides(cfg) -> list[int]:
  """Returns the sides of the network's maps: 4, 8, ..., resolution."""
  return [2**k for k in range(2, cfg.resolution.bit_length())]


def _width(cfg, side: int) -> int:
  return min(cfg.channel_base // side, cfg.channel_max)


def _layers(cfg) -> list[tuple[str, int, int, int]]:
  """Returns (name, side, channels in, channels out) of the 3x3 layers."""
  found = []
  for side in _sides(cfg):
    if side > 4:
      found.append((f"b{side}_conv0", side, _width(cfg, side // 2), 0))
    found.append((f"b{side}_conv1", side, _width(cfg, side), 0))
  return [(n, s, i, _width(cfg, s)) for n, s, i, _ in found]


def fields(cfg, variant: str) -> latent.Fields:
  """Returns the fields of the latent."""
  layers = _layers(cfg)
  found = {"w": (len(layers) + 1, cfg.w_dim), "mean": (3,), "deviation": (3,)}
  if variant == "random":
    return found
  maps = 1 if variant == "oriented" else len(layers)
  found |= {"strength": (len(layers),), "map": (maps, cfg.noise_maps)}
  if variant == "oriented":
    found |= {"order": (len(layers), _BANK), "subset": (len(layers),)}
  for name, side, inputs, outputs in layers:
    found |= {f"{name}_filter": (inputs,), f"{name}_sign": (outputs,)}
    if variant in _BIASES:
      found[f"{name}_bias"] = (outputs,)
    if name.endswith("conv1"):
      found[f"b{side}_torgb"] = (outputs, 3)
  return found


def wavelets(variant: str) -> np.ndarray:
  """Returns the bank of 40 filters [40 3 3] of a variant.

  Edges and lines are 3x3 windows of an ideal edge or one pixel wide line under
  rotation, sampled bilinearly.
  """
  y, x = np.mgrid[-1:2, -1:2]

  def window(profile, degrees):
    angle = np.deg2rad(degrees)
    across = np.cos(angle) * x + np.sin(angle) * y
    return profile(across)

  def edge(across):
    return np.clip(-across, -1, 1)

  def line(across):
    return np.clip(2 * np.abs(across) - 1, -1, 1)

  def centered(window):
    return window - window.mean()

  def sign(window):
    return np.sign(np.round(window, 6))

  halves = [i * 22.5 for i in range(8)]
  if variant == "oriented":
    bank = [centered(window(edge, a)) for a in halves]
    bank += [centered(window(line, a)) for a in halves]
  else:  # edges of all 16 directions: half of them are the others, negated
    bank = [sign(centered(window(edge, a))) for a in halves]
    bank += [sign(window(line, a)) for a in halves]
  delta = 1.0 * ((x == 0) & (y == 0))
  plus = 1.0 * ((x == 0) | (y == 0))
  bank += [delta, 2 * delta - 1, plus, 2 * plus - 1]
  return np.stack([*bank, *(-w for w in bank)]).astype(np.float32)


def pink_maps(take, count: int, side: int, *, envelope: bool) -> jax.Array:
  """Draws noise maps of spectrum 1/f^a, a ~ U(0.5, 1.5), and unit deviation.

  Args:
    take: shape -> standard normals.
    count: how many.
    side: in pixels.
    envelope: whether each is multiplied by a Lanczos-resized 4x4 Laplace field.

  Returns:
    [count side side].
  """
  f = jnp.fft.fftfreq(side)
  radius = jnp.sqrt(f[:, None] ** 2 + f[None, :] ** 2)
  slope = 0.5 + latent.uniform(take((count, 1, 1)))
  away = jnp.where(radius > 0, radius, 1.0)
  magnitude = jnp.where(radius > 0, away**-slope, 0.0)
  # A white field's phases are uniform and make the result real.
  white = jnp.fft.fft2(take((count, side, side)))
  maps = jnp.fft.ifft2(magnitude * white / jnp.abs(white)).real
  if envelope:
    u = latent.uniform(take((count, 4, 4))) - 0.5
    coarse = -jnp.sign(u) * jnp.log1p(-2 * jnp.abs(u))  # Laplace of scale 1
    maps *= jax.image.resize(coarse, maps.shape, "lanczos3")
  return maps / jnp.std(maps, axis=(1, 2), keepdims=True)


def _draw(take, cfg, variant: str) -> dict:
  """Draws the parameters from a source of standard normals, by shape."""

  def affine(outputs):
    kernel = take((cfg.w_dim, outputs)) / cfg.w_dim**0.5
    return {"kernel": kernel, "bias": jnp.ones((outputs,))}

  params = {"const": take((4, 4, _width(cfg, 4)))}
  for name, side, inputs, outputs in _layers(cfg):
    params[name] = {"affine": affine(inputs)}
    if variant == "random":
      params[name]["kernel"] = take((3, 3, inputs, outputs))
    if variant in ("high_freq", "sparse"):
      params[name]["maps"] = pink_maps(
        take, cfg.noise_maps, side, envelope=variant == "sparse"
      )
  for side in _sides(cfg):
    width = _width(cfg, side)
    params[f"b{side}_torgb"] = {"affine": affine(width)}
    if variant == "random":
      params[f"b{side}_torgb"]["kernel"] = take((width, 3))
  if variant == "oriented":
    shared = max(_SHARED_PX, cfg.resolution)
    maps = pink_maps(take, cfg.noise_maps, shared, envelope=True)
    for side in _sides(cfg):  # resized by areas
      cells = shared // side
      blocks = maps.reshape(-1, side, cells, side, cells)
      params[f"b{side}_maps"] = blocks.mean((2, 4))
  return params


def init(key: jax.Array, cfg, variant: str) -> dict:
  """Draws the untrained network.

  Args:
    key: a PRNG key.
    cfg: the generator's config.
    variant: one of VARIANTS.

  Returns:
    {"params"}: float32.
  """
  # One draw, cut up: a draw per array would take a minute to compile.
  counts = []

  def count(shape):
    counts.append(math.prod(shape))
    return jnp.zeros(shape)

  jax.eval_shape(lambda: _draw(count, cfg, variant))
  numbers = jax.random.normal(key, (sum(counts),))
  ends = iter(np.cumsum(counts).tolist())

  def take(shape):
    end = next(ends)
    return numbers[end - math.prod(shape) : end].reshape(shape)

  return {"params": _draw(take, cfg, variant)}


def _style(layer, w):
  return w @ layer["affine"]["kernel"] + layer["affine"]["bias"]


def choice(z: jax.Array) -> jax.Array:
  """Weights of a soft choice, of unit norm: normals [... m] -> [... m]."""
  weights = jax.nn.softmax(_SHARPNESS * z)
  return weights / jnp.linalg.norm(weights, axis=-1, keepdims=True)


def _wavelet_conv(x, parts, name: str, index: int, style, variant: str):
  """A modulated 3x3 convolution whose filters come from the latent.

  Demodulation leaves of an output's weight its sign. So all outputs are one
  map, up to a sign, and nine maps, one per tap, are enough to make it.

  Args:
    x: [n h w c].
    parts: the latent's fields, [n ...].
    name: of the layer.
    index: of the layer.
    style: [n c].
    variant: one of VARIANTS but random.

  Returns:
    [n h w o], or [n 2h 2w o] if the layer doubles the resolution.
  """
  bank = jnp.asarray(wavelets(variant)).reshape(_BANK, 9)
  u = latent.uniform(parts[f"{name}_filter"])
  if variant == "oriented":  # the first few of the bank in random order
    order = jnp.argsort(parts["order"][:, index], axis=-1)
    few = _BANK - _SUBSET + 1
    most = _SUBSET + jnp.floor(latent.uniform(parts["subset"][:, index]) * few)
    at = jnp.minimum(jnp.floor(u * most[:, None]), most[:, None] - 1)
    at = jnp.take_along_axis(order, at.astype(int), axis=-1)
  else:
    at = jnp.minimum((u * _BANK).astype(int), _BANK - 1)
  weights = bank[at] * style[..., None]  # [n c tap]
  norm = jax.lax.rsqrt(jnp.sum(jnp.square(weights), (1, 2)) + 1e-8)
  weights = (weights * norm[:, None, None]).astype(x.dtype)
  taps = jnp.einsum("nhwc,nct->nhwt", x, weights)
  gather = jnp.eye(9, dtype=x.dtype).reshape(3, 3, 9, 1)  # adds tap by tap
  up = name.endswith("conv0")
  y = ops.up_conv(taps, gather) if up else ops.conv(taps, gather)
  signs = jnp.sign(parts[f"{name}_sign"])
  return y * signs[:, None, None, :].astype(x.dtype)


def _noise(params, parts, index: int, name: str, side: int, variant: str):
  """The noise of a layer: [n h w 1]."""
  maps = params[f"b{side}_maps"] if variant == "oriented" else None
  maps = params[name]["maps"] if maps is None else maps
  weights = choice(parts["map"][:, 0 if variant == "oriented" else index])
  strength = _STRENGTH * latent.uniform(parts["strength"][:, index])
  noise = jnp.einsum("nj,jhw->nhw", weights, maps)
  return (strength[:, None, None] * noise)[..., None]


def raw(variables, parts, cfg, variant: str, dtype) -> jax.Array:
  """Runs the network, before its colors are set.

  Args:
    variables: of `init`.
    parts: the latents' fields, [n ...].
    cfg: the generator's config.
    variant: one of VARIANTS.
    dtype: type of the maps.

  Returns:
    float32 [n h w 3], unbounded.
  """
  params = variables["params"]
  rows = jax.nn.leaky_relu(parts["w"], 0.2)
  const = params["const"].astype(dtype)
  x = jnp.broadcast_to(const, (rows.shape[0], *const.shape))
  image = None
  for index, (name, side, _, outputs) in enumerate(_layers(cfg)):
    layer, up = params[name], name.endswith("conv0")
    style = _style(layer, rows[:, index])
    if variant == "random":
      x = ops.modulated_conv(x, layer["kernel"], style, up=up)
    else:
      x = _wavelet_conv(x, parts, name, index, style, variant)
      noise = _noise(params, parts, index, name, side, variant)
      x = x + noise.astype(dtype)
    if variant in _BIASES:
      low, high = _BIASES[variant]
      bias = low + (high - low) * latent.uniform(parts[f"{name}_bias"])
      x = x + bias[:, None, None, :].astype(dtype)
    x = jax.nn.relu(x) * jnp.asarray(2**0.5, dtype)
    if up:
      continue
    rgb = params[f"b{side}_torgb"]  # shares the next layer's row
    style = _style(rgb, rows[:, index + 1]) / outputs**0.5
    kernel = rgb["kernel"] if variant == "random" else parts[f"b{side}_torgb"]
    weights = (style[..., None] * kernel).astype(dtype)
    share = jnp.einsum("nhwc,nco->nhwo", x, weights).astype(jnp.float32)
    image = share if image is None else ops.upsample(image) + share
  return image


def recolor(image: jax.Array, mean: jax.Array, deviation: jax.Array):
  """Gives an image's channels means and deviations drawn like photographs'.

  Args:
    image: [h w 3], unbounded.
    mean: [3], standard normals.
    deviation: [3], standard normals.

  Returns:
    [h w 3] in [0, 1], clipped.
  """
  at = jnp.asarray(_MEANS)
  by = jnp.asarray(_DEVIATIONS)
  means = at[:, 0] + at[:, 1] * mean
  deviations = by[:, 0] + by[:, 1] * deviation
  centered = image - image.mean((0, 1))
  variance = jnp.mean(jnp.square(centered), (0, 1))
  standard = centered * jax.lax.rsqrt(variance + 1e-12)
  return jnp.clip(standard * deviations + means, 0, 1)


def images(variables, z: jax.Array, cfg, variant: str, dtype) -> jax.Array:
  """Draws images [n h w 3] in [-1, 1] of latents [n latent_dim]."""
  shapes = fields(cfg, variant)
  parts = jax.vmap(lambda one: latent.split(one, shapes))(z)
  unbounded = raw(variables, parts, cfg, variant, dtype)
  colors = parts["mean"], parts["deviation"]
  return 2 * jax.vmap(recolor)(unbounded, *colors) - 1

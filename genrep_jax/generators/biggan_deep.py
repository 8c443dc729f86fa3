"""BigGAN-deep: class-conditional, 128, 256 or 512 pixels.

Brock et al. 2019, appendix B, as in the PyTorch package
pytorch-pretrained-biggan 0.1.1, whose checkpoints `convert` reads. The
condition [z, class embedding] enters the first linear layer and every batch
norm. Skips have no weights: they drop channels and repeat pixels.

Statistics of the batch norms belong to one truncation t of the latents, chosen
at conversion: the checkpoints hold a row for every t on a grid of 0.02.
"""

import functools
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.generators import _biggan
from genrep_jax.generators.contrib import biggan_tf
from genrep_jax.lib import foreign, options as options_lib, rng
from genrep_jax.lib.contracts import Converter, Generator

_START_PX = 4
_ATTENTION = 8  # stands before this block, at 64 x 64 pixels
_ROWS = 51  # of statistics: truncation 0, 0.02, ..., 1

# Per resolution: (upsamples, channels in, channels out), in units of `ch`.
_TO_64 = ((0, 16, 16), (1, 16, 16), (0, 16, 16), (1, 16, 8), (0, 8, 8))
_BLOCKS = {
  128: (*_TO_64, (1, 8, 4), (0, 4, 4), (1, 4, 2), (0, 2, 2), (1, 2, 1)),
  256: (
    *(*_TO_64, (1, 8, 8), (0, 8, 8), (1, 8, 4)),
    *((0, 4, 4), (1, 4, 2), (0, 2, 2), (1, 2, 1)),
  ),
}
_BLOCKS[512] = (*_BLOCKS[256], (0, 1, 1), (1, 1, 1))

OPTIONS = {
  "resolution": options_lib.one_of(
    128, tuple(_BLOCKS), "of the images", unit="px", bound=True
  ),
  "ch": options_lib.integer(
    128,
    "width",
    low=4,
    high=1024,
    only=("a multiple of 4", lambda ch: ch % 4 == 0),
    unit="channels",
    bound=True,
  ),
  "num_classes": options_lib.integer(
    1000, "classes", low=1, high=65536, bound=True
  ),
  "latent_dim": options_lib.integer(
    128, "length of z", low=1, high=65536, bound=True
  ),
  "embedding_dim": options_lib.integer(
    128, "of a class", low=1, high=65536, bound=True
  ),
  # Bound: the batch statistics in a file are those of one truncation.
  "truncation": options_lib.number(
    1.0,
    "z = truncation * a normal cut at +-2",
    above=0,
    high=1,
    bound=True,
  ),
  "classes": options_lib.several(
    (),
    options_lib.integer(low=0, high=65535),
    "that are drawn, e.g. ImageNet-100's; (): all",
  ),
}


def _blocks(options: Mapping) -> list[tuple[int, int, int]]:
  """Returns (upsamples, channels in, channels out) of every block."""
  ch = options["ch"]
  return [(up, i * ch, o * ch) for up, i, o in _BLOCKS[options["resolution"]]]


def _norms(inputs: int) -> tuple[int, ...]:
  """Returns the channels of a block's four batch norms."""
  return (inputs, *[inputs // 4] * 3)


def _convs(inputs: int, outputs: int) -> tuple[tuple[int, int, int], ...]:
  """Returns (kernel side, channels in, out) of a block's convolutions."""
  mid = inputs // 4
  return (1, inputs, mid), (3, mid, mid), (3, mid, mid), (1, mid, outputs)


def _shapes(options: Mapping) -> dict:
  """Returns the nested dict of the variables' shapes."""
  ch = options["ch"]
  condition = options["latent_dim"] + options["embedding_dim"]
  shapes = {
    "embed": {"kernel": (options["num_classes"], options["embedding_dim"])},
    "gen_z": _biggan.layer_shapes(condition, _START_PX**2 * 16 * ch),
    "out_bn": {name: (ch,) for name in ("scale", "bias", "mean", "var")},
    "to_rgb": _biggan.layer_shapes(3, 3, ch, 3),
  }
  for i, (_, inputs, outputs) in enumerate(_blocks(options)):
    block = {}
    for j, c in enumerate(_norms(inputs)):
      block[f"bn_{j}"] = {
        "mean": (c,),
        "var": (c,),
        "scale_kernel": (condition, c),
        "offset_kernel": (condition, c),
      }
    for j, (side, c_in, c_out) in enumerate(_convs(inputs, outputs)):
      block[f"conv_{j}"] = _biggan.layer_shapes(side, side, c_in, c_out)
    shapes[f"block_{i}"] = block
    if i == _ATTENTION:
      shapes["attn"] = _biggan.attention_shapes(inputs)
  return shapes


def _block(block: Mapping, x, condition, up: int) -> jax.Array:
  """One residual block: [n h w in] -> [n h w out], or twice the size."""
  y = x
  for j in range(4):
    norm = block[f"bn_{j}"]
    gain, bias = _biggan.modulation(
      condition, norm["scale_kernel"], norm["offset_kernel"]
    )
    y = _biggan.batch_norm_relu(
      y, gain, bias, norm["mean"], norm["var"], _biggan.BATCH_NORM_EPSILON
    )
    if up and j == 1:
      y = _biggan.upsample(y)
    y = _biggan.conv(y, block[f"conv_{j}"])
  x = x[..., : y.shape[-1]]
  return y + (_biggan.upsample(x) if up else x)


def activations(
  options: Mapping, dtype, variables: Mapping, z: jax.Array, y: jax.Array
) -> Iterator[tuple[str, jax.Array]]:
  """Runs the network, yielding (name, map [n h w c]); the last is "images".

  Args:
    options: a mapping with the keys of `OPTIONS`.
    dtype: compute type of the maps.
    variables: the network's.
    z: [n latent_dim].
    y: int [n], classes.
  """
  z = z.astype(jnp.float32)
  condition = jnp.concatenate([z, variables["embed"]["kernel"][y]], axis=-1)
  x = _biggan.linear(condition.astype(dtype), variables["gen_z"])
  x = x.reshape(-1, _START_PX, _START_PX, 16 * options["ch"])
  yield "gen_z", x
  for i, (up, _, _) in enumerate(_blocks(options)):
    if i == _ATTENTION:
      x = _biggan.attention(x, variables["attn"])
      yield "attention", x
    x = _block(variables[f"block_{i}"], x, condition, up)
    yield f"block_{i}", x
  norm = variables["out_bn"]
  x = _biggan.batch_norm_relu(
    x,
    norm["scale"],
    norm["bias"],
    norm["mean"],
    norm["var"],
    _biggan.BATCH_NORM_EPSILON,
  )
  x = _biggan.conv(x, variables["to_rgb"])
  yield "images", jnp.tanh(x.astype(jnp.float32))


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a checked entry with the keys of `OPTIONS`. `truncation` scales the
      latents only; the weights must be converted for the same one.
    dtype: compute type; variables and images are float32.

  Returns:
    A Generator whose variables are a nested dict without collections.
  """
  classes = tuple(cfg["classes"])
  if classes and max(classes) >= cfg["num_classes"]:
    options_lib.refuse(
      "generator.classes",
      max(classes),
      f"below {cfg['num_classes']}, generator.num_classes",
    )

  def sample(key):
    z, y = rng.latent_and_class(
      key,
      cfg["latent_dim"],
      len(classes) or cfg["num_classes"],
      sigma=cfg["truncation"],
      truncation=2.0,
    )
    return z, jnp.asarray(classes, jnp.int32)[y] if classes else y

  return _biggan.generator(
    _shapes(cfg),
    functools.partial(activations, cfg, dtype),
    resolution=cfg["resolution"],
    latent_dim=cfg["latent_dim"],
    num_classes=cfg["num_classes"],
    sample=sample,
  )


def _layer_index(block: int) -> int:
  """Index of a block among the source's layers, where attention is one."""
  return block + (block >= _ATTENTION)


def expected_keys(options: Mapping) -> dict[str, tuple[int, ...]]:
  """Returns key -> shape of the PyTorch checkpoint of a model.

  Args:
    options: a mapping with the keys of `OPTIONS`.
  """
  keys = {}

  def normed(name, *shape, bias=False):
    keys[f"{name}.weight_orig"] = shape
    keys[f"{name}.weight_u"] = shape[:1]
    keys[f"{name}.weight_v"] = (math.prod(shape[1:]),)
    if bias:
      keys[f"{name}.bias"] = shape[:1]

  def statistics(name, c):
    keys[f"{name}.running_means"] = keys[f"{name}.running_vars"] = (_ROWS, c)

  ch, embedding = options["ch"], options["embedding_dim"]
  condition = options["latent_dim"] + embedding
  keys["embeddings.weight"] = (embedding, options["num_classes"])
  normed("generator.gen_z", _START_PX**2 * 16 * ch, condition, bias=True)
  for i, (_, inputs, outputs) in enumerate(_blocks(options)):
    layer = f"generator.layers.{_layer_index(i)}"
    for j, c in enumerate(_norms(inputs)):
      statistics(f"{layer}.bn_{j}", c)
      normed(f"{layer}.bn_{j}.scale", c, condition)
      normed(f"{layer}.bn_{j}.offset", c, condition)
    for j, (side, c_in, c_out) in enumerate(_convs(inputs, outputs)):
      normed(f"{layer}.conv_{j}", c_out, c_in, side, side, bias=True)
    if i == _ATTENTION:
      layer, c = f"generator.layers.{_ATTENTION}", inputs
      keys[f"{layer}.gamma"] = (1,)
      normed(f"{layer}.snconv1x1_theta", c // 8, c, 1, 1)
      normed(f"{layer}.snconv1x1_phi", c // 8, c, 1, 1)
      normed(f"{layer}.snconv1x1_g", c // 2, c, 1, 1)
      normed(f"{layer}.snconv1x1_o_conv", c, c // 2, 1, 1)
  keys["generator.bn.weight"] = keys["generator.bn.bias"] = (ch,)
  statistics("generator.bn", ch)
  normed("generator.conv_to_rgb", ch, ch, 3, 3, bias=True)
  return keys


def parameter_count(options: Mapping) -> int:
  """Counts the parameters of the published model (all `ch` RGB outputs)."""
  return foreign.count(
    expected_keys(options), r"\.(weight_[uv]|running_(means|vars))$"
  )


def truncation_row(rows, truncation: float, *, hf_compat=False) -> np.ndarray:
  """Looks up stored statistics at a truncation, between rows if need be.

  Args:
    rows: [51 c]; row k belongs to truncation k/50.
    truncation: t in (0, 1].
    hf_compat: as pytorch-pretrained-biggan does it, bit for bit: between rows
      its weights are swapped, and t/0.02 that is off a whole number by a
      rounding error only (0.14, 0.28, 0.56, 0.58, 0.94) takes a neighbor.

  Returns:
    [c]; float32 with hf_compat, else float64.
  """
  if hf_compat:
    fraction, below = math.modf(truncation / (1.0 / (_ROWS - 1)))
    rows, below = np.asarray(rows, np.float32), int(below)
    if fraction == 0.0:
      return rows[below]
    return rows[below] * np.float32(fraction) + rows[below + 1] * np.float32(
      1 - fraction
    )
  rows = np.asarray(rows, np.float64)
  position = truncation * (_ROWS - 1)
  if math.isclose(position, round(position), rel_tol=1e-9):
    return rows[round(position)]
  below = math.floor(position)
  fraction = position - below
  return rows[below] * (1 - fraction) + rows[below + 1] * fraction


def _infer(arrays: Mapping[str, np.ndarray], truncation: float) -> dict:
  """Reads a model's options off the shapes of its checkpoint."""
  options = options_lib.defaults(OPTIONS) | {"truncation": truncation}
  deepest = [
    px
    for px, blocks in _BLOCKS.items()
    for layer in [_layer_index(len(blocks) - 1)]
    if any(key.startswith(f"generator.layers.{layer}.") for key in arrays)
  ]
  options["resolution"] = max(deepest, default=options["resolution"])
  for name, key, axis in (
    ("ch", "generator.bn.weight", 0),
    ("num_classes", "embeddings.weight", 1),
    ("embedding_dim", "embeddings.weight", 0),
  ):
    options[name] = _biggan.size(arrays, key, axis, options[name])
  condition = options["latent_dim"] + options["embedding_dim"]
  key = "generator.gen_z.weight_orig"
  condition = _biggan.size(arrays, key, 1, condition)
  options["latent_dim"] = condition - options["embedding_dim"]
  return options


def convert(
  arrays: Mapping[str, np.ndarray],
  *,
  truncation: float = 1.0,
  hf_compat: bool = False,
) -> tuple[dict, dict]:
  """Converts a PyTorch checkpoint of pytorch-pretrained-biggan.

  Args:
    arrays: the checkpoint, original key -> array; any width, all keys used.
    truncation: t in (0, 1] of the latents; selects the batch statistics.
    hf_compat: see `truncation_row`.

  Returns:
    (variables of float32 numpy arrays, options: values of all `OPTIONS`).

  Raises:
    UsageError: sizes out of range, or a missing, unexpected or mis-shaped key.
  """
  options = _infer(arrays, truncation)
  _biggan.check(OPTIONS, options)
  what = f"biggan_deep, {options['resolution']} px, ch {options['ch']}"
  foreign.check(what, arrays, expected_keys(options))

  def folded(name):
    weight, u, v = (arrays[f"{name}.weight_{part}"] for part in ("orig", *"uv"))
    sigma = _biggan.stored_sigma(weight, u, v)
    return _biggan.to_hwio(_biggan.divide(name, weight, sigma))

  def layer(name):
    return {"kernel": folded(name), "bias": arrays[f"{name}.bias"]}

  def statistics(name):
    return {
      leaf: truncation_row(
        arrays[f"{name}.running_{leaf}s"], truncation, hf_compat=hf_compat
      )
      for leaf in ("mean", "var")
    }

  variables = {
    "embed": {"kernel": arrays["embeddings.weight"].T},
    "gen_z": layer("generator.gen_z"),
    "out_bn": {
      "scale": arrays["generator.bn.weight"],
      "bias": arrays["generator.bn.bias"],
      **statistics("generator.bn"),
    },
    # Only after the division: the norm is that of all ch outputs.
    "to_rgb": {
      leaf: x[..., :3] for leaf, x in layer("generator.conv_to_rgb").items()
    },
  }
  for i in range(len(_blocks(options))):
    name = f"generator.layers.{_layer_index(i)}"
    block = {f"conv_{j}": layer(f"{name}.conv_{j}") for j in range(4)}
    for j in range(4):
      block[f"bn_{j}"] = {
        "scale_kernel": folded(f"{name}.bn_{j}.scale"),
        "offset_kernel": folded(f"{name}.bn_{j}.offset"),
        **statistics(f"{name}.bn_{j}"),
      }
    variables[f"block_{i}"] = block
  name = f"generator.layers.{_ATTENTION}"
  variables["attn"] = {
    leaf: folded(f"{name}.snconv1x1_{source}")[0, 0]
    for leaf, source in zip(
      ("theta", "phi", "g", "out"), ("theta", "phi", "g", "o_conv")
    )
  } | {"gamma": arrays[f"{name}.gamma"].reshape(())}
  return _biggan.to_float32(variables), options


CONVERTER = Converter(
  convert,
  options={
    "truncation": OPTIONS["truncation"],
    "hf_compat": options_lib.flag(
      False, "weigh two rows of statistics as the PyTorch package does"
    ),
  },
  from_tensorflow=biggan_tf.refuse_biggan_deep,
  parameters=parameter_count,
  truncation="truncation",
)

"""BigBiGAN's generator: unconditional, 128 pixels.

Donahue & Simonyan 2019: the generator of BigGAN (not -deep) at 128 pixels,
whose class embedding is one learned constant. The latent is cut into six
chunks: the first feeds a linear layer, each other one, after the constant, the
batch norms of a block. `convert` reads the PyTorch port of the released model
(lukemelas/pytorch-pretrained-gans).
"""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.generators import _biggan
from genrep_jax.generators.contrib import biggan_tf
from genrep_jax.lib import errors, foreign, options as options_lib
from genrep_jax.lib.contracts import Converter, Generator

_START_PX = 4
_WIDTHS = (16, 16, 8, 4, 2, 1)  # of the maps between blocks, in units of `ch`
_BLOCKS = len(_WIDTHS) - 1  # each upsamples
_CHUNKS = 1 + _BLOCKS
_ATTENTION = 3  # stands after this block, at 64 x 64 pixels
_SHARED_ROWS = 1000  # of the PyTorch port, all equal

OPTIONS = {
  "ch": options_lib.integer(
    96,
    "width",
    low=4,
    high=1024,
    only=("a multiple of 4", lambda ch: ch % 4 == 0),
    unit="channels",
    bound=True,
  ),
  "latent_dim": options_lib.integer(
    120,
    "length of z",
    low=1,
    high=65536,
    only=(f"a multiple of {_CHUNKS}", lambda dim: dim % _CHUNKS == 0),
    bound=True,
  ),
  "constant_dim": options_lib.integer(
    128, "of what stands for a class embedding", low=1, high=65536, bound=True
  ),
  "output_epsilon": options_lib.number(
    1e-4,
    "of the last batch norm; the PyTorch port has 1e-5",
    above=0,
    high=1,
  ),
}


def _blocks(options: Mapping) -> list[tuple[int, int]]:
  """Returns (channels in, channels out) of every block."""
  widths = [width * options["ch"] for width in _WIDTHS]
  return list(zip(widths[:-1], widths[1:]))


def _convs(inputs: int, outputs: int) -> dict[str, tuple[int, int, int]]:
  """Returns (kernel side, channels in, out) of a block's convolutions."""
  return {
    "conv1": (3, inputs, outputs),
    "conv2": (3, outputs, outputs),
    "conv_sc": (1, inputs, outputs),
  }


def _shapes(options: Mapping) -> dict:
  """Returns the nested dict of the variables' shapes."""
  ch, chunk = options["ch"], options["latent_dim"] // _CHUNKS
  condition = options["constant_dim"] + chunk
  shapes = {
    "const": (options["constant_dim"],),
    "stem": _biggan.layer_shapes(chunk, _START_PX**2 * 16 * ch),
    "attn": _biggan.attention_shapes(_WIDTHS[_ATTENTION + 1] * ch),
    "out_bn": {name: (ch,) for name in ("scale", "bias", "mean", "var")},
    "to_rgb": _biggan.layer_shapes(3, 3, ch, 3),
  }
  for i, (inputs, outputs) in enumerate(_blocks(options)):
    block = {
      name: _biggan.layer_shapes(side, side, c_in, c_out)
      for name, (side, c_in, c_out) in _convs(inputs, outputs).items()
    }
    for name, c in (("bn1", inputs), ("bn2", outputs)):
      block[name] = {
        "mean": (c,),
        "var": (c,),
        "gain_kernel": (condition, c),
        "bias_kernel": (condition, c),
      }
    shapes[f"block_{i}"] = block
  return shapes


def _block(block: Mapping, x, condition) -> jax.Array:
  """One residual block: [n h w in] -> [n 2h 2w out]."""

  def norm(y, layer):
    gain, bias = _biggan.modulation(
      condition, layer["gain_kernel"], layer["bias_kernel"]
    )
    return _biggan.batch_norm_relu(
      y, gain, bias, layer["mean"], layer["var"], _biggan.BATCH_NORM_EPSILON
    )

  y = _biggan.upsample(norm(x, block["bn1"]))
  y = _biggan.conv(y, block["conv1"])
  y = _biggan.conv(norm(y, block["bn2"]), block["conv2"])
  # A 1x1 convolution and a repetition of pixels commute: first the smaller.
  return y + _biggan.upsample(_biggan.conv(x, block["conv_sc"]))


def activations(
  options: Mapping, dtype, variables: Mapping, z: jax.Array, y=None
) -> Iterator[tuple[str, jax.Array]]:
  """Runs the network, yielding (name, map [n h w c]); the last is "images".

  Args:
    options: a mapping with the keys of `OPTIONS`.
    dtype: compute type of the maps.
    variables: the network's.
    z: [n latent_dim].
    y: unused; the generator is unconditional.
  """
  del y
  first, *chunks = jnp.split(z.astype(jnp.float32), _CHUNKS, axis=-1)
  constant = jnp.broadcast_to(
    variables["const"], (len(z), options["constant_dim"])
  )
  x = _biggan.linear(first.astype(dtype), variables["stem"])
  x = x.reshape(-1, _START_PX, _START_PX, 16 * options["ch"])
  yield "stem", x
  for i, chunk in enumerate(chunks):
    condition = jnp.concatenate([constant, chunk], axis=-1)
    x = _block(variables[f"block_{i}"], x, condition)
    yield f"block_{i}", x
    if i == _ATTENTION:
      x = _biggan.attention(x, variables["attn"])
      yield "attention", x
  norm = variables["out_bn"]
  x = _biggan.batch_norm_relu(
    x,
    norm["scale"],
    norm["bias"],
    norm["mean"],
    norm["var"],
    options["output_epsilon"],
  )
  x = _biggan.conv(x, variables["to_rgb"])
  yield "images", jnp.tanh(x.astype(jnp.float32))


def make(cfg, *, dtype=jnp.float32) -> Generator:
  """Makes the frozen generator.

  Args:
    cfg: a checked entry with the keys of `OPTIONS`.
    dtype: compute type; variables and images are float32.

  Returns:
    A Generator whose variables are a nested dict without collections.
  """

  def sample(key):
    return jax.random.normal(key, (cfg["latent_dim"],)), jnp.int32(0)

  return _biggan.generator(
    _shapes(cfg),
    functools.partial(activations, cfg, dtype),
    resolution=_START_PX * 2**_BLOCKS,
    latent_dim=cfg["latent_dim"],
    num_classes=0,
    sample=sample,
  )


def expected_keys(
  options: Mapping, *, shared_rows: int = _SHARED_ROWS
) -> dict[str, tuple[int, ...]]:
  """Returns key -> shape of the PyTorch port's checkpoint of a model.

  Args:
    options: a mapping with the keys of `OPTIONS`.
    shared_rows: how often the port repeats the constant.
  """
  keys = {}

  def normed(name, *shape, bias=True):
    keys[f"{name}.weight"] = shape
    keys[f"{name}.u0"] = (1, shape[0])
    keys[f"{name}.sv0"] = (1,)
    if bias:
      keys[f"{name}.bias"] = shape[:1]

  ch, chunk = options["ch"], options["latent_dim"] // _CHUNKS
  condition = options["constant_dim"] + chunk
  keys["shared.weight"] = (shared_rows, options["constant_dim"])
  normed("linear", _START_PX**2 * 16 * ch, chunk)
  for i, (inputs, outputs) in enumerate(_blocks(options)):
    for name, (side, c_in, c_out) in _convs(inputs, outputs).items():
      normed(f"blocks.{i}.0.{name}", c_out, c_in, side, side)
    for name, c in (("bn1", inputs), ("bn2", outputs)):
      name = f"blocks.{i}.0.{name}"
      keys[f"{name}.stored_mean"] = keys[f"{name}.stored_var"] = (c,)
      normed(f"{name}.gain", c, condition, bias=False)
      normed(f"{name}.bias", c, condition, bias=False)
    if i == _ATTENTION:
      name, c = f"blocks.{i}.1", outputs
      keys[f"{name}.gamma"] = ()
      normed(f"{name}.theta", c // 8, c, 1, 1, bias=False)
      normed(f"{name}.phi", c // 8, c, 1, 1, bias=False)
      normed(f"{name}.g", c // 2, c, 1, 1, bias=False)
      normed(f"{name}.o", c, c // 2, 1, 1, bias=False)
  for leaf in ("gain", "bias", "stored_mean", "stored_var"):
    keys[f"output_layer.0.{leaf}"] = (ch,)
  normed("output_layer.2", 3, ch, 3, 3)
  return keys


def parameter_count(options: Mapping) -> int:
  """Counts the parameters of the original, whose constant is one row."""
  return foreign.count(
    expected_keys(options, shared_rows=1), r"\.(s?[uv]0|stored_(mean|var))$"
  )


def _constant(rows: np.ndarray) -> np.ndarray:
  """Returns the one row [d] of `shared.weight` [k d]."""
  if (rows != rows[:1]).any():
    raise errors.UsageError(
      "source: not bigbigan: the rows of shared.weight must all be equal; is "
      "this a class-conditional BigGAN?"
    )
  return rows[0]


def convert(
  arrays: Mapping[str, np.ndarray], *, output_epsilon: float = 1e-4
) -> tuple[dict, dict]:
  """Converts the PyTorch port's checkpoint.

  Args:
    arrays: the checkpoint, original key -> array; any width, all keys used
      (of a spectral norm's `sv0`, which is a log, only its presence).
    output_epsilon: of the last batch norm; 1e-5 gives the port's images, 1e-4
      the original's.

  Returns:
    (variables of float32 numpy arrays, options: values of all `OPTIONS`).

  Raises:
    UsageError: sizes out of range, a missing, unexpected or mis-shaped key, or
      a class-conditional model.
  """
  options = options_lib.defaults(OPTIONS) | {"output_epsilon": output_epsilon}
  size = _biggan.size
  options["ch"] = size(arrays, "output_layer.0.gain", 0, options["ch"])
  options["constant_dim"] = size(
    arrays, "shared.weight", 1, options["constant_dim"]
  )
  chunk = size(arrays, "linear.weight", 1, options["latent_dim"] // _CHUNKS)
  options["latent_dim"] = _CHUNKS * chunk
  _biggan.check(OPTIONS, options)
  rows = size(arrays, "shared.weight", 0, _SHARED_ROWS)
  what = f"bigbigan, ch {options['ch']}"
  foreign.check(what, arrays, expected_keys(options, shared_rows=rows))

  def folded(name):
    weight = arrays[f"{name}.weight"]
    sigma = _biggan.stepped_sigma(weight, arrays[f"{name}.u0"])
    return _biggan.to_hwio(_biggan.divide(name, weight, sigma))

  def layer(name):
    return {"kernel": folded(name), "bias": arrays[f"{name}.bias"]}

  def statistics(name):
    return {
      "mean": arrays[f"{name}.stored_mean"],
      "var": arrays[f"{name}.stored_var"],
    }

  variables = {
    "const": _constant(arrays["shared.weight"]),
    "stem": {leaf: _to_nhwc(x) for leaf, x in layer("linear").items()},
    "out_bn": {
      "scale": arrays["output_layer.0.gain"],
      "bias": arrays["output_layer.0.bias"],
      **statistics("output_layer.0"),
    },
    "to_rgb": layer("output_layer.2"),
  }
  for i in range(_BLOCKS):
    name = f"blocks.{i}.0"
    block = {conv: layer(f"{name}.{conv}") for conv in _convs(0, 0)}
    for norm in ("bn1", "bn2"):
      block[norm] = {
        "gain_kernel": folded(f"{name}.{norm}.gain"),
        "bias_kernel": folded(f"{name}.{norm}.bias"),
        **statistics(f"{name}.{norm}"),
      }
    variables[f"block_{i}"] = block
  name = f"blocks.{_ATTENTION}.1"
  variables["attn"] = {
    leaf: folded(f"{name}.{source}")[0, 0]
    for leaf, source in zip(
      ("theta", "phi", "g", "out"), ("theta", "phi", *"go")
    )
  } | {"gamma": arrays[f"{name}.gamma"]}
  return _biggan.to_float32(variables), options


def _to_nhwc(x: np.ndarray) -> np.ndarray:
  """Reorders the last axis: the port's (c, 4, 4) to (4, 4, c), flat."""
  *rest, flat = x.shape
  x = x.reshape(*rest, flat // _START_PX**2, _START_PX, _START_PX)
  return np.moveaxis(x, -3, -1).reshape(*rest, flat)


CONVERTER = Converter(
  convert,
  options={"output_epsilon": OPTIONS["output_epsilon"]},
  from_tensorflow=functools.partial(
    biggan_tf.bigbigan,
    released=options_lib.defaults(OPTIONS),
    expected_keys=functools.partial(expected_keys, shared_rows=1),
  ),
  parameters=parameter_count,
)

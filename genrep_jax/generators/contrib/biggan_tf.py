"""Generators among the variables of TensorFlow Hub's BigBiGAN and BigGAN-deep.

`bigbigan` brings the variables of deepmind/bigbigan-resnet50/1 or
-revnet50x4/1 under the keys of the PyTorch port, which `bigbigan.convert`
reads. Differences of layout:

- kernels are HWIO and [in out] here, OIHW and [out in] there;
- the outputs of the first linear layer are (4, 4, c) here, (c, 4, 4) there;
- conditions are [z, constant] here, [constant, z] there;
- weights have a moving average beside them (`.../ema_0.9999`), which is the
  model; a spectral norm's u0 has none and belongs to the raw weights.

THE RELEASED FILES WERE NEVER SEEN HERE. What is known comes from the converter
of github.com/anvoynov/BigGANsAreWatching (tf_tools/), which renames BigBiGAN's
variables to BigGAN's and whose pictures agree with TensorFlow's:

- verified, as that code spells them out: GenEncWrapper/Generator, linear/w,
  GenZ, BatchNorm, BatchNorm_1, scale, offset, accumulated_*, ema_0.9999;
- verified by the same code for BigGAN, and left alone where it renames, so most
  likely BigBiGAN's, too: GBlock_i, conv0, conv1, conv_sc, attention/*,
  G_linear, w, b, u0, u1, gamma;
- inferred in the same way, and nowhere else attested: conv_2d.

A file with other names needs nothing but another `_NAMES`.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from genrep_jax.generators import _biggan
from genrep_jax.lib import errors, foreign

_PREFIX = "GenEncWrapper/Generator/"
_AVERAGE = "/ema_0.9999"
_COUNTER = "accumulation_counter"
_FIRST_PX = 4  # side of the first map
_CHUNKS = 6  # of the latent

# Key of the PyTorch port -> variable below _PREFIX. {i} is a block; {_i} is ""
# for the first block, then _1, _2, ...
_NAMES = {
  "shared.weight": "linear/w",
  "linear.weight": "GenZ/G_linear/w",
  "linear.bias": "GenZ/G_linear/b",
  "linear.u0": "GenZ/G_linear/u0",
  "blocks.{i}.0.bn1.gain.weight": "GBlock{_i}/BatchNorm/scale/w",
  "blocks.{i}.0.bn1.gain.u0": "GBlock{_i}/BatchNorm/scale/u0",
  "blocks.{i}.0.bn1.bias.weight": "GBlock{_i}/BatchNorm/offset/w",
  "blocks.{i}.0.bn1.bias.u0": "GBlock{_i}/BatchNorm/offset/u0",
  "blocks.{i}.0.bn1.stored_mean": "GBlock{_i}/BatchNorm/accumulated_mean",
  "blocks.{i}.0.bn1.stored_var": "GBlock{_i}/BatchNorm/accumulated_var",
  "blocks.{i}.0.conv1.weight": "GBlock{_i}/conv0/w",
  "blocks.{i}.0.conv1.bias": "GBlock{_i}/conv0/b",
  "blocks.{i}.0.conv1.u0": "GBlock{_i}/conv0/u0",
  "blocks.{i}.0.bn2.gain.weight": "GBlock{_i}/BatchNorm_1/scale/w",
  "blocks.{i}.0.bn2.gain.u0": "GBlock{_i}/BatchNorm_1/scale/u0",
  "blocks.{i}.0.bn2.bias.weight": "GBlock{_i}/BatchNorm_1/offset/w",
  "blocks.{i}.0.bn2.bias.u0": "GBlock{_i}/BatchNorm_1/offset/u0",
  "blocks.{i}.0.bn2.stored_mean": "GBlock{_i}/BatchNorm_1/accumulated_mean",
  "blocks.{i}.0.bn2.stored_var": "GBlock{_i}/BatchNorm_1/accumulated_var",
  "blocks.{i}.0.conv2.weight": "GBlock{_i}/conv1/w",
  "blocks.{i}.0.conv2.bias": "GBlock{_i}/conv1/b",
  "blocks.{i}.0.conv2.u0": "GBlock{_i}/conv1/u0",
  "blocks.{i}.0.conv_sc.weight": "GBlock{_i}/conv_sc/w",
  "blocks.{i}.0.conv_sc.bias": "GBlock{_i}/conv_sc/b",
  "blocks.{i}.0.conv_sc.u0": "GBlock{_i}/conv_sc/u0",
  "blocks.{i}.1.theta.weight": "attention/theta/w",
  "blocks.{i}.1.theta.u0": "attention/theta/u0",
  "blocks.{i}.1.phi.weight": "attention/phi/w",
  "blocks.{i}.1.phi.u0": "attention/phi/u0",
  "blocks.{i}.1.g.weight": "attention/g/w",
  "blocks.{i}.1.g.u0": "attention/g/u0",
  "blocks.{i}.1.o.weight": "attention/o_conv/w",
  "blocks.{i}.1.o.u0": "attention/o_conv/u0",
  "blocks.{i}.1.gamma": "attention/gamma",
  "output_layer.0.gain": "BatchNorm/scale",
  "output_layer.0.bias": "BatchNorm/offset",
  "output_layer.0.stored_mean": "BatchNorm/accumulated_mean",
  "output_layer.0.stored_var": "BatchNorm/accumulated_var",
  "output_layer.2.weight": "conv_2d/w",
  "output_layer.2.bias": "conv_2d/b",
  "output_layer.2.u0": "conv_2d/u0",
}
_NOT_AVERAGED = r"/(u0|accumulated_(mean|var))$"
# Known and of no use: the vectors of the other side of spectral norms, and how
# many batches the statistics were taken over (see `bigbigan`).
_UNUSED = rf"/(u1|{_COUNTER})$"


def bigbigan(
  arrays: Mapping[str, np.ndarray],
  *,
  released: Mapping[str, int],
  expected_keys: Callable[[Mapping], Mapping[str, tuple[int, ...]]],
  divide_by_counter: bool = False,
) -> dict[str, np.ndarray]:
  """Brings BigBiGAN's generator under the keys of the PyTorch port.

  Args:
    arrays: variables of the TF-Hub module, name -> array. Those outside
      GenEncWrapper/Generator/ (encoder, discriminators, optimizers) are
      ignored; of those inside, raw weights that have a moving average, u1 and
      accumulation_counter are; any other must be known. Dimensions of size one
      may be more or fewer: (1, 1, 1, c) may stand for (c,).
    released: the options of the released model, for sizes that cannot be read.
    expected_keys: options -> {key of the port: shape}, the constant in one row.
    divide_by_counter: whether the accumulated statistics are sums, to be
      divided by accumulation_counter. The public conversions of the released
      models copy them as they are, and give the right pictures.

  Returns:
    Key of the PyTorch port -> array; `shared.weight` has one row. `sv0`, of
    which the port reads nothing, is zero.

  Raises:
    UsageError: one line that names missing, unknown or mis-shaped variables.
  """
  inside = {
    name.removeprefix(_PREFIX): np.asarray(x)
    for name, x in arrays.items()
    if name.startswith(_PREFIX)
  }
  if not inside:
    raise errors.UsageError(
      f"source: not bigbigan: none of {len(arrays)} variables begins with "
      f"{_PREFIX}, say {min(arrays, default='none')}"
    )
  options = _sizes(inside, released)
  keys = expected_keys(options)
  stored = {key: s for key, s in keys.items() if not key.endswith(".sv0")}
  shapes = {_variable(key): _tf_shape(key, s) for key, s in stored.items()}
  averaged = {
    name.removesuffix(_AVERAGE) for name in inside if name.endswith(_AVERAGE)
  }
  found = {
    name: _fitted(x, shapes.get(name))
    for name, x in inside.items()
    if name not in averaged and not re.search(_UNUSED, name)
  }
  what = f"TensorFlow's bigbigan, ch {options['ch']}, under {_PREFIX}"
  foreign.check(what, found, shapes)
  chunk = options["latent_dim"] // _CHUNKS
  port = {key: np.zeros((1,), np.float32) for key in keys}
  for key in stored:
    port[key] = _to_port(key, found[_variable(key)], chunk)
    if divide_by_counter and ".stored_" in key:
      port[key] = port[key] / _count(inside, _variable(key))
  return port


def refuse_biggan_deep(arrays: Mapping[str, np.ndarray]):
  """Refuses BigGAN-deep's variables, which are not the whole model.

  Raises:
    UsageError: always.
  """
  raise errors.UsageError(
    f"source: these {len(arrays)} variables are not all of biggan_deep: its "
    "batch statistics (51 rows per norm) are constants of TensorFlow's graph, "
    "not variables, so use the PyTorch file biggan-deep-*-pytorch_model.bin"
  )


def _sizes(inside: Mapping[str, np.ndarray], released: Mapping) -> dict:
  """Reads the model's sizes; those of the release where it cannot."""
  options = dict(released)
  for option, key, axis, times in (
    ("ch", "output_layer.0.gain", -1, 1),
    ("constant_dim", "shared.weight", -1, 1),
    ("latent_dim", "linear.weight", 0, _CHUNKS),
  ):
    default = options[option] // times
    size = _biggan.size(inside, _variable(key), axis, default)
    options[option] = times * size
  return options


def _variable(key: str) -> str:
  """Returns the variable's name below _PREFIX of a key of the port."""
  block = re.match(r"blocks\.(\d+)\.", key)
  number = block[1] if block else ""
  pattern = re.sub(r"^blocks\.\d+\.", "blocks.{i}.", key)
  name = _NAMES[pattern].replace(
    "{_i}", "" if number in ("", "0") else f"_{number}"
  )
  return name if re.search(_NOT_AVERAGED, name) else name + _AVERAGE


def _tf_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape in TensorFlow's layout of one of the port's."""
  if key == "shared.weight" or not key.endswith(".weight"):
    return shape
  return (*shape[2:], shape[1], shape[0])


def _fitted(x: np.ndarray, shape) -> np.ndarray:
  """Reshapes x to a shape that differs in dimensions of size one only."""
  if shape is not None:
    if [n for n in x.shape if n != 1] == [n for n in shape if n != 1]:
      return x.reshape(shape)
  return x


def _to_port(key: str, x: np.ndarray, chunk: int) -> np.ndarray:
  """Brings a variable into the port's layout.

  Args:
    key: the port's.
    x: the variable, of the shape `_tf_shape` says.
    chunk: length of the part of z that conditions a block.
  """
  if key == "shared.weight":
    return x
  if key.startswith("linear."):  # its last axis: (4, 4, c) to (c, 4, 4)
    *rest, flat = x.shape
    x = x.reshape(*rest, _FIRST_PX, _FIRST_PX, -1)
    x = np.moveaxis(x, -1, -3).reshape(*rest, flat)
  if not key.endswith(".weight"):
    return x
  if x.ndim == 4:
    return x.transpose(3, 2, 0, 1)
  if re.search(r"\.bn[12]\.", key):  # its rows: [z, constant] to the reverse
    x = np.concatenate([x[chunk:], x[:chunk]])
  return x.T


def _count(inside: Mapping[str, np.ndarray], statistic: str) -> float:
  """Returns the number of batches a statistic was summed over."""
  name = f"{statistic.rpartition('/')[0]}/{_COUNTER}"
  count = inside.get(name, np.zeros(1))
  if np.size(count) != 1 or not np.all(np.asarray(count) > 0):
    raise errors.UsageError(
      f"source: {_PREFIX}{name} must hold a number above 0, to divide by"
    )
  return float(np.reshape(count, ()))

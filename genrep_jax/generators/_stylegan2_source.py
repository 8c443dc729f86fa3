"""StyleGAN2 checkpoints of PyTorch, read strictly and turned to our layout.

Two layouts are known by their keys: "nvidia", `G_ema` of stylegan2-ada-pytorch
(also what its reader makes of the TensorFlow pickles), and "rosinality",
`g_ema` of rosinality/stylegan2-pytorch. Neither network's pickle is opened
here: arrays by key are wanted, exported where torch runs.

The factors of the equalized learning rate are folded into the weights. Of the
3x3 convolutions only rosinality's has one; demodulation cancels it up to its
epsilon, so it is folded there, and only there.

Rosinality's older files hold no noise maps: its network draws them when it is
built, so that such a file leaves them to chance. Here they are drawn once, at
conversion, from a stated seed.
"""

from collections.abc import Mapping

import numpy as np

from genrep_jax.generators import _stylegan2_ops as ops
from genrep_jax.lib import errors, foreign

LAYOUTS = ("nvidia", "rosinality")
MAPPING_RATE = 0.01  # learning rate multiplier of the mapping network
_NOISES = "noises."  # what the keys of rosinality's noise maps begin with
_MAX_PX = 4096


def _layout(arrays):
  """Tells the layout by its first map's key."""
  known = {"nvidia": "synthesis.b4.const", "rosinality": "input.input"}
  for layout, key in known.items():
    if key in arrays:
      return layout
  raise errors.UsageError(
    "source: not a StyleGAN2 generator: neither "
    f"{known['nvidia']} (G_ema of stylegan2-ada-pytorch) nor "
    f"{known['rosinality']} (g_ema of rosinality's) is among its keys"
  )


def _count(arrays, key):
  """Counts the consecutive i for which key.format(i) exists."""
  i = 0
  while key.format(i) in arrays:
    i += 1
  return i


def _one_average(arrays):
  """Returns a checkpoint with one average of w; pSp's has a row per layer."""
  average = arrays.get("latent_avg")
  if np.ndim(average) == 2 and len(average):
    if (average == average[:1]).all():
      return {**arrays, "latent_avg": average[0]}
  return arrays


def _drawn_noise(options, seed):
  """Draws rosinality's noise maps, N(0, 1)."""
  if options["resolution"] > _MAX_PX:
    raise errors.UsageError(
      f"source: stylegan2 of {options['resolution']} px; allowed: <= {_MAX_PX}"
    )
  random = np.random.RandomState(seed)  # its numbers are fixed for ever
  return {
    f"{_NOISES}noise_{number}": np.float32(
      random.standard_normal((1, 1, side, side))
    )
    for side, _, _, _, number in _convs(options)
  }


def _shape(arrays, key, rank):
  """Returns the shape of a key that the options are read from."""
  if key not in arrays:
    raise errors.UsageError(f"source: not stylegan2: missing {key}")
  shape = tuple(arrays[key].shape)
  if len(shape) != rank:
    raise errors.UsageError(
      f"source: not stylegan2: mis-shaped {key} {shape}, wants {rank} axes"
    )
  return shape


def _options(arrays, layout):
  """Reads the architecture off keys and shapes."""
  classes = 0
  if layout == "nvidia":
    levels = 1
    while f"synthesis.b{2 ** (levels + 2)}.const" in arrays or (
      f"synthesis.b{2 ** (levels + 2)}.conv1.weight" in arrays
    ):
      levels += 1
    top = 2 ** (levels + 1)
    w_dim, first = _shape(arrays, "mapping.fc0.weight", 2)
    if "mapping.embed.weight" in arrays:
      classes = _shape(arrays, "mapping.embed.weight", 2)[1]
      first -= w_dim
    layers = _count(arrays, "mapping.fc{}.weight")
    widest = _shape(arrays, "synthesis.b4.const", 3)[0]
    rgb, last = _shape(arrays, f"synthesis.b{top}.torgb.weight", 4)[:2]
  else:
    levels = 1 + _count(arrays, "to_rgbs.{}.conv.weight")
    top = 2 ** (levels + 1)
    w_dim, first = _shape(arrays, "style.1.weight", 2)
    layers = _count({k: 0 for k in _from_zero(arrays)}, "style.{}.weight")
    widest = _shape(arrays, "input.input", 4)[1]
    name = f"to_rgbs.{levels - 2}" if levels > 1 else "to_rgb1"
    rgb, last = _shape(arrays, f"{name}.conv.weight", 5)[1:3]
  return {
    "num_classes": classes,
    "resolution": top,
    "channels": rgb,
    "z_dim": first,
    "w_dim": w_dim,
    "mapping_layers": layers,
    "channel_base": last * top,
    "channel_max": widest,
    "w_average": layout == "nvidia" or "latent_avg" in arrays,
  }


def _from_zero(arrays):
  """Yields rosinality's mapping keys, numbered from 0 instead of 1."""
  for key in arrays:
    head, _, rest = key.partition(".")
    number, _, leaf = rest.partition(".")
    if head == "style" and number.isdigit():
      yield f"style.{int(number) - 1}.{leaf}"


def _sides(options):
  return [2**k for k in range(2, options["resolution"].bit_length())]


def _width(options, side):
  return min(options["channel_base"] // side, options["channel_max"])


def _convs(options):
  """Yields (side, conv0 or conv1, inputs, outputs, running number)."""
  number, inputs = 0, _width(options, 4)
  for side in _sides(options):
    outputs = _width(options, side)
    if side > 4:
      yield side, "conv0", inputs, outputs, number
      number += 1
    yield side, "conv1", outputs, outputs, number
    number += 1
    inputs = outputs


def _conv_name(layout, side, conv, number):
  if layout == "nvidia":
    return f"synthesis.b{side}.{conv}"
  return f"convs.{number - 1}" if number else "conv1"


def _rgb_name(layout, side):
  if layout == "nvidia":
    return f"synthesis.b{side}.torgb"
  level = side.bit_length() - 3
  return f"to_rgbs.{level - 1}" if level else "to_rgb1"


def expected_keys(options: Mapping, layout: str) -> dict[str, tuple[int, ...]]:
  """Lists every key of a checkpoint with its shape.

  Args:
    options: with num_classes, resolution, channels, z_dim, w_dim,
      mapping_layers, channel_base, channel_max; and w_average, of which only
      "rosinality" takes notice: whether latent_avg was put beside g_ema.
    layout: "nvidia" or "rosinality".

  Returns:
    {key: shape}, the buffers of the FIR filter included.

  Raises:
    UsageError: an unknown layout, or a conditional rosinality model.
  """
  if layout not in LAYOUTS:
    raise errors.UsageError(
      f"source: stylegan2 layout {layout!r} must be one of {LAYOUTS}"
    )
  if layout == "nvidia":
    return _nvidia_keys(options)
  if options["num_classes"]:
    raise errors.UsageError(
      "source: rosinality's stylegan2 is unconditional; num_classes "
      f"{options['num_classes']} must be 0"
    )
  return _rosinality_keys(options)


def _nvidia_keys(options):
  w, base = options["w_dim"], _width(options, 4)
  keys = {"synthesis.b4.const": (base, 4, 4)}
  for side, conv, inputs, outputs, number in _convs(options):
    name = _conv_name("nvidia", side, conv, number)
    keys |= {
      f"synthesis.b{side}.resample_filter": (4, 4),
      f"{name}.weight": (outputs, inputs, 3, 3),
      f"{name}.noise_strength": (),
      f"{name}.bias": (outputs,),
      f"{name}.resample_filter": (4, 4),
      f"{name}.noise_const": (side, side),
      f"{name}.affine.weight": (inputs, w),
      f"{name}.affine.bias": (inputs,),
    }
    if conv == "conv1":
      name, rgb = _rgb_name("nvidia", side), options["channels"]
      keys |= {
        f"{name}.weight": (rgb, outputs, 1, 1),
        f"{name}.bias": (rgb,),
        f"{name}.affine.weight": (outputs, w),
        f"{name}.affine.bias": (outputs,),
      }
  keys["mapping.w_avg"] = (w,)
  inputs = options["z_dim"]
  if options["num_classes"]:
    keys["mapping.embed.weight"] = (w, options["num_classes"])
    keys["mapping.embed.bias"] = (w,)
    inputs += w
  for i in range(options["mapping_layers"]):
    keys[f"mapping.fc{i}.weight"] = (w, w if i else inputs)
    keys[f"mapping.fc{i}.bias"] = (w,)
  return keys


def _rosinality_keys(options):
  w, base = options["w_dim"], _width(options, 4)
  keys = {"input.input": (1, base, 4, 4)}
  for i in range(options["mapping_layers"]):
    keys[f"style.{i + 1}.weight"] = (w, w if i else options["z_dim"])
    keys[f"style.{i + 1}.bias"] = (w,)
  for side, conv, inputs, outputs, number in _convs(options):
    name = _conv_name("rosinality", side, conv, number)
    keys |= {
      f"{name}.conv.weight": (1, outputs, inputs, 3, 3),
      f"{name}.conv.modulation.weight": (inputs, w),
      f"{name}.conv.modulation.bias": (inputs,),
      f"{name}.noise.weight": (1,),
      f"{name}.activate.bias": (outputs,),
      f"noises.noise_{number}": (1, 1, side, side),
    }
    if conv == "conv0":
      keys[f"{name}.conv.blur.kernel"] = (4, 4)
    else:
      name, rgb = _rgb_name("rosinality", side), options["channels"]
      keys |= {
        f"{name}.bias": (1, rgb, 1, 1),
        f"{name}.conv.weight": (1, rgb, outputs, 1, 1),
        f"{name}.conv.modulation.weight": (outputs, w),
        f"{name}.conv.modulation.bias": (outputs,),
      }
      if side > 4:
        keys[f"{name}.upsample.kernel"] = (4, 4)
  if options["w_average"]:
    keys["latent_avg"] = (w,)
  return keys


def parameter_count(options: Mapping) -> int:
  """Counts the parameters, of NVIDIA's module: no average of w, no noise."""
  return foreign.count(
    _nvidia_keys(options), r"w_avg$|noise_const$|resample_filter$"
  )


def _check_filters(arrays):
  """Refuses a network that smooths with another filter than ours."""
  taps = np.asarray(ops.FIR) / sum(ops.FIR)
  for key, array in arrays.items():
    gain = {"resample_filter": 1, "kernel": 4}.get(key.rpartition(".")[2])
    if gain and not np.allclose(array, gain * np.outer(taps, taps), atol=1e-6):
      raise errors.UsageError(
        f"source: not stylegan2: {key} is not the filter [1, 3, 3, 1] "
        f"(normalized, times {gain})"
      )


def _float(array, *shape):
  array = np.asarray(array, np.float32)
  return array.reshape(shape) if shape else array


def _dense(arrays, name, rate=1.0):
  """One fully connected layer, its run-time factors folded in."""
  weight = _float(arrays[f"{name}.weight"])
  return {
    "kernel": weight.T * np.float32(rate / weight.shape[1] ** 0.5),
    "bias": _float(arrays[f"{name}.bias"]) * np.float32(rate),
  }


def _kernel(array, *, scaled):
  """[... o i k k] -> [k k i o], over sqrt(fan in) where the network does."""
  kernel = _float(array, *array.shape[-4:]).transpose(2, 3, 1, 0)
  fan_in = np.prod(kernel.shape[:3])
  return kernel * np.float32(fan_in**-0.5) if scaled else kernel


def convert(
  arrays: Mapping[str, np.ndarray],
  *,
  truncation_psi: float = 1.0,
  conv_clamp: float = 0.0,
  noise_seed: int = 0,
) -> tuple[dict, dict]:
  """Turns a checkpoint's arrays into variables and options.

  Args:
    arrays: key -> array of NVIDIA's `G_ema` or of rosinality's `g_ema`; beside
      the latter, `latent_avg` from the top level of the same file.
    truncation_psi: truncation the model shall be used with.
    conv_clamp: +-range of the maps, which no checkpoint says: 256 for models
      that ADA trained with half-precision blocks, else 0.
    noise_seed: of the noise maps, where the file has none.

  Returns:
    (variables, options): the latter are keys of `stylegan2.OPTIONS`.

  Raises:
    UsageError: unknown layout, a missing, unexpected, renamed or mis-shaped
      key, another FIR filter, or psi other than 1 without an average of w.
  """
  layout = _layout(arrays)
  arrays = _one_average(arrays)
  options = _options(arrays, layout)
  what = f"stylegan2 ({layout}), {options['resolution']} px"
  keys = expected_keys(options, layout)
  if layout == "rosinality" and not any(k.startswith(_NOISES) for k in arrays):
    keys = {k: s for k, s in keys.items() if not k.startswith(_NOISES)}
    foreign.check(what, arrays, keys)  # before maps as large as it claims
    arrays = {**arrays, **_drawn_noise(options, noise_seed)}
  else:
    foreign.check(what, arrays, keys)
  _check_filters(arrays)
  if truncation_psi != 1 and not options["w_average"]:
    raise errors.UsageError(
      f"source: {what}: truncation_psi {truncation_psi} needs the average of "
      "w: add 'latent_avg' of the checkpoint's top level, or use psi 1"
    )
  options |= {"truncation_psi": truncation_psi, "conv_clamp": conv_clamp}
  mapping = {}
  style = {"nvidia": "mapping.fc{}", "rosinality": "style.{}"}[layout]
  first = LAYOUTS.index(layout)  # rosinality counts from 1
  for i in range(options["mapping_layers"]):
    mapping[f"fc{i}"] = _dense(arrays, style.format(i + first), MAPPING_RATE)
  if options["num_classes"]:
    mapping["embed"] = _dense(arrays, "mapping.embed")
  if options["w_average"]:
    average = {"nvidia": "mapping.w_avg", "rosinality": "latent_avg"}[layout]
    mapping["w_avg"] = _float(arrays[average])
  const = {"nvidia": "synthesis.b4.const", "rosinality": "input.input"}[layout]
  width = _width(options, 4)
  synthesis = {"const": _float(arrays[const], width, 4, 4).transpose(1, 2, 0)}
  for side, conv, _, _, number in _convs(options):
    block = synthesis.setdefault(f"b{side}", {})
    name = _conv_name(layout, side, conv, number)
    block[conv] = _conv(arrays, layout, name, side, number)
    if conv == "conv1":
      block["torgb"] = _rgb(arrays, layout, _rgb_name(layout, side))
  return {"params": {"mapping": mapping, "synthesis": synthesis}}, options


def _conv(arrays, layout, name, side, number):
  """One 3x3 layer."""
  if layout == "nvidia":
    kernel, affine = f"{name}.weight", f"{name}.affine"
    strength, bias = f"{name}.noise_strength", f"{name}.bias"
    noise = f"{name}.noise_const"
  else:
    kernel, affine = f"{name}.conv.weight", f"{name}.conv.modulation"
    strength, bias = f"{name}.noise.weight", f"{name}.activate.bias"
    noise = f"noises.noise_{number}"
  return {
    "kernel": _kernel(arrays[kernel], scaled=layout == "rosinality"),
    "affine": _dense(arrays, affine),
    "bias": _float(arrays[bias]),
    "noise_strength": _float(arrays[strength]).reshape(()),
    "noise_const": _float(arrays[noise], side, side),
  }


def _rgb(arrays, layout, name):
  """One 1x1 output layer; both networks divide by sqrt(fan in)."""
  inner = name if layout == "nvidia" else f"{name}.conv"
  affine = f"{inner}.{'affine' if layout == 'nvidia' else 'modulation'}"
  return {
    "kernel": _kernel(arrays[f"{inner}.weight"], scaled=True),
    "affine": _dense(arrays, affine),
    "bias": _float(arrays[f"{name}.bias"], -1),
  }

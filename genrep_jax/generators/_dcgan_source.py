"""DCGAN checkpoints of PyTorch, read strictly and turned to our layout.

Layouts differ in how layers are called. P is any prefix, found from the keys:
"", "main.", "module.main.", "netG_state_dict/main.", ...

| convolution  | its batch norm  | seen in                                    |
|--------------|-----------------|--------------------------------------------|
| P i          | P i+1           | PyTorch's examples and tutorial (i = 0, 3, |
|              |                 | 6, ...); gan-face-generate; with a dropout |
|              |                 | after the first block                      |
|              |                 | omniart-eye-generator (i = 0, 4, 7, ...)   |
| P k.0        | P k.1           | a block per layer, the last one P k, say   |
|              |                 | `net.0.0`, `net.0.1`, ..., `net.4`         |
| P deconv k   | P deconv k _bn  | attributes, k = 1, 2, ...                  |

A convolution may have a bias or not; batch norms may count batches
(`num_batches_tracked`) or not. Strides, paddings and activations leave no
trace in a checkpoint: they are taken to be DCGAN's.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from genrep_jax.lib import errors, foreign

BATCH_NORM_EPSILON = 1e-5  # torch's default
_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"
_LATENT_DIM = 100  # of the paper
_SIDE = 4  # pixels of the kernels, and of the first map unless it says else


@dataclasses.dataclass(frozen=True)
class Naming:
  """How a checkpoint calls its layers.

  Attributes:
    convs: prefixes of the transposed convolutions' keys, in order.
    norms: prefixes of the batch norms' keys; one less.
    biases: which of the convolutions have a bias.
    counters: whether batch norms have num_batches_tracked.
  """

  convs: tuple[str, ...]
  norms: tuple[str, ...]
  biases: tuple[bool, ...]
  counters: bool


def tutorial_naming(layers: int) -> Naming:
  """Returns the naming of PyTorch's examples: `main.0`, `main.1`, `main.3`."""
  starts = range(0, 3 * layers, 3)
  return Naming(
    tuple(f"main.{i}" for i in starts),
    tuple(f"main.{i + 1}" for i in starts[:-1]),
    (False,) * layers,
    counters=True,
  )


def _norm_of(conv: str) -> str:
  """Returns what the batch norm after a convolution is called."""
  if re.search(r"deconv\d+$", conv):
    return f"{conv}_bn"
  head, number = re.fullmatch(r"(.*?)(\d+)", conv).groups()
  return f"{head}{int(number) + 1}"


def _conv_of(norm: str) -> str | None:
  """The inverse of `_norm_of`; None if there is no such convolution."""
  if norm.endswith("_bn"):
    return norm.removesuffix("_bn")
  head, number = re.fullmatch(r"(.*?)(\d+)", norm).groups()
  return f"{head}{int(number) - 1}" if int(number) else None


def _after(conv: str) -> str:
  """Guesses the name of the last convolution from that of the one before."""
  block = re.fullmatch(r"(.*?)(\d+)\.0", conv)
  step = 1 if block or "deconv" in conv else 3
  head, number = (block or re.fullmatch(r"(.*?)(\d+)", conv)).groups()
  return f"{head}{int(number) + step}"


def _naming(arrays: Mapping[str, np.ndarray]) -> Naming:
  """Reads the layers off the keys; also off those of a damaged checkpoint."""
  layer = r"((?:.*[./])?(?:deconv)?\d+(?:_bn)?)"
  convs, norms = set(), set()
  for key, array in arrays.items():
    if found := re.fullmatch(rf"{layer}\.weight", key):
      if np.ndim(array) == 4:
        convs.add(found[1])
    if found := re.fullmatch(rf"{layer}\.running_(mean|var)", key):
      norms.add(found[1])
  # Either of a convolution and its norm tells of the other.
  convs |= {conv for conv in map(_conv_of, norms) if conv}
  if not convs:
    raise errors.UsageError(
      "source: not a DCGAN generator: no 4-dimensional weight has a key like "
      "main.0.weight, net.0.0.weight or deconv1.weight"
    )

  def order(name):
    return [int(n) for n in re.findall(r"\d+", name)]

  names = sorted(convs, key=order)
  if _norm_of(names[-1]) in norms:  # the last convolution is missing
    names.append(_after(names[-1]))
  return Naming(
    tuple(names),
    tuple(_norm_of(name) for name in names[:-1]),
    tuple(f"{name}.bias" in arrays for name in names),
    any(key.endswith(f".{_COUNTER}") for key in arrays),
  )


def _options(arrays, naming, num_classes):
  """Reads the architecture off the shapes."""

  def shape(key, rank):
    found = np.shape(arrays[key]) if key in arrays else ()
    return found if len(found) == rank else None

  kernels = [shape(f"{conv}.weight", 4) for conv in naming.convs]
  widths = []
  for i, norm in enumerate(naming.norms):
    outputs = shape(f"{norm}.running_mean", 1)
    kernel, after = kernels[i], kernels[i + 1]
    widths.append(kernel[1] if kernel else outputs[0] if outputs else after[0])
  inputs = kernels[0][0] if kernels[0] else _LATENT_DIM + max(num_classes, 0)
  side = kernels[0][2] if kernels[0] else _SIDE
  if num_classes < 0:
    # Nothing in a checkpoint tells latents from classes. The paper's latents
    # are 100 long, other authors' a power of two.
    round_number = inputs & (inputs - 1) == 0
    num_classes = 0 if round_number else max(0, inputs - _LATENT_DIM)
  if not 0 <= num_classes < inputs:
    raise errors.UsageError(
      f"source: dcgan: num_classes {num_classes} must be in 0..{inputs - 1}: "
      f"latent and classes together are {inputs} long"
    )
  return {
    "resolution": side * 2 ** len(widths),
    "channels": kernels[-1][1] if kernels[-1] else 3,
    "latent_dim": inputs - num_classes,
    "num_classes": num_classes,
    "widths": tuple(widths),
    "truncation": 0.0,
  }


def expected_keys(
  options: Mapping, naming: Naming | None = None
) -> dict[str, tuple[int, ...]]:
  """Returns key -> shape of the PyTorch checkpoint of a model.

  Args:
    options: a mapping with the keys of `dcgan.OPTIONS`.
    naming: how layers are called; None: as in PyTorch's examples.
  """
  widths = tuple(options["widths"])
  naming = naming or tutorial_naming(1 + len(widths))
  sizes = (options["latent_dim"] + options["num_classes"], *widths)
  sizes = (*sizes, options["channels"])
  keys = {}
  for i, conv in enumerate(naming.convs):
    side = _SIDE if i else options["resolution"] // 2 ** len(widths)
    keys[f"{conv}.weight"] = (sizes[i], sizes[i + 1], side, side)
    if naming.biases[i]:
      keys[f"{conv}.bias"] = (sizes[i + 1],)
  for norm, c in zip(naming.norms, widths):
    keys |= {f"{norm}.{leaf}": (c,) for leaf in _NORM}
    if naming.counters:
      keys[f"{norm}.{_COUNTER}"] = ()
  return keys


def parameter_count(options: Mapping) -> int:
  """Counts the parameters of the network as PyTorch's examples build it."""
  return foreign.count(
    expected_keys(options), rf"running_(mean|var)$|{_COUNTER}$"
  )


def phases(weight: np.ndarray) -> np.ndarray:
  """Turns a transposed convolution's kernel into `dcgan.up`'s.

  Args:
    weight: [c o 4 4] of torch's ConvTranspose2d.

  Returns:
    [2 2 c 4o]: tap t of phase p is torch's tap 2 (1 - t) + p, on both axes.
  """
  c, o = weight.shape[:2]
  taps = weight.reshape(c, o, 2, 2, 2, 2)[:, :, ::-1, :, ::-1, :]
  # [c, o, row tap, row phase, column tap, column phase]
  return taps.transpose(2, 4, 0, 3, 5, 1).reshape(2, 2, c, 4 * o)


def convert(
  arrays: Mapping[str, np.ndarray], *, num_classes: int = -1
) -> tuple[dict, dict]:
  """Converts a PyTorch checkpoint of a DCGAN's generator.

  Args:
    arrays: original key -> array; all keys are used. Nested dicts are
      flattened, their keys joined by "/".
    num_classes: as `dcgan.CONVERTER` declares it.

  Returns:
    (variables of float32 numpy arrays, options: values of `dcgan.OPTIONS`).

  Raises:
    UsageError: not a DCGAN, or a missing, unexpected or mis-shaped key.
  """
  naming = _naming(arrays)
  options = _options(arrays, naming, num_classes)
  what = f"dcgan, {options['resolution']} px, widths {options['widths']}"
  foreign.check(what, arrays, expected_keys(options, naming))
  variables = {}
  for i, conv in enumerate(naming.convs):
    kernel = np.asarray(arrays[f"{conv}.weight"], np.float64)
    bias = np.zeros(kernel.shape[1])
    if naming.biases[i]:
      bias = np.asarray(arrays[f"{conv}.bias"], np.float64)
    if i < len(naming.norms):
      norm = naming.norms[i]
      scale, shift, mean, variance = (
        np.asarray(arrays[f"{norm}.{leaf}"], np.float64) for leaf in _NORM
      )
      gain = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
      kernel = kernel * gain[:, None, None]
      bias = (bias - mean) * gain + shift
    if i:
      name, kernel = f"up_{i - 1}", phases(kernel)
    else:  # on one pixel, a transposed convolution is a linear layer
      name = "stem"
      kernel = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    variables[name] = {
      "kernel": np.ascontiguousarray(kernel, np.float32),
      "bias": bias.astype(np.float32),
    }
  return variables, options

"""LPIPS v0.1: the distance of images that VGG-16's features see.

Zhang et al. 2018 (arXiv 1801.03924), equation 1, as their package `lpips` 0.1.4
has it with net="vgg". The weights are VGG-16's of ImageNet and, per layer, one
number per channel, fitted to what people call similar. The package makes them
one file, which `convert` reads:

  python -c "import lpips, torch; \
      torch.save(lpips.LPIPS(net='vgg').state_dict(), 'lpips_vgg.pth')"
  python -m genrep_jax.tools.convert_weights --arch objectives/autoencoder \
      --source lpips_vgg.pth --out lpips.safetensors
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import errors, foreign, options, weights as weights_lib

MIN_PX = 16  # four poolings halve the image
WIDTHS = (64,) * 2 + (128,) * 2 + (256,) * 3 + (512,) * 6  # of VGG-16
_BLOCKS = (2, 2, 3, 3, 3)  # convolutions between poolings
_SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and deviation, as [-1, 1]
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
_LAYERS = range(1, 1 + len(_BLOCKS))  # whose features are compared
_CONVS = [
  f"conv{block}_{i}"
  for block, layers in enumerate(_BLOCKS, 1)
  for i in range(1, layers + 1)
]


def distance(weights, a: jax.Array, b: jax.Array) -> jax.Array:
  """sum_l mean_hw sum_c w_lc (u_l(a) - u_l(b))^2, u unit vectors of features.

  Args:
    weights: of `convert`.
    a: [n h w c] in [-1, 1]; c is 1 or 3, gray is repeated.
    b: likewise.

  Returns:
    [n], in the images' dtype.

  Raises:
    UsageError: images of fewer than 16 pixels or of other channels.
  """
  *_, height, width, channels = a.shape
  if min(height, width) < MIN_PX or channels not in (1, 3):
    options.refuse(
      "images of LPIPS",
      (height, width, channels),
      f"at least {MIN_PX}x{MIN_PX} pixels of 1 or 3 channels",
    )
  total = 0.0
  pairs = zip(features(weights, a), features(weights, b), strict=True)
  for layer, (x, y) in enumerate(pairs, 1):
    lin = weights[f"lin{layer}"].astype(x.dtype)
    difference = _unit(x) - _unit(y)
    total += jnp.mean(jnp.sum(lin * difference**2, axis=-1), axis=(1, 2))
  return total


def features(weights, images: jax.Array) -> list[jax.Array]:
  """VGG-16's relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, each [n h w c]."""
  images = jnp.broadcast_to(images, (*images.shape[:-1], 3))
  dtype = images.dtype
  x = (images - jnp.array(_SHIFT, dtype)) / jnp.array(_SCALE, dtype)
  maps = []
  for block, layers in enumerate(_BLOCKS, 1):
    if block > 1:
      x = _max_pool(x)
    for i in range(1, layers + 1):
      x = jax.nn.relu(_conv(x, weights[f"conv{block}_{i}"]))
    maps.append(x)
  return maps


def _conv(x, layer):
  kernel = layer["kernel"].astype(x.dtype)
  x = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return x + layer["bias"].astype(x.dtype)


def _max_pool(x):
  two = (1, 2, 2, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, two, two, "VALID")


def _unit(x):
  """Divides by (|x| + epsilon), along channels."""
  # The root's slope at 0 is infinite, but there ReLU's own hides it.
  norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
  return x / (norm + _EPSILON)


def _shapes(widths: Sequence[int]) -> dict:
  """Returns the tree of the weights' shapes, of convolutions that wide."""
  tree, inputs = {}, 3
  for name, outputs in zip(_CONVS, widths, strict=True):
    tree[name] = {"kernel": (3, 3, inputs, outputs), "bias": (outputs,)}
    inputs = outputs
  for layer, end in enumerate(np.cumsum(_BLOCKS), 1):
    tree[f"lin{layer}"] = (widths[end - 1],)
  return tree


def read(key: str, path: str, sha256: str = ""):
  """Reads a file that `convert_weights` made.

  Args:
    key: of the config, for messages.
    path: as `weights.resolve` takes it.
    sha256: that the file must have; "" pins nothing.

  Returns:
    Weights, numpy arrays.

  Raises:
    UsageError: a file that is not there, not pinned, not LPIPS or damaged.
  """
  weights_lib.check_pinned(path, sha256)
  made = weights_lib.read_metadata(path).get("objective", {})
  try:
    shapes = _shapes([int(width) for width in made["widths"]])
  except (KeyError, TypeError, ValueError):
    options.refuse(
      key,
      path,
      "LPIPS weights of convert_weights --arch objectives/autoencoder",
    )
  expected = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  return weights_lib.load(path, sha256, expected)


def _original(name: str) -> str:
  """Returns what the package calls conv1_1: a slice of torchvision's VGG."""
  block, i = map(int, name.removeprefix("conv").split("_"))
  before = sum(2 * layers + 1 for layers in _BLOCKS[: block - 1])
  return f"net.slice{block}.{before + 2 * (i - 1)}"


def _lins(layer: int) -> tuple[str, str]:
  """Returns both keys of a linear layer, 1 to 5: the package has it twice."""
  return tuple(f"{lin}{layer - 1}.model.1.weight" for lin in ("lin", "lins."))


def expected_keys(
  widths: Sequence[int] = WIDTHS,
) -> dict[str, tuple[int, ...]]:
  """Returns key -> shape of the state dict of `lpips.LPIPS(net="vgg")`.

  Args:
    widths: channels of the 13 convolutions.
  """
  shapes = _shapes(widths)
  keys = {f"scaling_layer.{leaf}": (1, 3, 1, 1) for leaf in ("shift", "scale")}
  for name in _CONVS:
    *sides, inputs, outputs = shapes[name]["kernel"]
    keys[f"{_original(name)}.weight"] = (outputs, inputs, *sides)
    keys[f"{_original(name)}.bias"] = (outputs,)
  for layer in _LAYERS:
    keys |= {key: (1, *shapes[f"lin{layer}"], 1, 1) for key in _lins(layer)}
  return keys


def convert(arrays: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
  """Converts the state dict of `lpips.LPIPS(net="vgg")`.

  Args:
    arrays: original key -> array; all keys are used. Channels are read off the
      biases, so that narrower networks are converted, too.

  Returns:
    (weights: float32 numpy arrays, {"widths": channels per convolution}).

  Raises:
    UsageError: a missing, unexpected or mis-shaped key, another scaling than
      v0.1's, or linear layers that are negative or not the same twice.
  """
  widths = [
    int(np.size(arrays.get(f"{_original(name)}.bias", np.zeros(width))))
    for name, width in zip(_CONVS, WIDTHS, strict=True)
  ]
  foreign.check("LPIPS of VGG-16", arrays, expected_keys(widths))
  for leaf, wanted in (("shift", _SHIFT), ("scale", _SCALE)):
    found = np.ravel(arrays[f"scaling_layer.{leaf}"])
    if not np.allclose(found, wanted, atol=1e-6):
      raise errors.UsageError(
        f"source: scaling_layer.{leaf} is {found.tolist()}, not v0.1's {wanted}"
      )
  weights = {}
  for name in _CONVS:
    kernel = np.transpose(arrays[f"{_original(name)}.weight"], (2, 3, 1, 0))
    weights[name] = {
      "kernel": np.ascontiguousarray(kernel, np.float32),
      "bias": np.asarray(arrays[f"{_original(name)}.bias"], np.float32),
    }
  for layer in _LAYERS:
    key, copy = _lins(layer)
    if np.min(arrays[key]) < 0:
      raise errors.UsageError(f"source: {key} is negative: not a trained LPIPS")
    if not np.array_equal(arrays[key], arrays[copy]):
      raise errors.UsageError(f"source: {key} and {copy} differ")
    weights[f"lin{layer}"] = np.asarray(arrays[key], np.float32).ravel()
  return weights, {"widths": widths}

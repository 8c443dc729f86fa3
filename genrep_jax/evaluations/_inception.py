"""The InceptionV3 of the FID, 2015-12-05, from its published weights.

The TensorFlow graph of Heusel et al. 2017 as pytorch-fid 0.3.0 laid it out
(torch-fidelity reads the same file). It is not torchvision's network: averages
leave the padding out, and the pooling of Mixed_7c takes the maximum. Batch
normalizations, eps 1e-3, are folded into the kernels.

How images come to 299 pixels moves the FID by several points, so it is named:

  clean: bicubic as Pillow's, on floats, widened where it shrinks (clean-fid);
  tf: bilinear from the corner, not widened (TensorFlow 1, torch-fidelity);
  halfpixel: bilinear between pixel centers, not widened (pytorch-fid).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import errors, foreign

SIDE = 299
RESIZES = ("clean", "tf", "halfpixel")
FEATURES = 2048
CLASSES = 1008
_EPS = 1e-3
_HIGHEST = jax.lax.Precision.HIGHEST


# --- the network --------------------------------------------------------------
# `conv(name, x, width, kernel, stride, padding)` is a convolution, its batch
# normalization and a ReLU: it runs a layer, or takes down its shapes.


def average(x):
  """Mean of 3x3 pixels around each, of those that there are."""
  return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def maximum_same(x):
  """Maximum of 3x3 pixels around each."""
  return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _maximum(x):
  return nn.max_pool(x, (3, 3), (2, 2))


def _join(*branches):
  return jnp.concatenate(branches, axis=-1)


def block_a(conv, x, pooled):
  """Mixed_5b to 5d; `pooled`: channels of the pooling branch."""
  wide = conv("branch5x5_2", conv("branch5x5_1", x, 48), 64, (5, 5))
  double = conv("branch3x3dbl_1", x, 64)
  double = conv("branch3x3dbl_2", double, 96, (3, 3))
  double = conv("branch3x3dbl_3", double, 96, (3, 3))
  pool = conv("branch_pool", average(x), pooled)
  return _join(conv("branch1x1", x, 64), wide, double, pool)


def block_b(conv, x):
  """Mixed_6a."""
  double = conv("branch3x3dbl_1", x, 64)
  double = conv("branch3x3dbl_2", double, 96, (3, 3))
  double = conv("branch3x3dbl_3", double, 96, (3, 3), 2, "VALID")
  one = conv("branch3x3", x, 384, (3, 3), 2, "VALID")
  return _join(one, double, _maximum(x))


def block_c(conv, x, width):
  """Mixed_6b to 6e; `width`: channels between the 7-pixel kernels."""
  one = conv("branch7x7_1", x, width)
  one = conv("branch7x7_2", one, width, (1, 7))
  one = conv("branch7x7_3", one, 192, (7, 1))
  double = conv("branch7x7dbl_1", x, width)
  double = conv("branch7x7dbl_2", double, width, (7, 1))
  double = conv("branch7x7dbl_3", double, width, (1, 7))
  double = conv("branch7x7dbl_4", double, width, (7, 1))
  double = conv("branch7x7dbl_5", double, 192, (1, 7))
  pool = conv("branch_pool", average(x), 192)
  return _join(conv("branch1x1", x, 192), one, double, pool)


def block_d(conv, x):
  """Mixed_7a."""
  one = conv("branch3x3_1", x, 192)
  one = conv("branch3x3_2", one, 320, (3, 3), 2, "VALID")
  wide = conv("branch7x7x3_1", x, 192)
  wide = conv("branch7x7x3_2", wide, 192, (1, 7))
  wide = conv("branch7x7x3_3", wide, 192, (7, 1))
  wide = conv("branch7x7x3_4", wide, 192, (3, 3), 2, "VALID")
  return _join(one, wide, _maximum(x))


def block_e(conv, x, pool):
  """Mixed_7b, 7c; `pool`: their pooling, which is not one and the same."""

  def forked(name, x):
    halves = [("a", (1, 3)), ("b", (3, 1))]
    return [conv(name + half, x, 384, kernel) for half, kernel in halves]

  one = forked("branch3x3_2", conv("branch3x3_1", x, 384))
  double = conv("branch3x3dbl_1", x, 448)
  double = conv("branch3x3dbl_2", double, 384, (3, 3))
  double = forked("branch3x3dbl_3", double)
  pool = conv("branch_pool", pool(x), 192)
  return _join(conv("branch1x1", x, 320), *one, *double, pool)


def _trunk(conv, x):
  """Runs all convolutions; yields the maps of 64, 192, 768, 2048 channels."""
  x = conv("Conv2d_1a_3x3", x, 32, (3, 3), 2, "VALID")
  x = conv("Conv2d_2a_3x3", x, 32, (3, 3), 1, "VALID")
  x = _maximum(conv("Conv2d_2b_3x3", x, 64, (3, 3)))
  yield x
  x = conv("Conv2d_3b_1x1", x, 80)
  x = _maximum(conv("Conv2d_4a_3x3", x, 192, (3, 3), 1, "VALID"))
  yield x

  def within(block):
    return lambda name, *args: conv(f"{block}.{name}", *args)

  for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
    x = block_a(within(f"Mixed_{name}"), x, pooled)
  x = block_b(within("Mixed_6a"), x)
  for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
    x = block_c(within(f"Mixed_{name}"), x, width)
  yield x
  x = block_d(within("Mixed_7a"), x)
  x = block_e(within("Mixed_7b"), x, average)
  yield block_e(within("Mixed_7c"), x, maximum_same)


def layer(params):
  """Returns the `conv` that runs the layers of params {name: (w, b)}."""

  def conv(name, x, width, kernel=(1, 1), stride=1, padding="SAME"):
    del width, kernel  # the weights know
    weight, bias = params[name]
    x = jax.lax.conv_general_dilated(
      x,
      weight,
      (stride, stride),
      padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=_HIGHEST,
    )
    return nn.relu(x + bias)

  return conv


def pooled(params, x):
  """Maps scaled images [n 299 299 3] to the spatial means of four maps."""
  return [m.mean(axis=(1, 2)) for m in _trunk(layer(params), x)]


def encode(params, images, *, resize: str):
  """Maps images [n h w c] in [-1, 1], c 1 or 3, to features and logits.

  Args:
    params: from `convert`.
    images: gray ones are shown in all three channels.
    resize: one of `RESIZES`.

  Returns:
    float32 [n 2048 + 1008]: what the last average pooling gives, and the logits
    without their bias, of which the inception score is made.
  """
  images = jnp.broadcast_to(images, (*images.shape[:3], 3))
  features = pooled(params, scaled((images + 1) * 127.5, resize))[-1]
  logits = jnp.matmul(features, params["fc"], precision=_HIGHEST)
  return jnp.concatenate([features, logits], axis=-1)


# --- 299 pixels ---------------------------------------------------------------


def scaled(levels, resize: str):
  """Resizes levels 0..255 [n h w c] and maps them to what the net is shown."""
  x = resized(levels, resize)
  return x / 127.5 - 1 if resize == "halfpixel" else (x - 128) / 128


def resized(levels, resize: str):
  """Resizes levels 0..255 [n h w c] to 299 pixels: [n 299 299 c]."""
  rows, columns = (
    jnp.asarray(_weights(size, resize)) for size in levels.shape[1:3]
  )
  x = jnp.einsum("pw,nhwc->nhpc", columns, levels, precision=_HIGHEST)
  x = jnp.einsum("oh,nhpc->nopc", rows, x, precision=_HIGHEST)
  return jnp.clip(x, 0, 255) if resize == "clean" else x


@functools.cache
def _weights(size: int, resize: str) -> np.ndarray:
  """What each of 299 pixels is made of: float32 [299 size]."""
  if resize == "clean":
    return _bicubic(size)
  i = np.arange(SIDE)
  if resize == "tf":  # TensorFlow 1 computes in float32
    at = i.astype(np.float32) * np.float32(size / SIDE)
  else:
    at = np.maximum((i + 0.5) * (size / SIDE) - 0.5, 0)
  low = np.minimum(np.floor(at).astype(int), size - 1)
  high = np.minimum(low + 1, size - 1)
  weights = np.zeros((SIDE, size), np.float32)
  np.add.at(weights, (i, low), 1 - (at - low))
  np.add.at(weights, (i, high), at - low)
  return weights


def _bicubic(size: int) -> np.ndarray:
  """Pillow's bicubic, a = -1/2, its support widened where it shrinks."""
  scale = size / SIDE
  wide = max(scale, 1.0)
  center = (np.arange(SIDE)[:, None] + 0.5) * scale
  pixel = np.arange(size)
  first = np.maximum((center - 2 * wide + 0.5).astype(int), 0)
  end = np.minimum((center + 2 * wide + 0.5).astype(int), size)
  d = np.abs((pixel - center + 0.5) / wide)
  near = (1.5 * d - 2.5) * d * d + 1
  far = ((-0.5 * d + 2.5) * d - 4) * d + 2
  weights = np.where(d < 1, near, np.where(d < 2, far, 0))
  weights = np.where((pixel >= first) & (pixel < end), weights, 0)
  return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


# --- the published file -------------------------------------------------------


@functools.cache
def expected() -> dict[str, tuple[int, ...]]:
  """Keys and shapes of the published file, but for num_batches_tracked."""
  shapes = {}

  def conv(name, x, width, kernel=(1, 1), stride=1, padding="SAME"):
    shapes[f"{name}.conv.weight"] = (width, x.shape[-1], *kernel)
    for part in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{name}.bn.{part}"] = (width,)
    x = x[:, ::stride, ::stride]
    if padding == "VALID":
      x = x[:, : -(kernel[0] // 2) or None, : -(kernel[1] // 2) or None]
    return jnp.broadcast_to(x[..., :1], (*x.shape[:3], width))

  image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
  jax.eval_shape(lambda x: list(_trunk(conv, x)), image)
  shapes["fc.weight"] = (CLASSES, FEATURES)
  shapes["fc.bias"] = (CLASSES,)
  return shapes


def check(arrays) -> dict:
  """Returns the arrays that are used; refuses any but the published keys."""
  used = {
    key: x
    for key, x in arrays.items()
    if not (key.endswith(".bn.num_batches_tracked") and x.shape == ())
  }
  foreign.check("the FID InceptionV3, 2015-12-05", used, expected())
  return used


def convert(arrays) -> dict:
  """Folds published arrays: {layer: (kernel HWIO, bias)}, and "fc" [2048 1008].

  Args:
    arrays: {key: array}, perhaps of a network of other widths.
  """
  params = {}
  for key, weight in arrays.items():
    name = key.removesuffix(".conv.weight")
    if name != key:
      gain, bias, mean, var = (
        np.asarray(arrays[f"{name}.bn.{part}"], np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
      )
      gain = gain / np.sqrt(var + _EPS)
      kernel = np.transpose(np.asarray(weight, np.float64), (2, 3, 1, 0)) * gain
      params[name] = tuple(
        np.ascontiguousarray(x, np.float32)
        for x in (kernel, bias - mean * gain)
      )
  if "fc.weight" in arrays:
    params["fc"] = np.ascontiguousarray(arrays["fc.weight"].T, np.float32)
  return params


def load(path: str, sha256: str = "") -> dict:
  """Reads the weights, as published or under the same keys in another format.

  Args:
    path: of the user's file, e.g. pt_inception-2015-12-05-6726825d.pth; or
      hf://OWNER/REPOSITORY/FILE@REVISION, which must be pinned.
    sha256: that it must have; "": not checked.

  Returns:
    The params.

  Raises:
    UsageError: no such file, another network, or another sha256.
  """
  from genrep_jax.lib import weights

  weights.check_pinned(path, sha256)
  file = weights.resolve(path)
  if sha256 and foreign.sha256(file) != sha256.lower():
    raise errors.UsageError(
      f"weights: {path} has sha256 {foreign.sha256(file)}, not {sha256}"
    )
  return convert(foreign.fitted(foreign.read(file).arrays, check))

"""What the BigGAN family shares: layers, and folding of spectral norms.

Layers are plain functions of dicts of float32 arrays. Images and maps are
[n h w c]; kernels are HWIO, or [in out] for a linear layer. Convolutions and
products run in the type of their input; batch norm and softmax in float32.

Sources: Brock et al. 2019 (BigGAN); Zhang et al. 2019 (self-attention, SAGAN);
Miyato et al. 2018 (spectral norm).
"""

import math
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import errors, options as options_lib, rng
from genrep_jax.lib.contracts import Generator

BATCH_NORM_EPSILON = 1e-4  # of the released models


def linear(x, layer: Mapping) -> jax.Array:
  """Multiplies x [n in] by {"kernel" [in out], "bias" [out]} -> [n out]."""
  product = x @ layer["kernel"].astype(x.dtype)
  return product + layer["bias"].astype(x.dtype)


def conv(x, layer: Mapping) -> jax.Array:
  """Convolves [n h w in] by {"kernel" HWIO, "bias" [out]}, same size."""
  product = jax.lax.conv_general_dilated(
    x,
    layer["kernel"].astype(x.dtype),
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return product + layer["bias"].astype(x.dtype)


def upsample(x: jax.Array) -> jax.Array:
  """Repeats every pixel: [n h w c] -> [n 2h 2w c] (nearest neighbor)."""
  n, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
  return x.reshape(n, 2 * h, 2 * w, c)


def batch_norm_relu(x, gain, bias, mean, var, epsilon) -> jax.Array:
  """ReLU of batch norm with stored statistics, computed in float32.

  Args:
    x: [n h w c].
    gain: factor of the normalized map, [c] or [n 1 1 c].
    bias: what is added, as `gain`.
    mean: [c].
    var: [c].
    epsilon: added to var.

  Returns:
    [n h w c], of x's type.
  """
  normal = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + epsilon)
  return jax.nn.relu(normal * gain + bias).astype(x.dtype)


def modulation(condition, gain_kernel, bias_kernel):
  """Gain and bias of conditional batch norm; the gain is an offset from 1.

  Args:
    condition: float32 [n d].
    gain_kernel: [d c].
    bias_kernel: [d c].

  Returns:
    (gain, bias), float32 [n 1 1 c].
  """
  gain = 1 + condition @ gain_kernel
  return gain[:, None, None], (condition @ bias_kernel)[:, None, None]


def attention(x, layer: Mapping) -> jax.Array:
  """Self-attention of SAGAN: no scaling of the scores by 1/sqrt(d).

  Keys and values are max-pooled 2x2, and gamma weighs the residual.

  Args:
    x: [n h w c], h and w even.
    layer: {"theta" [c c/8], "phi" [c c/8], "g" [c c/2], "out" [c/2 c],
      "gamma" scalar}.

  Returns:
    [n h w c].
  """
  n, h, w, c = x.shape

  def project(name):
    return x @ layer[name].astype(x.dtype)

  def pool(y):
    y = y.reshape(n, h // 2, 2, w // 2, 2, -1).max((2, 4))
    return y.reshape(n, h * w // 4, -1)

  query = project("theta").reshape(n, h * w, -1)
  scores = jnp.einsum(
    "nqd,nkd->nqk",
    query,
    pool(project("phi")),
    preferred_element_type=jnp.float32,
  )
  weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
  mixed = jnp.einsum("nqk,nkd->nqd", weights, pool(project("g")))
  out = (mixed @ layer["out"].astype(x.dtype)).reshape(n, h, w, c)
  return x + layer["gamma"].astype(x.dtype) * out


def attention_shapes(channels: int) -> dict:
  """Returns the shapes of `attention`'s layer for maps of c channels."""
  c = channels
  return {
    "theta": (c, c // 8),
    "phi": (c, c // 8),
    "g": (c, c // 2),
    "out": (c // 2, c),
    "gamma": (),
  }


def layer_shapes(*kernel: int) -> dict:
  """Returns the shapes of a linear or convolutional layer with a bias."""
  return {"kernel": kernel, "bias": (kernel[-1],)}


def init(key: jax.Array, shapes: Mapping) -> dict:
  """Draws random variables: LeCun-normal kernels, neutral everything else.

  Args:
    key: a PRNG key.
    shapes: nested dict of shapes; leaves are drawn by their names.

  Returns:
    The same nested dict, of float32 arrays.
  """

  def build(normal):
    def leaf(path, shape):
      if path[-1].key in ("var", "scale"):
        return jnp.ones(shape)
      if path[-1].key in ("mean", "bias", "gamma"):
        return jnp.zeros(shape)
      return normal(shape) / math.sqrt(max(1, math.prod(shape[:-1])))

    return jax.tree_util.tree_map_with_path(
      leaf, dict(shapes), is_leaf=lambda x: isinstance(x, tuple)
    )

  return rng.one_draw(key, build)


def generator(
  shapes: Mapping,
  run: Callable[..., Iterator[tuple[str, jax.Array]]],
  **fields,
) -> Generator:
  """Makes a frozen generator of RGB images.

  Args:
    shapes: nested dict of its variables' shapes.
    run: (variables, z, y) -> (name, map) pairs; the last are the images.
    **fields: of the Generator; `resolution` is one side, in pixels.
  """

  def apply(variables, z, y):
    *_, (_, images) = run(variables, z, y)
    return images

  fields["resolution"] = (fields["resolution"],) * 2
  return Generator(
    channels=3, init=lambda key: init(key, shapes), apply=apply, **fields
  )


def check(declared: options_lib.Options, values: Mapping) -> None:
  """Refuses sizes read off a checkpoint that no option allows."""
  for name, value in values.items():
    options_lib.check(f"source: {name}", declared[name], value)


def stored_sigma(weight, u, v) -> float:
  """Spectral norm by stored vectors, u . (W v), in float64.

  torch.nn.utils.spectral_norm in eval mode: no power iteration.

  Args:
    weight: [out ...]; as a matrix it is [out, rest] in the given order.
    u: [out].
    v: [rest].
  """
  matrix = np.asarray(weight, np.float64).reshape(len(weight), -1)
  return float(np.float64(u) @ (matrix @ np.float64(v)))


def stepped_sigma(weight, u0, epsilon=1e-4) -> float:
  """Spectral norm by one power half-step pair from u0, in float64.

  v = norm(u0 W), u = norm(v W^T), sigma = v W^T u^T: what BigGAN-PyTorch's
  spectral norm does at every forward pass, in eval mode too.

  Args:
    weight: [out ...]; as a matrix it is [out, rest] in the given order.
    u0: [1 out].
    epsilon: lower bound of the norms divided by.
  """
  matrix = np.asarray(weight, np.float64).reshape(len(weight), -1)

  def norm(x):
    return x / max(np.linalg.norm(x), epsilon)

  v = norm(np.asarray(u0, np.float64).reshape(-1) @ matrix)
  u = norm(matrix @ v)
  return float(u @ (matrix @ v))


def divide(name: str, weight, sigma: float) -> np.ndarray:
  """Returns weight / sigma, float64.

  Args:
    name: source key, for the message.
    weight: any array.
    sigma: its spectral norm.

  Raises:
    UsageError: sigma is zero or not finite.
  """
  if not (math.isfinite(sigma) and sigma):
    raise errors.UsageError(
      f"source: {name} has spectral norm {sigma}; it must be finite, not 0"
    )
  return np.asarray(weight, np.float64) / sigma


def to_hwio(weight: np.ndarray) -> np.ndarray:
  """Transposes a convolution's OIHW kernel, or a linear layer's [out in]."""
  if weight.ndim == 4:
    return weight.transpose(2, 3, 1, 0)
  return weight.T


def to_float32(tree):
  """Returns the tree with contiguous float32 numpy leaves."""
  return jax.tree.map(
    lambda x: np.array(x, dtype=np.float32, order="C", copy=True), tree
  )


def size(arrays: Mapping[str, np.ndarray], key: str, axis: int, default: int):
  """Reads one dimension of a checkpoint; `default` where it has none."""
  shape = np.shape(arrays[key]) if key in arrays else ()
  return int(shape[axis]) if axis < len(shape) and shape[axis] else default

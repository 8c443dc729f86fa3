"""The discriminator of the GAN game, and spectral normalization of a tree."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

_SLOPE = 0.2  # leaky ReLU


class Discriminator(nn.Module):
  """Strided 3x3 convolutions, sum pooling, a projection output.

  Miyato & Koyama 2018, "cGANs with projection discriminator", eq. 7:
  f(x, y) = y^T V phi(x) + psi(phi(x)); without classes the first term is gone.
  No batch norm: spectral normalization keeps the scale, each image is seen
  alone, and XLA's slow batch statistics on CPUs are avoided.

  Attributes:
    widths: channels of each stride-2 stage.
    extra_convs: 3x3 stride-1 convolutions after each stage.
    num_classes: k; 0 means unconditional.
  """

  widths: Sequence[int]
  extra_convs: Sequence[int]
  num_classes: int = 0

  @nn.compact
  def __call__(self, images, labels):
    """Maps images [n h w c] in [-1, 1] and labels int [n] to logits [n]."""
    x = images
    for i, width in enumerate(self.widths):
      # An odd side (7) is cut to 3, not padded to 4: fewer positions.
      even = x.shape[1] % 2 == 0
      size = 4 if i == 0 else 3
      x = nn.Conv(
        width,
        (size, size),
        strides=2,
        name=f"down_{i}",
        padding=[(1, 1), (1, 1)] if even else "VALID",
      )(x)
      x = nn.leaky_relu(x, _SLOPE)
      for j in range(self.extra_convs[i]):
        x = nn.Conv(width, (3, 3), name=f"conv_{i}_{j}")(x)
        x = nn.leaky_relu(x, _SLOPE)
    phi = jnp.sum(x, axis=(1, 2))
    logits = nn.Dense(1, name="psi")(phi)[:, 0]
    if self.num_classes:
      v = nn.Embed(
        self.num_classes,
        phi.shape[-1],
        name="projection",
        embedding_init=nn.initializers.normal(0.02),
      )(labels)
      logits += jnp.sum(v * phi, axis=-1)
    return logits


def _is_kernel(leaf) -> bool:
  return leaf.ndim >= 2


def init_vectors(key: jax.Array, params):
  """Draws the left singular vectors' first guesses.

  Args:
    key: a PRNG key.
    params: the discriminator's params.

  Returns:
    A tree like `params`: a unit vector [outputs] for each kernel [... outputs],
    an empty array for each bias.
  """
  leaves, tree = jax.tree.flatten(params)
  vectors = []
  for i, leaf in enumerate(leaves):
    size = leaf.shape[-1] if _is_kernel(leaf) else 0
    u = jax.random.normal(jax.random.fold_in(key, i), (size,))
    vectors.append(u / jnp.maximum(jnp.linalg.norm(u), 1e-12))
  return tree.unflatten(vectors)


def power_iteration(params, vectors):
  """One step of power iteration (Miyato et al. 2018, algorithm 1, step 1).

  Args:
    params: the discriminator's params.
    vectors: the tree of `init_vectors`.

  Returns:
    The tree of better vectors.
  """

  def improve(w, u):
    if not _is_kernel(w):
      return u
    w = w.reshape(-1, w.shape[-1])
    v = w @ u
    v /= jnp.linalg.norm(v) + 1e-12
    u = v @ w
    return u / (jnp.linalg.norm(u) + 1e-12)

  return jax.tree.map(improve, jax.lax.stop_gradient(params), vectors)


def normalize(params, vectors):
  """Divides every kernel by its spectral norm sigma(W) = |W u|.

  The gradient flows through sigma, the vectors are constants (Miyato et al.
  2018, eq. 10-12).

  Args:
    params: the discriminator's params.
    vectors: the tree of `power_iteration`.

  Returns:
    Params whose kernels [... outputs], seen as matrices, have norm 1; biases
    as they were.
  """

  def divide(w, u):
    if not _is_kernel(w):
      return w
    matrix = w.reshape(-1, w.shape[-1])
    v = jax.lax.stop_gradient(matrix @ u)
    v /= jnp.linalg.norm(v) + 1e-12
    return w / (v @ matrix @ u + 1e-12)

  return jax.tree.map(divide, params, jax.lax.stop_gradient(vectors))

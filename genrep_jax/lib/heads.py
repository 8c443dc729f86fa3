"""Small networks on top of features: projections, predictors, linear maps.

Not a plug-in: an objective builds the heads it needs from `mlp`. GenRep's
projection head is `mlp([0], 128)`: Linear(f, f), ReLU, Linear(f, 128), no batch
norm; the L2 normalization that follows belongs to the loss.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, errors


@dataclasses.dataclass(frozen=True)
class Head:
  """A pair of pure functions; all arrays are float32.

  Attributes:
    init: (key, in_dim) -> variables {"params": ..., "batch_stats": ...};
      "batch_stats" is {} without batch norm.
    apply: (variables, x [... in_dim], train) -> (y [... out], batch_stats). In
      training a batch norm sees all rows of x and batch_stats are the updated
      ones; otherwise they come back unchanged.
  """

  init: Callable[[contracts.Array, int], contracts.Tree]
  apply: Callable[..., tuple[contracts.Array, contracts.Tree]]


def mlp(
  hidden: Sequence[int],
  out: int,
  *,
  batch_norm: bool = False,
  out_bias: bool = True,
  out_batch_norm: bool = False,
  out_layer_norm: bool = False,
  shortcut: bool = False,
) -> Head:
  """Makes a multi-layer perceptron, computed in float32.

  Weights and biases start uniform in +-1/sqrt(fan_in), as PyTorch's nn.Linear
  does and hence every published recipe of this family: flax's own default
  (lecun normal, zero bias) has weights 1.7 times larger.

  Args:
    hidden: widths of the hidden layers, each followed by ReLU; 0 means the
      dimension of the input. Empty makes a linear head.
    out: dimension d of the output.
    batch_norm: batch norm between each hidden layer and its ReLU; that layer
      then has no bias of its own.
    out_bias: whether the last layer has a bias.
    out_batch_norm: a batch norm without scale and shift on the output
      (MoCo v3); the last layer then has no bias either.
    out_layer_norm: a layer norm on the output (DIM's score networks).
    shortcut: adds a linear map of the input to the last layer's output, before
      any norm of it (DIM, AMDIM). It starts as the identity plus noise uniform
      in +-0.01; with fewer or more outputs than inputs, as a part of it.

  Returns:
    The head.

  Raises:
    UsageError: a width or the output dimension is out of range.
  """
  hidden = tuple(int(width) for width in hidden)
  if any(width < 0 for width in hidden):
    raise errors.UsageError(
      f"heads.mlp: hidden widths must be >= 0 (0: that of the input), "
      f"got {list(hidden)}"
    )
  if out < 1:
    raise errors.UsageError(f"heads.mlp: out must be >= 1, got {out}")
  module = _Mlp(
    hidden,
    out,
    batch_norm,
    out_bias,
    out_batch_norm,
    out_layer_norm,
    shortcut,
  )

  def init(key, in_dim):
    variables = module.init(key, jnp.zeros((1, in_dim)), train=False)
    return {"batch_stats": {}, **variables}

  def apply(variables, x, train):
    if not train:
      return module.apply(variables, x, train=False), variables["batch_stats"]
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, updated.get("batch_stats", {})

  return Head(init=init, apply=apply)


def _uniform_fan_in(fan_in: int):
  """Returns an initializer: uniform in +-1/sqrt(fan_in)."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def _near_identity(key, shape, dtype=jnp.float32):
  """An initializer: uniform in +-0.01, and ones on the diagonal."""
  noise = jax.random.uniform(key, shape, dtype, -0.01, 0.01)
  return jnp.where(jnp.eye(*shape, dtype=bool), 1.0, noise)


class _Mlp(nn.Module):
  """See `mlp`."""

  hidden: tuple[int, ...]
  out: int
  batch_norm: bool
  out_bias: bool
  out_batch_norm: bool
  out_layer_norm: bool
  shortcut: bool

  @nn.compact
  def __call__(self, x, *, train):
    """Maps x [... f] to [... out]."""
    x = inputs = x.astype(jnp.float32)
    in_dim = x.shape[-1]

    def linear(x, width, bias, name):
      init = _uniform_fan_in(x.shape[-1])
      return nn.Dense(
        width, use_bias=bias, kernel_init=init, bias_init=init, name=name
      )(x)

    def norm(x, affine, name):
      return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_bias=affine,
        use_scale=affine,
        name=name,
      )(x)

    for i, width in enumerate(self.hidden):
      x = linear(x, width or in_dim, not self.batch_norm, f"linear{i}")
      if self.batch_norm:
        x = norm(x, True, f"norm{i}")
      x = nn.relu(x)
    bias = self.out_bias and not self.out_batch_norm
    x = linear(x, self.out, bias, "linear_out")
    if self.shortcut:
      x += nn.Dense(
        self.out, use_bias=False, kernel_init=_near_identity, name="shortcut"
      )(inputs)
    if self.out_batch_norm:
      x = norm(x, False, "norm_out")
    return nn.LayerNorm(name="layer_norm")(x) if self.out_layer_norm else x

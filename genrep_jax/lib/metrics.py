"""Metrics that stay on the device until somebody logs.

Built from clu.metrics: averages over all steps since the last log, and the
first step at which a number was not finite, so that the loop can name that
step although it looks only now and then.
"""

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp

_NEVER = jnp.iinfo(jnp.int32).max


@flax.struct.dataclass
class FirstNonFinite(clu.metrics.Metric):
  """The smallest step at which a value was NaN or infinite.

  Attributes:
    step: int32 scalar; 2**31 - 1 means never.
  """

  step: jax.Array

  @classmethod
  def from_model_output(cls, values, step, **_):
    """Looks at one step.

    Args:
      values: pytree of arrays.
      step: int32 scalar, the step they belong to.
    """
    finite = jnp.bool_(True)
    for value in jax.tree.leaves(values):
      finite &= jnp.all(jnp.isfinite(value))
    return cls(jnp.where(finite, _NEVER, jnp.asarray(step, jnp.int32)))

  @classmethod
  def empty(cls):
    """The neutral element of `merge`."""
    return cls(jnp.int32(_NEVER))

  def merge(self, other):
    """Keeps the earlier step."""
    return type(self)(jnp.minimum(self.step, other.step))

  def compute(self):
    """Returns the step, int32."""
    return self.step


@flax.struct.dataclass
class Accumulated(clu.metrics.Metric):
  """What one step, or many merged steps, have to report.

  `reduce()` (inherited) merges along a leading axis, such as the one
  `lax.scan` stacks its outputs along.

  Attributes:
    averages: {name: clu.metrics.Average}.
    first_nonfinite: step at which one of the averaged values was not finite.
  """

  averages: dict[str, clu.metrics.Average]
  first_nonfinite: FirstNonFinite

  def merge(self, other):
    """Merges two of the same names."""
    return type(self)(
      averages={
        name: average.merge(other.averages[name])
        for name, average in self.averages.items()
      },
      first_nonfinite=self.first_nonfinite.merge(other.first_nonfinite),
    )

  def compute(self):
    """Returns {name: average}."""
    return {name: value.compute() for name, value in self.averages.items()}


def collection(step, /, **values) -> Accumulated:
  """Collects the metrics of one step; call it inside the step.

  Args:
    step: int32 scalar, what to call this step in a report of a NaN.
    **values: arrays; each is averaged over its elements and over steps, in
      float32.

  Returns:
    An Accumulated; its names are static, its numbers on the device.
  """
  values = {
    name: jnp.asarray(value, jnp.float32) for name, value in values.items()
  }
  return Accumulated(
    averages={
      name: clu.metrics.Average.from_model_output(value)
      for name, value in values.items()
    },
    first_nonfinite=FirstNonFinite.from_model_output(values, step=step),
  )


def merge(a: Accumulated, b: Accumulated) -> Accumulated:
  """Merges two collections of the same names; jit-able."""
  return a.merge(b)


# The accumulator (first argument) is donated: it lives in place.
merge_donated = jax.jit(merge, donate_argnums=0)


@jax.jit
def _values(collection_):
  return collection_.compute(), collection_.first_nonfinite.compute()


def fetch(collection_: Accumulated) -> tuple[dict[str, float], int | None]:
  """Brings a collection to the host, in one explicit transfer.

  Args:
    collection_: numbers replicated over, or addressable from, this process.

  Returns:
    ({name: average}, first step that was not finite or None).
  """
  values, step = jax.device_get(_values(collection_))
  step = int(step)
  return (
    {name: float(value) for name, value in values.items()},
    None if step == _NEVER else step,
  )


def compute(collection_: Accumulated) -> dict[str, float]:
  """Returns the averages as python floats."""
  return fetch(collection_)[0]


def first_nonfinite(collection_: Accumulated) -> int | None:
  """Returns the first step with a NaN or infinity, or None."""
  return fetch(collection_)[1]


def pack(collection_: Accumulated | None) -> dict:
  """Returns a collection as plain values, exactly; {} for None."""
  if collection_ is None:
    return {}
  with jax.transfer_guard("allow"):
    leaves = jax.device_get(collection_)
  return {
    "first_nonfinite": int(leaves.first_nonfinite.step),
    "averages": {
      name: [float(average.total), float(average.count)]
      for name, average in leaves.averages.items()
    },
  }


def unpack(packed, like: Accumulated, sharding) -> Accumulated | None:
  """Returns the collection that `pack` was given, on the devices.

  Args:
    packed: from `pack`.
    like: an abstract collection of a step of this run.
    sharding: of its numbers.

  Returns:
    The collection; None for {} or where the names are not this run's.
  """
  if not packed or set(packed["averages"]) != set(like.averages):
    return None

  def put(value, x):
    return jax.device_put(jnp.asarray(value, x.dtype), sharding)

  averages = {
    name: average.replace(
      total=put(packed["averages"][name][0], average.total),
      count=put(packed["averages"][name][1], average.count),
    )
    for name, average in like.averages.items()
  }
  step = put(packed["first_nonfinite"], like.first_nonfinite.step)
  return like.replace(averages=averages, first_nonfinite=FirstNonFinite(step))

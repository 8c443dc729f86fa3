"""The device mesh: one axis, `data`, over every device there is."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(devices=None) -> Mesh:
  """Makes the one-axis mesh, with automatic (compiler-chosen) sharding.

  Args:
    devices: sequence of devices; None means all devices of all processes.

  Returns:
    A mesh with the single axis "data" of type Auto: `jax.make_mesh` defaults
    to Explicit axes, under which `z @ z.T` of a sharded z is an error.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  return Mesh(devices.reshape(-1), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh) -> NamedSharding:
  """Sharding of an array whose first axis is spread over the devices."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def split_batch(x, mesh: Mesh):
  """Constrains the first axis of every leaf of `x` to the data axis."""
  return jax.lax.with_sharding_constraint(x, batch(mesh))


def host_device():
  """Returns a device of the host for small computations beside the program.

  Where JAX_PLATFORMS leaves the CPU out: one that the program runs on.
  """
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return jax.local_devices()[0]

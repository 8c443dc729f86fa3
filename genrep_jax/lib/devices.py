"""Which devices a job runs on: processes, CPU devices, compilation cache."""

import logging
import os
import re

import jax

from genrep_jax.lib import environment, processes

_COUNT_FLAG = "xla_force_host_platform_device_count"
_THREADS_PER_DEVICE = 4


def start(config, workdir):
  """Joins the other processes, opens the compilation cache, makes the mesh.

  Args:
    config: the resolved config.
    workdir: folder of the run, or None.

  Returns:
    The mesh over all devices of all processes.

  Raises:
    UsageError: a cache that cannot be written, a flag of JAX under which there
      is no run, or no device answers.
  """
  logging.getLogger("absl").setLevel(logging.WARNING)
  environment.pin()
  _split_cpu(config.cpu_devices)
  processes.join(config.distributed)
  environment.open_cache(config.compilation_cache, workdir)
  return environment.make_mesh()


def _split_cpu(count):
  """Makes JAX count the CPU as several devices, unless XLA_FLAGS say so.

  XLA's CPU backend runs most of a program's operations on one thread a device:
  two devices on two cores take a step of the quick start from 209 to 134 ms.
  A device that waits in a collective holds a thread of XLA's pool, which has
  one thread a core (NPROC, if set); with all of them held, nothing arrives any
  more and XLA aborts after 40 s. So there are more threads than can be held by
  a few programs in flight. Their number changes no result.
  """
  given = re.search(_COUNT_FLAG + r"=(\d+)", os.environ.get("XLA_FLAGS", ""))
  if given:
    count = int(given[1])
  elif count:
    jax.config.update("jax_num_cpu_devices", count)
  if count > 1:
    threads = max(os.cpu_count() or 1, _THREADS_PER_DEVICE * count)
    os.environ.setdefault("NPROC", str(threads))

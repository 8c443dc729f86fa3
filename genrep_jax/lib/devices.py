"""Which devices a job runs on: processes, CPU devices, compilation cache."""

import logging
import os
import pathlib
import re

import jax

from genrep_jax.lib import mesh as mesh_lib, options

_COUNT_FLAG = "xla_force_host_platform_device_count"
_THREADS_PER_DEVICE = 4
# Set by a launcher that starts several processes; any of them means: join.
_CLUSTER_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def start(config, workdir):
  """Joins the other processes, opens the compilation cache, makes the mesh.

  Args:
    config: the resolved config.
    workdir: folder of the run, or None.

  Returns:
    The mesh over all devices of all processes.

  Raises:
    UsageError: a cache that cannot be written, or no device answers.
  """
  logging.getLogger("absl").setLevel(logging.WARNING)
  _split_cpu(config.cpu_devices)
  _join(config.distributed)
  folder = _cache_folder(config.compilation_cache, workdir)
  if folder:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return mesh_lib.make_mesh()


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


def _join(distributed):
  where = distributed.coordinator, distributed.num_processes
  number = distributed.process_id
  if any(where) != all(where):
    options.refuse(
      "distributed.coordinator and num_processes", where, "both or neither"
    )
  if (
    number >= 0 and not any(where) or any(where) and not 0 <= number < where[1]
  ):
    options.refuse(
      "distributed.process_id", number, "-1, or which of num_processes, from 0"
    )
  several = any(int(os.environ.get(v, 1)) > 1 for v in _CLUSTER_VARIABLES)
  several |= "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
  if distributed.mode == "off" or distributed.mode == "auto" and not several:
    return
  given = {}
  if distributed.coordinator:
    given = {
      "coordinator_address": distributed.coordinator,
      "num_processes": distributed.num_processes,
      "process_id": distributed.process_id,
    }
  jax.distributed.initialize(**given)


def _cache_folder(name, workdir):
  if name == "off" or name == "workdir" and not workdir:
    return None
  if name == "user":
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "genrep_jax" / "xla"
  if name == "workdir":
    return pathlib.Path(workdir).resolve() / "xla_cache"
  folder = pathlib.Path(name).absolute()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    writable = os.access(folder, os.W_OK | os.X_OK)
  except OSError:
    writable = False
  if not writable:
    options.refuse(
      "compilation_cache", name, "user, workdir, off, or a writable folder"
    )
  return folder

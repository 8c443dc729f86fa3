"""Several processes that are one run: they meet, agree, and leave together.

JAX joins them; what it does not do is done here: a time limit with one line,
a comparison of what each was told to do, a signal to one that all obey, and an
exit code that says "retry" when one of them is lost.
"""

import contextlib
import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed as _distributed  # no public name for its store

from genrep_jax.lib import (
  environment,
  errors,
  lock,
  mesh as mesh_lib,
  options,
  stopping,
)

_STOP, _FACTS, _VERDICTS = (
  f"genrep_jax/{name}/" for name in ("stop", "facts", "verdicts")
)
_FAREWELL_SECONDS = 25.0
_SEEN_SECONDS = 10.0  # until a file is seen by every process
# Set by launchers that start several processes, in each of them. SLURM's other
# variables are there without srun, too, where nobody else was started.
_STARTED = {
  "SLURM_NTASKS": "SLURM_STEP_NODELIST",
  "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
}


def join(config) -> None:
  """Joins the other processes of the run, if there are any.

  Args:
    config: `distributed` of the resolved config.

  Raises:
    UsageError: options that do not fit together, or JAX refuses them.
  """
  where = config.coordinator, config.num_processes
  number = config.process_id
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
  if config.mode == "off" and any(where):
    options.refuse("distributed.mode", "off", "on or auto with a coordinator")
  if config.mode == "off":
    return
  if config.mode == "auto" and not (any(where) or _launched()):
    return
  given = {}
  if any(where):
    given = {
      "coordinator_address": config.coordinator,
      "num_processes": config.num_processes,
      "process_id": number,
    }
  _initialize(given, config.start_seconds, config.lost_seconds)


def _launched() -> bool:
  """Whether a launcher has started several processes."""
  for count, only_there in _STARTED.items():
    text = os.environ.get(count, "")
    if not text.isdecimal() or int(text) < 2:
      continue
    if only_there in os.environ:
      return True
    environment.note(
      f"{count}={text}, but this process was not started by its launcher "
      "(srun, mpirun): it runs alone"
    )
  return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _initialize(given: Mapping[str, Any], start: int, lost: int) -> None:
  def too_late():
    what = given.get("coordinator_address", "found by JAX")
    count = given.get("num_processes", "all")
    _end(
      f"error: distributed.start_seconds: given {start}; {count} processes did "
      f"not meet at the coordinator ({what}) in that time; is each started, "
      "and can it reach that address?"
    )

  # Beyond its own limits JAX aborts with a page of C++.
  timer = threading.Timer(start, too_late)
  timer.daemon = True
  timer.start()
  # Its handler of SIGTERM would take the place of lib/stopping's.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **given,
      initialization_timeout=start + 60,
      heartbeat_timeout_seconds=lost,
      shutdown_timeout_seconds=lost,
    )
  except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
    reason = " ".join(str(error).split())
    raise errors.UsageError(
      f"distributed: given {dict(given) or 'nothing'}; allowed: processes that "
      f"JAX can join ({reason:.300})"
    ) from error
  finally:
    timer.cancel()
  if _count() == 1:
    return
  _survive_aborts()
  stopping.share(_Board())


def _end(line: str) -> None:
  """Ends the process, from any thread; a scheduler tries again."""
  os.write(2, f"{line}\n".encode(errors="replace"))
  os._exit(errors.EXIT_PREEMPTED)


def _survive_aborts() -> None:
  """Exits with 75, not -6, when JAX's runtime aborts.

  It does so when another process is lost. It cannot be told here from a fault
  of its own, whose page stands above the line.
  """

  def aborted(number):
    del number
    _end(
      "preempted: JAX's runtime has aborted (above), as it does when another "
      "process of the run is lost; run the same command again to go on from "
      "the newest checkpoint"
    )

  global _aborted
  _aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)  # kept alive
  # Not `signal.signal`, whose handlers wait for the main thread.
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(_aborted, ctypes.c_void_p))


_aborted = None


def _count() -> int:
  """Processes of the run; unlike JAX's, starts no backend."""
  return _distributed.global_state.num_processes


def _index() -> int:
  return _distributed.global_state.process_id


def _store():
  """The key-value store of JAX's coordination service."""
  return _distributed.global_state.client


def _read_all(folder: str) -> dict[int, Any]:
  """Returns {process: what it has written} of a folder of the store."""
  return {
    int(key.rpartition("/")[2]): json.loads(text)
    for key, text in _store().key_value_dir_get(folder)
  }


def _write(folder: str, value) -> None:
  key = f"{folder}{_index()}"
  _store().key_value_set(key, json.dumps(value), allow_overwrite=True)


class _Board:
  """A word of each process, in the coordinator's store."""

  def read(self):
    try:
      words = [stopping.Word(*w) for w in _read_all(_STOP).values()]
    except Exception:  # the coordinator is gone: so are all soon
      return None

    def gravity(word):
      return word.code != errors.EXIT_PREEMPTED, word.now

    return max(words, key=gravity, default=None)

  def write(self, word):
    try:
      _write(_STOP, word)
    except Exception:  # the coordinator is gone
      return

  def farewell(self):
    # The store is a part of process 0: the others' runtimes end with it.
    end = time.monotonic() + _FAREWELL_SECONDS
    while _index() == 0 and time.monotonic() < end:
      try:
        words = _read_all(_STOP).values()
      except Exception:  # it is shut down already
        return
      if sum(bool(now) for _, _, now in words) == _count():
        return
      time.sleep(0.1)


@contextlib.contextmanager
def first_holds(workdir) -> Iterator[None]:
  """Holds a workdir: only one run may write to it at a time.

  Raises:
    UsageError: another one does.
  """
  if _index() != 0:
    yield
    return
  with lock.Lock(workdir):
    yield


def compare(facts: Callable[[], Mapping[str, Any]], seconds: int) -> None:
  """Refuses processes that were told different things, before they start.

  Args:
    facts: returns flat, plain values by the names that users know; asked once
      the first process has answered. "workdir..." may take a moment to be seen
      everywhere.
    seconds: to wait for the others.

  Raises:
    UsageError: names up to three facts that differ, and both values.
    Preempted: a process has said nothing in that time.
  """
  if _count() == 1:
    return
  if _index() == 0:
    _write(_FACTS, dict(facts()))
  # All compare with the first process: no process reads more than one.
  with _within(seconds):
    text = _store().blocking_key_value_get(f"{_FACTS}0", 1000 * seconds)
  first, end = json.loads(text), time.monotonic() + _SEEN_SECONDS
  while True:
    mine = json.loads(json.dumps(dict(facts())))
    keys = sorted({*first, *mine})
    differ = [key for key in keys if first.get(key) != mine.get(key)]
    settled = not all(key.startswith("workdir") for key in differ)
    if not differ or settled or time.monotonic() > end:
      break
    time.sleep(0.5)
  more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
  verdict = "; ".join(
    f"{key}: process 0 has {_short(first.get(key))}, process {_index()} has "
    f"{_short(mine.get(key))}"
    for key in differ[:3]
  )
  _write(_VERDICTS, verdict + more)
  with _within(seconds):
    _store().wait_at_barrier("genrep_jax/compared", 1000 * seconds)
  verdicts = _read_all(_VERDICTS)
  wrong = [verdicts[index] for index in sorted(verdicts) if verdicts[index]]
  if wrong:
    raise errors.UsageError(f"processes disagree: {wrong[0]}")


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
  """Says in one line that another process has not answered."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    raise errors.Preempted(
      f"distributed.start_seconds: given {seconds}; another process has not "
      "said in that time what it was told to do; run the same command again"
    ) from error


def _short(value) -> str:
  return f"{value!r:.80}"


class StopTogether:
  """Whether all processes stop after the same step.

  A flag of each device, reduced on the devices in step with the training
  steps: no process waits for another that it does not wait for anyway.
  """

  def __init__(self, mesh, ahead: bool):
    """Compiles the reduction.

    Args:
      mesh: of the run.
      ahead: answer with the flags of the call before, so that a step can be
        queued while another one runs.
    """
    self._alone = jax.process_count() == 1
    if self._alone:
      return
    self._ahead = ahead
    self._sharding = mesh_lib.batch(mesh)
    self._size = mesh.size
    self._calm = self._flags(0)
    self._any = (
      jax.jit(jnp.max, out_shardings=mesh_lib.replicated(mesh))
      .lower(self._calm)
      .compile()
    )
    self._before = None

  def _flags(self, value):
    with jax.transfer_guard("allow"):
      return jax.make_array_from_callback(
        (self._size,), self._sharding, lambda _: np.full(1, value, np.int32)
      )

  def __call__(self) -> bool:
    """Returns the answer; every process calls it after the same steps."""
    asked = stopping.requested()
    if self._alone:
      return asked
    now = self._any(self._flags(1) if asked else self._calm)
    before, self._before = self._before, now
    answer = before if self._ahead else now
    return answer is not None and bool(jax.device_get(answer))

"""What the host feeds the program, read ahead in a thread of its own.

A batch is a pure function of its number (contracts.Feed), so a run that is
resumed needs no state of a loader, and every process reads the rows of its own
devices only. Transfers are explicit and overlap with the step.
"""

import queue
import threading
import time

import jax
import numpy as np

from genrep_jax.lib import contracts, mesh as mesh_lib

_POLL_SECONDS = 0.002


def shapes(program: contracts.Program, steps: int = 1) -> dict:
  """Returns what `frozen["fed"]` is, abstract and sharded.

  Args:
    program: has a feed.
    steps: of a call; with several, leaves are [steps ...].
  """
  leading = _leading(program, steps)
  sharding = _sharding(program, leading)
  return {
    name: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=sharding)
    for name, x in program.feed.shapes.items()
  }


def put(program: contracts.Program, step: int, steps: int = 1) -> dict:
  """Reads and places `frozen["fed"]` of the call that begins with `step`."""
  leading = _leading(program, steps)
  first = step * program.feed_batches
  numbers = np.arange(first, first + steps * program.feed_batches)
  return _placed(program, numbers.reshape(leading))


def _leading(program, steps) -> tuple[int, ...]:
  """The axes before the batch's."""
  return tuple(n for n in (steps, program.feed_batches) if n > 1)


def _sharding(program, leading):
  """Spreads the batch axis."""
  mesh = program.shardings.mesh
  spec = jax.sharding.PartitionSpec(*[None] * len(leading), mesh_lib.DATA)
  return jax.sharding.NamedSharding(mesh, spec)


def _placed(program, numbers):
  """Reads the batches of an array of numbers and places them."""
  feed = program.feed
  sharding = _sharding(program, numbers.shape)
  batch = next(iter(feed.shapes.values())).shape[0]
  where = sharding.addressable_devices_indices_map((*numbers.shape, batch))
  all_positions = np.arange(batch)
  parts = {device: all_positions[at[-1]] for device, at in where.items()}
  mine = np.unique(np.concatenate(list(parts.values())))
  read = [feed.read(int(number), mine) for number in numbers.ravel()]
  placed = {}
  for name, like in feed.shapes.items():
    rows = np.stack([one[name] for one in read])
    if rows.dtype != like.dtype or rows.shape[2:] != like.shape[1:]:
      raise AssertionError(f"fed {name}: {rows.dtype}{rows.shape}, not {like}")
    rows = rows.reshape(*numbers.shape, *rows.shape[1:])
    pieces = [
      jax.device_put(
        np.take(rows, np.searchsorted(mine, at), axis=numbers.ndim), device
      )
      for device, at in parts.items()
    ]
    shape = (*numbers.shape, *like.shape)
    placed[name] = jax.make_array_from_single_device_arrays(
      shape, sharding, pieces
    )
  return placed


def feeder(program: contracts.Program, first: int, per_call: int):
  """Begins to read what the calls from step `first` on are fed."""
  if program.feed is None:
    return Nothing()
  return Feeder(program, first, per_call)


class Nothing:
  """The Feeder of a program that is fed nothing."""

  def next(self, frozen, busy):
    """Returns `frozen`."""
    del busy
    return frozen

  def shares(self) -> dict:
    """Returns {}."""
    return {}

  def close(self) -> None:
    """Does nothing."""


class Feeder:
  """Gives what each call of the step is fed, in order."""

  def __init__(self, program: contracts.Program, first: int, per_call: int):
    """Begins to read.

    Args:
      program: has a feed.
      first: the step of the first call.
      per_call: steps of a call.
    """
    self._waited = 0.0
    self._since = time.perf_counter()
    self._queue = queue.Queue(program.feed.prefetch)
    self._stop = threading.Event()
    calls = range(first, program.total_steps, per_call)
    self._thread = threading.Thread(
      target=self._run,
      args=(program, calls, per_call),
      name="feeder",
      daemon=True,
    )
    self._thread.start()

  def next(self, frozen, busy):
    """Returns `frozen` with what the next call is fed; waits until it is read.

    Args:
      frozen: the program's.
      busy: what the devices are computing; None: nothing.

    Raises:
      Whatever reading raised.
    """
    idle = None
    while True:
      try:
        item = self._queue.get_nowait()
        break
      except queue.Empty:
        if idle is None and _ready(busy):
          idle = time.perf_counter()
        time.sleep(_POLL_SECONDS)
    if idle is not None:
      self._waited += time.perf_counter() - idle
    if isinstance(item, BaseException):
      raise item
    return {**frozen, "fed": item}

  def shares(self) -> dict:
    """Returns {"waiting_share": of the time since the last call}.

    In it the devices had nothing to do but wait for the host.
    """
    now, waited = time.perf_counter(), self._waited
    share = waited / max(now - self._since, 1e-9)
    self._since, self._waited = now, 0.0
    return {"waiting_share": share}

  def close(self) -> None:
    """Ends the thread; what it had read is dropped."""
    self._stop.set()
    while self._thread.is_alive():
      try:
        self._queue.get(timeout=_POLL_SECONDS)
      except queue.Empty:
        continue
    self._thread.join()

  def _run(self, program, calls, per_call):
    try:
      for step in calls:
        if self._stop.is_set():
          return
        self._put(put(program, step, per_call))
    except BaseException as error:  # raised again where it is waited for
      self._put(error)

  def _put(self, item):
    while not self._stop.is_set():
      try:
        self._queue.put(item, timeout=0.1)
        return
      except queue.Full:
        continue


def _ready(tree) -> bool:
  return all(x.is_ready() for x in jax.tree.leaves(tree))

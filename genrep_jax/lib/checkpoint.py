"""Checkpoints that are either restored bit for bit or refused.

The only file that knows Orbax (v0 `CheckpointManager`, asynchronous). Each
step directory holds two items: `state`, the arrays, and `side`, a JSON file
with what the caller wants remembered (config, seed, generator, versions), the
digest of every leaf, and a sha256 over all of that. A finished Orbax directory
may still lie: one flipped byte in a data file is restored without a word. So
restore recomputes the digests on the devices and compares.

State goes through abstract arrays with shardings, so a run may continue on
another number of devices or processes.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from genrep_jax.lib import _metadata as metadata_lib, digest, errors, trees
from genrep_jax.lib._metadata import differing_keys as differing_keys

_STATE = "state"
_METADATA = "side"  # the item's name on disk


# Whatever goes wrong in Orbax is raised here, too, and told in one line; its
# own report of a full disk is five hundred lines of tracebacks.
logging.getLogger("absl").addFilter(
  lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
)


def _hush() -> None:
  """Lets the rest of a failed read go without a page of tracebacks.

  Orbax stops at the first error; the reads that were under way find their event
  loop closed, and complain about it from their own threads, much later.
  """
  if getattr(sys.unraisablehook, "hushes", False):
    return
  before = sys.unraisablehook

  def told(unraisable):
    text = f"{unraisable.err_msg} {unraisable.exc_value} {unraisable.object!r}"
    if "Event loop is closed" not in text and "orbax" not in text:
      before(unraisable)

  told.hushes = True
  sys.unraisablehook = told
  logging.getLogger("asyncio").addFilter(
    lambda record: "Event loop is closed" not in record.getMessage()
  )


class _Damaged(Exception):
  """A checkpoint that cannot be trusted; the message says why."""


def _empty(leaf) -> bool:
  return 0 in leaf.shape


def _on_device(leaf):
  return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _with_sharding(leaf):
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _one_line(error: BaseException) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  if "No space left on device" in text:  # TensorStore adds a page of its own
    return "No space left on device"
  text = text.partition(" See full TensorStore details")[0]
  return text if len(text) <= 160 else text[:157] + "..."


def _not_damage(error: Exception) -> bool:
  """Out of memory and lacking rights say nothing about the file's health."""
  return isinstance(
    error, MemoryError | PermissionError | errors.UsageError
  ) or ("RESOURCE_EXHAUSTED" in str(error))


def _check_files(folder: pathlib.Path) -> None:
  """Raises _Damaged for what Orbax would wait for ever to read."""
  for path in folder.rglob("*"):
    if not (path.is_dir() or path.is_file()):
      raise _Damaged(f"{path.relative_to(folder)} is no regular file")


def _everyone(flag: bool) -> bool:
  """True if `flag` holds in every process."""
  if jax.process_count() == 1:
    return flag
  flags = multihost_utils.process_allgather(jnp.int32(flag))
  return bool(flags.min())


class Checkpoints:
  """The checkpoints of one run, newest `keep` of them.

  Making one writes nothing; the directory appears with the first save.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep: int,
    metadata: Mapping[str, Any],
    read_only: bool = False,
  ):
    """Names the directory.

    Args:
      directory: where the step directories lie, on storage that all processes
        see.
      keep: number of checkpoints to keep, >= 1.
      metadata: what to remember beside the arrays; plain values that JSON can
        hold ("config", "seed", "versions", ...).
      read_only: move nothing, not even what is damaged: another run may write
        here and remove what has just been listed.

    Raises:
      UsageError: keep < 1.
    """
    if keep < 1:
      raise errors.UsageError(f"checkpoint: keep = {keep}, allowed: >= 1")
    self._directory = pathlib.Path(directory).absolute()
    self._keep = keep
    self._metadata = metadata_lib.plain(dict(metadata))
    self._read_only = read_only
    self._manager_or_none = None
    self._failed = False

  @property
  def directory(self) -> pathlib.Path:
    """Where the checkpoints lie."""
    return self._directory

  def _manager(self) -> ocp.CheckpointManager:
    if self._manager_or_none is None:
      self._manager_or_none = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=self._keep,
          enable_async_checkpointing=True,
        ),
      )
    return self._manager_or_none

  @contextlib.contextmanager
  def _save_errors(self):
    """Turns whatever Orbax raises while saving into one clear OSError."""
    try:
      yield
    except Exception as error:
      self._failed = True
      steps = self._finished_steps()
      newest = f"step {steps[-1]}" if steps else "none"
      raise OSError(
        f"saving a checkpoint to {self._directory} failed "
        f"({_one_line(error)}); newest finished checkpoint: {newest}"
      ) from error

  def save(
    self, step: int, state, *, force: bool = False, measured=None
  ) -> bool:
    """Starts saving; the arrays may be donated as soon as this returns.

    An error of the previous save surfaces here.

    Args:
      step: number of updates `state` has seen; names the checkpoint.
      state: pytree of arrays.
      force: first wait for the save under way and then for this one, so that
        the checkpoint is finished on return (preemption, end of the run).
      measured: plain values of this step for the metadata: what was measured
        since the last line of the log.

    Returns:
      False if this step is already saved: state is a function of step.

    Raises:
      OSError: this or the previous save failed (disk full, ...); the message
        names the directory and the newest finished checkpoint.
      TypeError: a leaf of a dtype that has no digest.
    """
    with self._save_errors():
      manager = self._manager()
      manager.check_for_errors()
      if force:
        manager.wait_until_finished()
      if step in manager.all_steps():
        return False
    with jax.transfer_guard("allow"):
      state = jax.tree.map(_on_device, state)
      metadata = {
        **self._metadata,
        "step": int(step),
        "measured": measured or {},
        "digests": digest.record(state),
      }
    metadata["sha256"] = metadata_lib.seal(metadata)
    # Orbax refuses empty arrays; they carry nothing but their shape.
    filled = jax.tree.map(lambda x: None if _empty(x) else x, state)
    with self._save_errors(), jax.transfer_guard("allow"):
      manager.save(
        int(step),
        args=ocp.args.Composite(
          **{
            _STATE: ocp.args.StandardSave(filled),
            _METADATA: ocp.args.JsonSave(metadata),
          }
        ),
        force=True,
      )
      if force:
        manager.wait_until_finished()
    return True

  def restore_newest_sound(self, abstract_state):
    """Restores the newest checkpoint whose every leaf has its digest.

    A checkpoint that cannot be read, or that holds a leaf with another digest,
    is reported in one line on stderr and moved aside to `damaged-<step>`
    (nothing is deleted, and the step can be saved again); then the next older
    one is tried.

    Args:
      abstract_state: pytree of ShapeDtypeStructs with shardings (without: one
        local device); the checkpoint may come from other shardings.

    Returns:
      (state, step, metadata as a dict), or None if there never was a
      checkpoint.

    Raises:
      UsageError: the newest sound metadata describes another tree (the first
        three mismatches are named); or there are checkpoints, none sound.
    """
    target = jax.tree.map(_with_sharding, abstract_state)
    self.wait()
    for step in self._newest_first():
      reason = None
      restored = None
      with jax.transfer_guard("allow"):
        try:
          restored = self._restore(step, target)
        except Exception as error:
          _hush()
          if _not_damage(error):
            raise
          reason = _one_line(error)
      if _everyone(restored is not None):
        state, metadata = restored
        with jax.transfer_guard("allow"):
          reason = self._wrong_leaves(state, metadata)
        if reason is None:
          return state, step, metadata
      self._set_aside(step, reason or "another process cannot read it")
    damaged = self._damaged_directories()
    damaged += [self._directory / str(step) for step in self.all_steps()]
    if damaged:
      raise errors.UsageError(
        f"no sound checkpoint left in {self._directory}; damaged ones: "
        f"{', '.join(path.name for path in damaged)}; move them away to start "
        "from the beginning"
      )
    return None

  def _restore(self, step: int, target):
    """Reads one step; raises _Damaged, UsageError or what Orbax raises."""
    metadata = self._read_metadata(step)
    self._check_tree(step, metadata, target)
    filled = jax.tree.map(lambda x: None if _empty(x) else x, target)
    there = self._parts_there(step, filled)
    state = self._read(
      step,
      _STATE,
      ocp.StandardCheckpointHandler,
      ocp.args.StandardRestore(there or filled),
    )
    if there:
      state = dataclasses.replace(filled, **state)
    leaves = iter(jax.tree.leaves(state))

    def refill(leaf):
      if _empty(leaf):
        return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
      return next(leaves)

    return jax.tree.map(refill, target), metadata

  def _parts_there(self, step: int, target) -> dict[str, Any]:
    """Returns the parts of a state without those that a step does not know.

    A part that a newer version has gained, and that is empty in this run, is
    no difference; but Orbax would say so. {}: all are there.
    """
    if not dataclasses.is_dataclass(target):
      return {}
    parts = {
      f.name: getattr(target, f.name) for f in dataclasses.fields(target)
    }
    empty = {name for name, part in parts.items() if not jax.tree.leaves(part)}
    if not empty:
      return {}
    saved = ocp.StandardCheckpointHandler().metadata(
      self._directory / str(step) / _STATE
    )
    new = empty - set(saved.tree)
    return {k: part for k, part in parts.items() if k not in new} if new else {}

  def _read(self, step: int, item: str, handler, args):
    """Reads an item of a step without a word to the other processes.

    `CheckpointManager.restore` ends in a barrier, where the processes whose
    part is sound would wait for one that has left with damage.
    """
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
      primary_host=me, active_processes={me}
    )
    reading = handler(multiprocessing_options=alone)
    with ocp.Checkpointer(reading, multiprocessing_options=alone) as reader:
      return reader.restore(self._directory / str(step) / item, args=args)

  def _read_metadata(self, step: int) -> dict[str, Any]:
    _check_files(self._directory / str(step))
    metadata = self._read(
      step, _METADATA, ocp.JsonCheckpointHandler, ocp.args.JsonRestore()
    )
    if not isinstance(metadata, dict) or metadata.get(
      "sha256"
    ) != metadata_lib.seal(metadata):
      raise _Damaged("the metadata differs from its sha256")
    if metadata.get("step") != step:
      raise _Damaged(f"the metadata is that of step {metadata.get('step')}")
    for key in {"digests", "config"} & {"digests", *self._metadata}:
      if not isinstance(metadata.get(key), dict):
        raise _Damaged(f"the metadata has no {key!r}")
    return metadata

  def _check_tree(self, step: int, metadata: Mapping[str, Any], target) -> None:
    saved = {
      name: {"shape": entry["shape"], "dtype": entry["dtype"]}
      for name, entry in metadata["digests"].items()
    }
    wanted = {
      name: digest.describe(leaf) for name, leaf in trees.named(target).items()
    }
    names = digest.differing(wanted, saved)
    if not names:
      return

    def show(entry):
      return (
        "no such leaf"
        if entry is None
        else (f"{entry['dtype']}{entry['shape']}")
      )

    first = "; ".join(
      f"{name}: saved {show(saved.get(name))}, "
      f"this run {show(wanted.get(name))}"
      for name in names[:3]
    )
    raise errors.UsageError(
      f"checkpoint step {step} in {self._directory} is of another model: "
      f"{len(names)} leaves differ: {first}"
    )

  def _wrong_leaves(self, state, metadata: Mapping[str, Any]) -> str | None:
    names = digest.differing(digest.record(state), metadata["digests"])
    if not names:
      return None
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"leaf {names[0]}{more} differs from its digest"

  def _set_aside(self, step: int, reason: str) -> None:
    if self._read_only:
      # One that goes in a moment was making room for a newer one.
      for _ in range(20):
        if step not in self.all_steps():
          return
        time.sleep(0.1)
      if jax.process_index() == 0:
        self._tell_damage(step, reason, "left where it is")
      return
    source = self._directory / str(step)
    target = self._directory / f"damaged-{step}"
    number = 1
    while target.exists():
      number += 1
      target = self._directory / f"damaged-{step}-{number}"
    if jax.process_count() > 1:
      # Nobody may rename before everybody has chosen the name.
      multihost_utils.sync_global_devices(f"set aside {step}: named")
    if jax.process_index() == 0:
      moved = f"moved to {target}"
      try:
        source.rename(target)
      except OSError as error:
        moved = f"not moved ({_one_line(error)})"
      self._tell_damage(step, reason, moved)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f"set aside {step}: moved")
    if self._manager_or_none is not None:
      self._manager_or_none.reload()

  def _tell_damage(self, step: int, reason: str, moved: str) -> None:
    print(
      f"checkpoint step {step} in {self._directory} is damaged: {reason}; "
      f"{moved}; trying the next older one",
      file=sys.stderr,
      flush=True,
    )

  def _damaged_directories(self) -> list[pathlib.Path]:
    if not self._directory.is_dir():
      return []
    return sorted(self._directory.glob("damaged-*"))

  def _finished_steps(self) -> list[int]:
    """Steps on disk: Orbax renames a step to its number when it is whole."""
    if not self._directory.is_dir():
      return []
    return sorted(
      int(path.name)
      for path in self._directory.iterdir()
      if re.fullmatch(r"0|[1-9][0-9]{0,17}", path.name)
    )

  def all_steps(self) -> list[int]:
    """Lists the saved steps (also one being saved), oldest first."""
    if self._manager_or_none is None:  # it would make the folder
      return self._finished_steps()
    return sorted(self._manager_or_none.all_steps())

  def _newest_first(self) -> Iterator[int]:
    """Yields each step once, those too that are saved in the meantime."""
    tried: set[int] = set()
    while steps := [step for step in self.all_steps() if step not in tried]:
      tried.add(steps[-1])
      yield steps[-1]

  def latest_metadata(self) -> dict[str, Any] | None:
    """Returns the newest metadata that has its sha256, or None.

    Reads no arrays and moves nothing: meant for refusing the working directory
    of another experiment before anything expensive or lasting happens.
    """
    for step in self._newest_first():
      try:
        return self._read_metadata(step)
      except Exception as error:
        if _not_damage(error):
          raise
    return None

  def wait(self) -> None:
    """Waits until the last save is finished; raises OSError if it failed."""
    if self._manager_or_none is not None:
      with self._save_errors():
        self._manager_or_none.wait_until_finished()

  def close(self) -> None:
    """Waits, then frees Orbax's threads; safe to call twice.

    Raises:
      OSError: the last save failed, and nobody has been told yet.
    """
    manager, self._manager_or_none = self._manager_or_none, None
    if manager is None:
      return
    told = self._failed
    try:
      with self._save_errors():
        try:
          manager.wait_until_finished()
        finally:
          manager.close()
    except OSError:
      if not told:
        raise

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

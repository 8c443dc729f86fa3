"""Where numbers and pictures go: JSONL always, TensorBoard, W&B by option.

The method names are those of clu's MetricWriter; clu's own writers need
TensorFlow, and nothing here does. Only process 0 writes.
"""
# ruff: noqa: D102  NoopWriter documents what the others override

import contextlib
import json
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from genrep_jax.lib import errors, files

Scalars = Mapping[str, Any]
Images = Mapping[str, Any]

_STEP = "step"
_WALL = "wall_time"
_TEXTS = "texts"
_RESERVED = (_STEP, _WALL, _TEXTS)
_EVENTS_VERSION = "brain.Event:2"
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


class NoopWriter:
  """Writes nothing; the base of the others, and what processes > 0 get.

  Attributes:
    resumed_with: names of the scalars that the log already held for the step
      it was resumed at; empty where nobody looked.
  """

  resumed_with: frozenset[str] = frozenset()

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    """Writes {name: number} of a step."""

  def write_images(self, step: int, images: Images) -> None:
    """Writes {name: image}: [h w c] or [n h w c], uint8 or float in [0, 1]."""

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Writes {name: markdown}."""

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Writes the run's settings, once; nested dicts become dotted names."""

  def flush(self) -> None:
    """Makes everything so far visible to readers."""

  def close(self) -> None:
    """Flushes and frees; safe to call twice."""


def _encode(value: Any) -> float | int | str:
  """A JSON value for a number: JSON has no NaN, so that is a string."""
  value = np.asarray(jax.device_get(value)).item()
  if isinstance(value, float) and not math.isfinite(value):
    if math.isnan(value):
      return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
  return value


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads a metrics file.

  Args:
    path: file written by JsonlWriter; a half-written last line is skipped.

  Returns:
    One dict per line; the strings "NaN", "Infinity" and "-Infinity" have
    become floats again.

  Raises:
    ValueError: a line other than the last is not JSON.
  """
  lines = pathlib.Path(path).read_text("utf-8", errors="replace").splitlines()
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
    except ValueError as error:
      if number == len(lines):
        break
      raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
    rows.append(
      {
        key: float(value)
        if isinstance(value, str) and value in _NOT_FINITE
        else value
        for key, value in row.items()
      }
    )
  return rows


class JsonlWriter(NoopWriter):
  """One JSON object per line: step, wall_time and the scalars, flat.

  Each line is handed to the system at once, so that a killed run leaves at
  most its last line half-written.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    resume_step: int | None = None,
    now: Callable[[], float] = time.time,
  ):
    """Opens the file, and cuts what the restored state has not yet lived.

    Args:
      path: the file; made with its folder if missing.
      resume_step: restored step; later lines are dropped, because the run will
        write them again. None: a run from the beginning, all lines go.
      now: wall time in seconds.

    Raises:
      OSError: the file cannot be written; names it.
    """
    self._path = pathlib.Path(path)
    self._now = now
    self._keep_until(resume_step)
    self._file = files.Appender(self._path)

  def _keep_until(self, resume_step: int | None) -> None:
    if not self._path.exists():
      return
    kept, names = [], set()
    for line in self._path.read_text("utf-8", errors="replace").splitlines():
      try:
        row = json.loads(line)
        step = row[_STEP]
      except (ValueError, KeyError, TypeError):
        continue  # the half-written line of a killed run
      if resume_step is not None and step <= resume_step:
        kept.append(line + "\n")
        names |= row.keys() if step == resume_step else set()
    self.resumed_with = frozenset(names.difference(_RESERVED))
    files.write_text(self._path, "".join(kept))

  def _write(self, step: int, rest: Mapping[str, Any]) -> None:
    row = {_STEP: int(step), _WALL: round(self._now(), 3), **rest}
    line = json.dumps(row, allow_nan=False) + "\n"
    self._file.write(line.encode("utf-8"))

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    taken = [name for name in scalars if name in _RESERVED]
    if taken:
      raise ValueError(f"a metric cannot be called {taken[0]!r}")
    self._write(step, {name: _encode(x) for name, x in scalars.items()})

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    self._write(step, {_TEXTS: dict(texts)})

  def close(self) -> None:
    self._file.close()


def _flat(hparams: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"a": {"b": 1}} -> {"a.b": 1}; what TensorBoard cannot hold as text."""
  flat = {}
  for key, value in hparams.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      flat.update(_flat(value, f"{name}."))
    else:
      plain = isinstance(value, bool | int | float | str)
      flat[name] = value if plain else str(value)
  return flat


def _uint8_batch(image: Any) -> np.ndarray:
  """[h w c] or [n h w c], uint8 or float in [0, 1] -> uint8 [n h w c]."""
  image = np.asarray(jax.device_get(image))
  if image.ndim == 3:
    image = image[None]
  if image.ndim != 4 or image.shape[-1] not in (1, 3):
    raise ValueError(f"images must be [n h w 1 or 3], got {image.shape}")
  if image.dtype != np.uint8:
    image = np.round(255 * np.clip(image.astype(np.float32), 0, 1))
  return image.astype(np.uint8)


class TensorBoardWriter(NoopWriter):
  """Event files, of tensorboardX's records, written at once.

  tensorboardX's own writer hands them to a thread, which dies of a full disk
  and leaves `close` waiting for it for ever.
  """

  def __init__(
    self, directory: str | os.PathLike, *, resume_step: int | None = None
  ):
    """Opens an event file.

    Args:
      directory: log folder; made if missing.
      resume_step: restored step; TensorBoard hides later events of the
        interrupted run.

    Raises:
      UsageError: tensorboardX is not installed.
      OSError: the file cannot be written; names it.
    """
    try:
      from tensorboardX import record_writer, summary
      from tensorboardX.proto import event_pb2
    except ImportError as error:
      raise errors.UsageError(
        "TensorBoard logs need the package tensorboardX: pip install "
        "tensorboardX, or turn them off"
      ) from error
    self._checksum = record_writer.masked_crc32c
    self._summary, self._pb = summary, event_pb2
    self._file = files.Appender(
      pathlib.Path(directory)
      / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
    )
    self._write(file_version=_EVENTS_VERSION)
    if resume_step is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(resume_step + 1, file_version=_EVENTS_VERSION)
      self._write(resume_step + 1, session_log=start)

  def _write(self, step: int = 0, **what: Any) -> None:
    """Appends an event: length, its checksum, the event, its checksum."""
    event = self._pb.Event(wall_time=time.time(), step=int(step), **what)
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", self._checksum(x)) for x in (length, data)]
    self._file.write(b"".join((length, sums[0], data, sums[1])))

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    for name, value in scalars.items():
      value = float(np.asarray(jax.device_get(value)))
      self._write(step, summary=self._summary.scalar(name, value))

  def write_images(self, step: int, images: Images) -> None:
    for name, image in images.items():
      pixels = _uint8_batch(image)
      picture = self._summary.image(name, pixels, dataformats="NHWC")
      self._write(step, summary=picture)

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
      self._write(step, summary=self._summary.text(name, text))

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    # Not as `add_hparams`, which would open a second run in a sub-folder.
    for summary in self._summary.hparams(_flat(hparams), {}):
      self._write(summary=summary)

  def flush(self) -> None:
    self._file.sync()

  def close(self) -> None:
    self._file.close()


class WandbWriter(NoopWriter):
  """Weights & Biases."""

  def __init__(self, directory: str | os.PathLike, **options: Any):
    """Starts or continues a W&B run.

    W&B ignores steps that it has seen, so a resumed run continues cleanly.

    Args:
      directory: where W&B keeps its files.
      **options: arguments of `wandb.init`, e.g. project, name, id.

    Raises:
      UsageError: wandb is not installed.
    """
    try:
      import wandb
    except ImportError as error:
      raise errors.UsageError(
        "Weights & Biases logs need the package wandb: pip install wandb, or "
        "turn them off"
      ) from error
    self._wandb = wandb
    self._run = wandb.init(
      dir=os.fspath(directory), **{"resume": "allow", **options}
    )

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    values = {
      name: float(np.asarray(jax.device_get(value)))
      for name, value in scalars.items()
    }
    self._run.log(values, step=int(step))

  def write_images(self, step: int, images: Images) -> None:
    pictures = {
      name: [self._wandb.Image(one) for one in _uint8_batch(image)]
      for name, image in images.items()
    }
    self._run.log(pictures, step=int(step))

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    self._run.log(dict(texts), step=int(step))

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    self._run.config.update(dict(hparams), allow_val_change=True)

  def close(self) -> None:
    if self._run is not None:
      self._run.finish()
    self._run = None


class MultiWriter(NoopWriter):
  """Hands everything to several writers, in order."""

  def __init__(self, writers: Sequence[NoopWriter]):
    self._writers = tuple(writers)
    self.resumed_with = frozenset().union(*(w.resumed_with for w in writers))

  def write_scalars(self, step: int, scalars: Scalars) -> None:
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def write_images(self, step: int, images: Images) -> None:
    for writer in self._writers:
      writer.write_images(step, images)

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    for writer in self._writers:
      writer.write_texts(step, texts)

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    for writer in self._writers:
      writer.write_hparams(hparams)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    with contextlib.ExitStack() as every:  # also after one that failed
      for writer in reversed(self._writers):
        every.callback(writer.close)


def make_writer(
  workdir: str | os.PathLike,
  *,
  resume_step: int | None = None,
  tensorboard: bool = True,
  wandb: Mapping[str, Any] | None = None,
  process_index: int | None = None,
) -> NoopWriter:
  """Makes the one writer of a run.

  Args:
    workdir: gets `metrics.jsonl` and `tensorboard/`.
    resume_step: restored step, None for a run from the beginning.
    tensorboard: whether to write event files.
    wandb: arguments of `wandb.init`, or None for no W&B.
    process_index: default `jax.process_index()`.

  Returns:
    A MultiWriter on process 0, a NoopWriter on the others.

  Raises:
    UsageError: a package that an option needs is missing; nothing is written.
  """
  if process_index is None:
    process_index = jax.process_index()
  if process_index != 0:
    return NoopWriter()
  workdir = pathlib.Path(workdir)
  writers: list[NoopWriter] = []
  if wandb is not None:
    writers.append(WandbWriter(workdir, **wandb))
  if tensorboard:
    writers.append(
      TensorBoardWriter(workdir / "tensorboard", resume_step=resume_step)
    )
  path = workdir / "metrics.jsonl"
  writers.insert(0, JsonlWriter(path, resume_step=resume_step))
  return MultiWriter(writers)

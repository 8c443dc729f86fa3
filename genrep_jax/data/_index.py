"""What is known of images on disk: sizes, digests, and which are unreadable.

To decode a set once is the price of never meeting a damaged image in the middle
of a run; it is paid at the first start and kept in one file. A later start
compares names, byte sizes and times of change, and reads what differs.

The digest is the first half of sha256: next to decoding it costs nothing
(benchmarks/decoding.py), and unlike a fast checksum it says that two sets are
the same.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from genrep_jax.lib import (
  decoding,
  environment,
  errors,
  files,
  npz,
  options,
  untrusted,
)

NAME = ".genrep_index"
DIGEST_BYTES = 16
_CHUNK = 1024  # images under way at once
_TELL_SECONDS = 60.0  # between notes of progress; then it is kept, too
_VERSION = 1


class Facts(NamedTuple):
  """What is known of N images.

  Attributes:
    keys: text of each, by which it is found again: its name, or its number.
    stamps: int64 [N 2], byte size and time of change (ns); what else is known
      holds as long as they do.
    sizes: int32 [N 2], (height, width) as shown; 0 of an unreadable one.
    digests: uint8 [N DIGEST_BYTES], of the encoded bytes.
    labels: int32 [N], where the images carry their own; else 0.
    reasons: {key: why it is unreadable}.
  """

  keys: Sequence[str]
  stamps: np.ndarray
  sizes: np.ndarray
  digests: np.ndarray
  labels: np.ndarray
  reasons: dict[str, str]


def examine(
  path: str,
  folder: pathlib.Path | None,
  scope: str,
  keys: Sequence[str],
  stamps,
  read: Callable[[int], tuple[bytes | np.ndarray, int]],
) -> Facts:
  """Returns what is known of images, examining those that are new or changed.

  Args:
    path: folder to keep the index in; "": `folder`, or where that cannot be
      written the user's cache.
    folder: that the images lie in; None: nothing is kept.
    scope: tells indexes of the same folder apart; part of the file's name.
    keys: see `Facts`.
    stamps: see `Facts`.
    read: number of an image -> (its content, its label); for threads. What it
      raises as decoding.Unreadable is the image's fault.

  Raises:
    UsageError: `path` cannot be written.
  """
  paths = [] if folder is None else _paths(path, folder, scope)
  old = next((facts for one in paths if (facts := _load(one))), None)
  stamps = np.asarray(stamps, np.int64).reshape(-1, 2)
  count = len(keys)
  facts = Facts(
    list(keys),
    stamps,
    np.zeros((count, 2), np.int32),
    np.zeros((count, DIGEST_BYTES), np.uint8),
    np.zeros(count, np.int32),
    {},
  )
  todo = _kept(facts, old)
  gone = 0 if old is None else len(set(old.keys).difference(keys))
  if old is not None and (len(todo) or gone):
    environment.note(
      f"data: {folder}: {len(todo)} images new or changed, {gone} gone since "
      "it was indexed"
    )
  if not len(todo) and not gone and old is not None:
    return facts
  told = time.monotonic()
  for start in range(0, len(todo), _CHUNK):
    _examine(facts, todo[start : start + _CHUNK], read)
    if time.monotonic() - told > _TELL_SECONDS:
      environment.note(
        f"data: {folder}: indexed {start + _CHUNK} of {len(todo)} images"
      )
      _save(_part(facts, todo[start + _CHUNK :]), paths, path)
      told = time.monotonic()
  _save(facts, paths, path)
  return facts


def _kept(facts: Facts, old: Facts | None):
  """Copies what holds still; returns the numbers of the others."""
  if old is None:
    return np.arange(len(facts.keys))
  at = {key: number for number, key in enumerate(old.keys)}
  where = np.array([at.get(key, -1) for key in facts.keys], np.int64)
  same = where >= 0
  same[same] = (old.stamps[where[same]] == facts.stamps[same]).all(axis=1)
  for name in ("sizes", "digests", "labels"):
    getattr(facts, name)[same] = getattr(old, name)[where[same]]
  for number in np.flatnonzero(same & ~facts.sizes.any(axis=1)):
    key = facts.keys[number]
    facts.reasons[key] = old.reasons.get(key, "unreadable")
  return np.flatnonzero(~same)


def _examine(facts: Facts, numbers, read) -> None:
  def one(number):
    try:
      content, label = read(number)
      facts.labels[number] = label
      digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
      facts.digests[number] = np.frombuffer(digest, np.uint8)
      facts.sizes[number] = decoding.examine(content, facts.keys[number])
    except decoding.Unreadable as error:
      facts.reasons[facts.keys[number]] = str(error)

  for _ in decoding.pool().map(one, numbers.tolist()):
    pass


def _part(facts: Facts, without) -> Facts:
  left = np.setdiff1d(np.arange(len(facts.keys)), without)
  keys = [facts.keys[number] for number in left]
  return Facts(keys, *(x[left] for x in facts[1:5]), facts.reasons)


def _paths(given, folder, scope) -> list[pathlib.Path]:
  """Returns where the index may lie, the best place first."""
  name = f"{NAME}{'_' if scope else ''}{scope}.npz"
  whole = os.fsencode(os.path.realpath(folder))
  mine = hashlib.sha256(whole).hexdigest()[:16]
  if given:
    base = files.folder(given, "data.index")
    if not base.is_dir():
      options.refuse("data.index", given, "a folder that exists")
    return [base / mine / name]
  base = os.environ.get("XDG_CACHE_HOME")
  try:
    base = pathlib.Path(base) if base else pathlib.Path.home() / ".cache"
  except RuntimeError:  # HOME is unset
    return [folder / name]
  return [folder / name, base / "genrep_jax" / "indexes" / mine / name]


def _save(facts: Facts, paths, given) -> None:
  """Writes whole or not at all, whatever others write at the same time."""
  for path in paths:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      _write(facts, path)
      return
    except OSError as error:
      reason = f"cannot write {path}: {error.strerror or error}"
  if given:
    raise errors.UsageError(f"data.index: {reason}")
  if paths:
    environment.note(f"data: the index is not kept: {reason}")


def _write(facts: Facts, path):
  reasons = json.dumps(facts.reasons).encode()
  arrays = {
    "version": np.int64(_VERSION),
    "keys": _bytes("\0".join(facts.keys)),
    "reasons": np.frombuffer(reasons, np.uint8),
    **{name: getattr(facts, name) for name in Facts._fields[1:5]},
  }
  # A name of its own: two processes may index at once, and the last one wins.
  number, partial = tempfile.mkstemp(".partial", NAME, path.parent)
  try:
    os.fchmod(number, 0o644)
    with open(number, "wb") as file:
      np.savez_compressed(file, **arrays)
    os.replace(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.unlink(partial)
    raise


def _bytes(text):
  return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _load(path) -> Facts | None:
  """Reads an index; None: there is none, or nothing that can be used."""
  try:
    if not path.is_file():
      return None
    arrays, _ = npz.read(path, "data.index")
    with untrusted.guard(path, "data.index", "index"):
      if arrays["version"] != _VERSION:
        return None
      text = arrays["keys"].tobytes().decode("utf-8", "surrogateescape")
      keys = text.split("\0") if text else []
      rest = [arrays[name] for name in Facts._fields[1:5]]
      if any(len(x) != len(keys) for x in rest):
        raise ValueError("its arrays are of several lengths")
      return Facts(keys, *rest, json.loads(arrays["reasons"].tobytes()))
  except (errors.UsageError, OSError) as error:
    environment.note(f"{error}; it is made anew")
    return None

"""Generator weights: safetensors files named by path and sha256.

A pickle can run code when it is read, so one is refused by name and never
opened. Reading checks everything before anything expensive starts.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from genrep_jax.lib import errors, files, trees, untrusted

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "assets"
_PREFIX = "asset:"
_HUB = "hf://"
# One metadata key: safetensors writes several in no fixed order.
_KEY = "genrep_jax"
_MAX_HEADER = 16 << 20  # bytes; a thousand tensors take a tenth of one MiB
_MAX_DEPTH = 32  # of what the metadata hold
_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}


def resolve(path: str | os.PathLike) -> pathlib.Path:
  """Finds a file: weights, or a recorded table.

  Args:
    path: a path; "asset:NAME" for a file of genrep_jax/assets; or
      "hf://OWNER/REPOSITORY/FILE@REVISION" for a file of the Hugging Face hub,
      which is fetched once and then found in its cache.

  Returns:
    The path of an existing file.

  Raises:
    UsageError: no such file; for an asset the line lists what exists.
  """
  text = os.fspath(path)
  if is_remote(text):
    return _from_hub(text)
  if text.startswith(_PREFIX):
    name = text.removeprefix(_PREFIX)
    known = sorted(one.name for one in ASSETS.iterdir() if one.is_file())
    if name not in known:
      raise errors.UsageError(
        f"weights: no asset {name!r} in {ASSETS}; there are: "
        f"{', '.join(known) or 'none'}"
      )
    return ASSETS / name
  text = os.fspath(files.folder(text, "weights"))
  try:
    return files.regular(text)
  except OSError as error:
    reason = f", {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
      reason = ""
    raise errors.UsageError(
      f"weights: no file {text!r}{reason} (a path, asset:NAME for a file of "
      "genrep_jax/assets, or hf://OWNER/REPOSITORY/FILE@REVISION is allowed)"
    ) from error


def is_remote(path: str | os.PathLike) -> bool:
  """Says whether a file comes over the network, and so must be pinned."""
  return os.fspath(path).startswith(_HUB)


def check_pinned(path: str | os.PathLike, sha256: str | None) -> None:
  """Refuses a file from the network without the sha256 it must have."""
  if is_remote(path) and not sha256:
    raise errors.UsageError(
      f"weights: {path} comes over the network: give the sha256 it must have"
    )


@functools.cache
def _from_hub(text: str) -> pathlib.Path:
  """Fetches a file of the Hugging Face hub into the hub's own cache."""
  name, _, revision = text.removeprefix(_HUB).partition("@")
  owner, _, rest = name.partition("/")
  repository, _, file = rest.partition("/")
  if not (owner and repository and file):
    raise errors.UsageError(
      f"weights: {text!r} is not hf://OWNER/REPOSITORY/FILE@REVISION"
    )
  try:
    import huggingface_hub
  except ImportError as error:
    raise errors.UsageError(
      f"weights: {text} needs huggingface_hub: pip install -e '.[hf]'"
    ) from error
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(
        f"{owner}/{repository}", file, revision=revision or None
      )
    )
  except (OSError, ValueError, RuntimeError) as error:  # its errors are these
    reason = " ".join(str(error).split())
    raise errors.UsageError(
      f"weights: cannot fetch {text}: {reason}"
    ) from error


def sha256(path: str | os.PathLike) -> str:
  """Returns the sha256 of a weights file, as 64 hexadecimal digits."""
  with open(resolve(path), "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_other_formats(path: pathlib.Path, data: bytes) -> None:
  """Names what the file is, if it is one of the usual wrong ones."""
  allowed = "allowed: safetensors (see genrep_jax.tools.convert_weights)"
  # A safetensors file opens with the length of its header, so its first bytes
  # can be any; its ninth is the header's "{".
  if data[8:9] == b"{":
    return
  if data[:4] == b"PK\x03\x04":
    try:
      with untrusted.archive(path) as archive:
        pickled = any(name.endswith("data.pkl") for name in archive.namelist())
    except errors.UsageError:
      pickled = False
    kind = "a PyTorch file (a pickle in a zip)" if pickled else "a zip archive"
    raise errors.UsageError(f"weights: {path} is {kind}; {allowed}")
  if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
    raise errors.UsageError(f"weights: {path} is a pickle; {allowed}")
  if data.startswith(b"version https://git-lfs"):
    raise errors.UsageError(
      f"weights: {path} is a Git LFS pointer, not the file it points to: run "
      "git lfs pull"
    )


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[None]:
  """Says that a file is not whole, whatever reading it raises."""
  try:
    yield
  except errors.UsageError:
    raise
  except Exception as error:
    raise errors.UsageError(
      f"weights: {untrusted.named(path)} ({untrusted.size(path)} bytes) is "
      f"truncated or not safetensors: {' '.join(str(error).split())[:300]}"
    ) from error


def _unique(pairs) -> dict:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("a key of its header is there twice")
  return found


def _header(path: pathlib.Path, file) -> dict[str, Any]:
  """Reads a file's header, the file being open at its start."""
  start = file.read(64)
  _refuse_other_formats(path, start)
  length = int.from_bytes(start[:8], "little")
  if length > min(untrusted.size(path), _MAX_HEADER):
    raise ValueError(f"a header of {length} bytes")
  file.seek(8)
  header = json.loads(file.read(length), object_pairs_hook=_unique)
  if not isinstance(header, dict):
    raise ValueError(f"its header is {type(header).__name__}")
  metadata = header.get("__metadata__") or {}
  if not isinstance(metadata, dict):
    raise ValueError(f"its metadata is {type(metadata).__name__}")
  return header


def _read(path: pathlib.Path) -> tuple[bytes, dict[str, np.ndarray]]:
  """Reads a file; raises UsageError unless it is whole safetensors."""
  with _whole(path), untrusted.opened(path, "weights") as file:
    header = _header(path, file)
    for name, entry in header.items():
      dtype = entry["dtype"] if name != "__metadata__" else "F32"
      if dtype not in _DTYPES:
        raise errors.UsageError(
          f"weights: {path} holds dtype {untrusted.shown(dtype)!r}; allowed: "
          f"{', '.join(_DTYPES)}"
        )
    file.seek(0)
    data = file.read()
    return data, {
      name: np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]]).reshape(
        entry["shape"]
      )
      for name, entry in safetensors.deserialize(data)
    }


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the arrays of any safetensors file, {name: array}, unchecked.

  Raises:
    UsageError: no such file, or one that is not whole safetensors.
  """
  return _read(resolve(path))[1]


def _kind(dtype) -> str:
  """Names what a dtype may be cast within: real numbers, or nothing."""
  dtype = jnp.dtype(dtype)
  return "float" if jnp.issubdtype(dtype, jnp.floating) else str(dtype)


def _check_tree(path, arrays: Mapping[str, Any], expected) -> None:
  problems = []
  for name, leaf in expected.items():
    wanted = f"{_kind(leaf.dtype)}{list(leaf.shape)}"
    if name not in arrays:
      problems.append(f"{name}: missing, wanted {wanted}")
      continue
    found = f"{_kind(arrays[name].dtype)}{list(arrays[name].shape)}"
    if found != wanted:
      problems.append(f"{name}: {found}, wanted {wanted}")
  problems += [
    f"{untrusted.shown(name)}: unexpected {list(arrays[name].shape)}"
    for name in arrays
    if name not in expected
  ]
  if problems:
    raise errors.UsageError(
      f"weights: {path} does not fit, {len(problems)} "
      f"mismatches: {'; '.join(problems[:3])}"
    )


def load(path: str | os.PathLike, sha256: str | None, expected):
  """Loads a tree of weights, checked.

  Args:
    path: as `resolve` takes it.
    sha256: 64 hexadecimal digits the file must have; None or "" pins nothing,
      which a file from the network does not allow.
    expected: pytree of arrays or ShapeDtypeStructs, as the generator's `init`
      gives it under `jax.eval_shape`.

  Returns:
    The tree with numpy arrays; every float (also float16 and bfloat16 storage)
    as float32, other dtypes as they are.

  Raises:
    UsageError: in this order: no such file; a pickle or other foreign format;
      truncated or unreadable; another sha256; names, shapes or kinds that do
      not fit (the first three are named).
  """
  check_pinned(path, sha256)
  path = resolve(path)
  data, arrays = _read(path)
  got = hashlib.sha256(data).hexdigest()
  if sha256 and got != sha256.lower():
    raise errors.UsageError(
      f"weights: {path} has sha256 {got}, the config says {sha256}"
    )
  names = trees.named(expected)
  _check_tree(path, arrays, names)
  leaves = [
    np.array(
      arrays[name],
      dtype=np.float32 if _kind(leaf.dtype) == "float" else leaf.dtype,
    )
    for name, leaf in names.items()
  ]
  return jax.tree.unflatten(jax.tree.structure(expected), leaves)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the metadata that `save` was given; {} if there is none.

  Reads the file's header only.

  Raises:
    UsageError: no such file, or not a safetensors file.
  """
  path = resolve(path)
  with _whole(path), untrusted.opened(path, "weights") as file:
    said = (_header(path, file).get("__metadata__") or {}).get(_KEY, "{}")
    metadata = json.loads(said)
    if not isinstance(metadata, dict) or not _shallow(metadata, _MAX_DEPTH):
      raise ValueError(
        f"its metadata is {type(metadata).__name__}, at most {_MAX_DEPTH} deep "
        "dictionaries are allowed"
      )
    return metadata


def _shallow(value, depth: int) -> bool:
  """Says whether lists and dictionaries are at most so deep in each other."""
  if not isinstance(value, (dict, list)):
    return True
  inner = value.values() if isinstance(value, dict) else value
  return depth > 0 and all(_shallow(one, depth - 1) for one in inner)


def save(
  path: str | os.PathLike, tree, metadata: Mapping[str, Any] | None = None
) -> str:
  """Writes a tree as safetensors; the same tree gives the same bytes.

  The file appears whole or not at all.

  Args:
    path: where to, a plain path.
    tree: pytree of arrays of any dtype `load` knows.
    metadata: plain values that JSON can hold: how the weights were made.

  Returns:
    The sha256 of the file.
  """
  arrays = {
    name: np.ascontiguousarray(jax.device_get(leaf)).reshape(leaf.shape)
    for name, leaf in trees.named(tree).items()
  }
  text = json.dumps(dict(metadata or {}), sort_keys=True)
  data = safetensors.numpy.save(arrays, metadata={_KEY: text})
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  with files.atomic(path) as partial, open(partial, "wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  return hashlib.sha256(data).hexdigest()

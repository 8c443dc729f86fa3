"""Foreign checkpoints: read without running code, and checked strictly.

Formats are safetensors, npz, PyTorch and TensorFlow. Nested dictionaries of a
PyTorch file are flattened, `{"g_ema": {"a.weight": x}}` to `{"g_ema/a.weight":
x}`. A checkpoint has every key and every shape that is expected, and no NaN.
Which of a file's dictionaries is the network is found here, for every family:
the one that its converter accepts.
"""

import difflib
import hashlib
import math
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from genrep_jax.lib import errors, npz, torch_file, untrusted, weights
from genrep_jax.lib.contrib import tensor_bundle

FORMATS = (
  "safetensors, .npz, PyTorch (.pt .pth .bin .tar), a TensorFlow checkpoint "
  "(its prefix, its .index file or a TF-Hub folder)"
)
# Where training scripts keep the generator within a checkpoint.
_SUBTREES = ("g_ema", "G_ema", "netG_state_dict", "state_dict", "state")
# What wraps a network: PyTorch's own, training scripts', and what they call it.
_WRAPPERS = re.compile(
  r"module|state(_dict)?|model(_\w+)?|params(_\w+)?|ema(_\w+)?"
  r"|(net_?)?g(en(erator)?)?(_\w+)?|decoder(_\w+)?"
  r"|encoder(_\w+)?|backbone(_\w+)?",
  re.IGNORECASE,
)
_AVERAGED = re.compile(r"(^|_)ema(_|$)", re.IGNORECASE)
_COMPILED = re.compile(r"(?:^|(?<=[./]))_orig_mod[./]")  # torch.compile's
# Belongs to a model but stands beside it: rosinality's average of w.
_BESIDE = ("latent_avg",)
_NAMED = 3  # of each fault; more are counted
_COMPARED = 300  # keys that a missing one is looked for among
_MAX_CANDIDATES = 32
_MAX_DEPTH = 8
_Result = TypeVar("_Result")


class Checkpoint(NamedTuple):
  """What a file holds.

  Attributes:
    arrays: key -> array.
    format: "safetensors", "npz", "torch", "pickle" or "tensorflow".
    left_out: key -> why it was not read.
  """

  arrays: dict[str, np.ndarray]
  format: str
  left_out: dict[str, str]

  def said(self) -> str:
    """Names what was left out, for a message; "" if nothing was."""
    return listed(
      [
        f"{untrusted.shown(key) or 'all'} ({untrusted.shown(why)})"
        for key, why in self.left_out.items()
      ]
    )


def check(
  what: str,
  arrays: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
) -> None:
  """Refuses a checkpoint unless its keys and shapes are exactly the expected.

  Args:
    what: what it should be, for the message, e.g. "biggan_deep, 128 px".
    arrays: the checkpoint, key -> array.
    expected: key -> shape.

  Raises:
    UsageError: one line that names the first three missing, unexpected and
      mis-shaped keys, and those that hold a NaN or an infinity.
  """
  missing = [key for key in expected if key not in arrays]
  extra = [untrusted.shown(key) for key in arrays if key not in expected]
  near = [
    _renamed(untrusted.shown(key), extra[:_COMPARED])
    for key in missing[:_NAMED]
  ]
  faults = [_list("missing", near + missing[_NAMED:])]
  faults.append(_list("unexpected", extra))
  shapes = [
    f"{untrusted.shown(key)} {tuple(arrays[key].shape)} instead of "
    f"{tuple(shape)}"
    for key, shape in expected.items()
    if key in arrays and tuple(arrays[key].shape) != tuple(shape)
  ]
  faults.append(_list("mis-shaped", shapes))
  strange = [
    untrusted.shown(key)
    for key, x in arrays.items()
    if key in expected
    and np.issubdtype(x.dtype, np.floating)
    and not np.isfinite(x).all()
  ]
  faults.append(_list("not finite", strange))
  faults = [fault for fault in faults if fault]
  if faults:
    what = untrusted.shown(what)
    raise errors.UsageError(f"source: not {what}: {'; '.join(faults)}")


def count(expected: Mapping[str, tuple[int, ...]], buffers: str) -> int:
  """Counts a checkpoint's parameters, as papers and `parameters()` do.

  Args:
    expected: key -> shape.
    buffers: regular expression of the keys that hold none: statistics, vectors
      of spectral norms, constant filters.
  """
  return sum(
    math.prod(shape)
    for key, shape in expected.items()
    if not re.search(buffers, key)
  )


def _renamed(key, candidates):
  near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.8)
  return f"{key} (is it {near[0]}?)" if near else key


def _list(fault, names):
  return f"{fault} {listed(names)}" if names else ""


def listed(names: Sequence[str]) -> str:
  """Returns the first three names, and how many more there are."""
  more = len(names) - _NAMED
  rest = f" and {more} more" if more > 0 else ""
  return f"{', '.join(names[:_NAMED])}{rest}"


def read(path: pathlib.Path) -> Checkpoint:
  """Reads every array of a checkpoint.

  Args:
    path: a file, or the prefix or folder of a TensorFlow checkpoint.

  Raises:
    UsageError: no such file, an unknown format, a damaged file, or one without
      a single array that can be read without running code.
  """
  if is_tensorflow(path):
    found = Checkpoint(tensor_bundle.read(path), "tensorflow", {})
  else:
    found = _read_file(path)
  if found.arrays:
    return found
  said = f": left out: {found.said()}" if found.left_out else ""
  if any(torch_file.is_code(why) for why in found.left_out.values()):
    raise errors.UsageError(
      f"source: {untrusted.named(path)} is a pickle that would run code for "
      f"all it holds{said}; {extraction(path, found)}"
    )
  raise errors.UsageError(
    f"source: {untrusted.named(path)} holds no arrays of numbers{said}"
  )


def extraction(path, checkpoint: Checkpoint) -> str:
  """Says how to get at a PyTorch file's tensors where it may run code."""
  load = "torch.load(p, 'cpu', weights_only=False)"
  if checkpoint.format == "pickle":  # torch.load refuses what is not its own
    load = "pickle.load(open(p, 'rb'))"
  return (
    'in an environment you trust: python -c "import pickle, sys, numpy, torch; '
    f"p = sys.argv[1]; t = {load}; "
    "t = t.get('g_ema', t.get('G_ema', t)) if isinstance(t, dict) else t; "
    "t = t if isinstance(t, dict) else t.state_dict(); numpy.savez(p + '.npz', "
    "**{k: v.detach().numpy() for k, v in t.items() if hasattr(v, 'detach')})"
    f'" {shlex.quote(str(path))} (docs/generators.md)'
  )


def _read_file(path) -> Checkpoint:
  with untrusted.opened(path, allowed=FORMATS) as file:
    start = file.read(64)
  if start[8:9] == b"{":
    arrays = {  # numpy's own functions do not all know bfloat16
      key: x.astype(np.float32) if x.dtype.name == "bfloat16" else x
      for key, x in weights.read_arrays(path).items()
    }
    return Checkpoint(arrays, "safetensors", {})
  zipped = start.startswith(b"PK\x03\x04")
  if start.startswith(b"\x93NUMPY") or zipped and not _is_torch_zip(path):
    arrays, left_out = npz.read(path)
    return Checkpoint(arrays, "npz", left_out)
  if zipped or start[:1] == b"\x80":
    arrays, left_out = torch_file.read(path)
    kind = "torch" if torch_file.is_torch(start) else "pickle"
    return Checkpoint(arrays, kind, left_out)
  if start[:8] == b"\x89HDF\r\n\x1a\n":
    raise errors.UsageError(
      f"source: {untrusted.named(path)} is HDF5; allowed: {FORMATS}"
    )
  raise errors.UsageError(
    f"source: {untrusted.named(path)} ({untrusted.size(path)} bytes) is "
    f"truncated or of no known format; allowed: {FORMATS}"
  )


def is_tensorflow(path: pathlib.Path) -> bool:
  """Says whether a path names a TensorFlow checkpoint."""
  return (
    path.suffix == ".index"
    or path.is_dir()
    or not path.exists()
    and path.with_name(path.name + ".index").exists()
  )


def sha256(path: pathlib.Path) -> str:
  """Hashes a checkpoint; of TensorFlow's several files, all in their order."""
  files = [path]
  if is_tensorflow(path):
    files = tensor_bundle.files(path)
  digest = hashlib.sha256()
  for one in files:
    with untrusted.opened(one) as file:
      while block := file.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()


# --- which of a file's dictionaries -------------------------------------------


def select(
  arrays: Mapping[str, np.ndarray], subtrees: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """Picks the generator out of a training checkpoint.

  Args:
    arrays: from `read`.
    subtrees: dictionaries of the file, merged, "a/b" for b in a, also where
      the file says "a.b"; none: the first of the usual names that there is,
      with what belongs beside it, or else everything.

  Returns:
    {key within the dictionary: array}.

  Raises:
    UsageError: no such dictionary, or two hold the same key.
  """
  if not subtrees:
    usual = [name for name in _SUBTREES if _within(arrays, name)]
    if not usual:
      return dict(arrays)
    beside = {key: arrays[key] for key in _BESIDE if key in arrays}
    return beside | select(_within(arrays, usual[0]))
  chosen = {}
  for name in subtrees:
    found = _within(arrays, name.rstrip("/"))
    if not found:
      parts = [key.split("/")[:-1] for key in arrays]
      groups = {"/".join(part[:n]) for part in parts for n in range(1, 4)}
      groups = sorted(untrusted.shown(group) for group in groups - {""})
      more = ", ..." if len(groups) > 20 else ""
      raise errors.UsageError(
        f"--subtree: no dictionary {name!r} in the file; there are: "
        f"{', '.join(groups[:20]) or 'none'}{more}"
      )
    twice = sorted(set(found) & set(chosen))
    if twice:
      raise errors.UsageError(
        f"--subtree: {untrusted.shown(twice[0])!r} is in two of them"
      )
    chosen |= found
  return chosen


def _within(arrays, group):
  """Returns the arrays of one dictionary, by their keys in it."""
  start = group.replace(".", "/") + "/"
  return {
    key[len(start) :]: x
    for key, x in arrays.items()
    if key[: len(start)].replace(".", "/") == start
  }


def fitted(
  arrays: Mapping[str, np.ndarray], convert: Callable[[Mapping], _Result]
) -> _Result:
  """Converts the one dictionary of a checkpoint that a converter accepts.

  Tried are the file itself and, within each other, dictionaries and prefixes of
  keys that are called as wrappers and networks are: `state_dict/generator.`,
  `g_ema/module.`. An average over training ("ema") comes before the rest.

  Args:
    arrays: from `read` or `select`.
    convert: raises UsageError over anything but its network.

  Returns:
    What it makes of the one.

  Raises:
    UsageError: several dictionaries of different tensors fit: which, or none
      does: what is wrong with the usual one.
  """
  plain = {_COMPILED.sub("", key): x for key, x in arrays.items()}
  arrays = plain if len(plain) == len(arrays) else arrays
  found: dict[str, dict[str, np.ndarray]] = {}
  _descend("", arrays, {}, found)
  usual = select(arrays)
  averaged = [
    name
    for name in found
    if any(_AVERAGED.search(part) for part in name.split("/"))
  ]
  for names in (averaged, [name for name in found if name not in averaged]):
    fits = {}
    for name in names:
      tensors = frozenset(map(id, found[name].values()))
      if tensors not in fits:
        try:
          fits[tensors] = name, convert(found[name])
        except errors.UsageError:
          continue
    if len(fits) > 1:
      several = [name or "(all)" for name, _ in fits.values()]
      raise errors.UsageError(
        f"source: {len(fits)} dictionaries of the file fit; choose one: "
        f"{' or '.join(f'--subtree {name}' for name in several[:8])}"
      )
    if fits:
      ((_, made),) = fits.values()
      return made
  try:
    return convert(usual)
  except errors.UsageError as error:
    tried = [untrusted.shown(name) for name in found if name]
    if not tried:
      raise
    raise errors.UsageError(
      f"{error}; tried, too: {listed(tried)} (--subtree)"
    ) from error


def _descend(name, arrays, beside, found) -> None:
  """Collects what may be a network: {its place: arrays}, the outer first."""
  if len(found) == _MAX_CANDIDATES or name.count("/") > _MAX_DEPTH:
    return
  found[name] = beside | arrays
  beside = beside | {key: arrays[key] for key in _BESIDE if key in arrays}
  heads = (re.split("[/.]", key, maxsplit=1) for key in arrays)
  for head in sorted({head[0] for head in heads if len(head) > 1}):
    if _WRAPPERS.fullmatch(head):
      inner = f"{name}/{head}" if name else head
      _descend(inner, _within(arrays, head), beside, found)


def _is_torch_zip(path):
  with untrusted.archive(path) as archive:
    return any(name.endswith("data.pkl") for name in archive.namelist())

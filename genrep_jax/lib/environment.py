"""What the environment says about JAX, and what a run makes of it."""

import os
import pathlib
import sys
import tempfile
import warnings

import jax

from genrep_jax.lib import files, mesh as mesh_lib, options

# Our code is written for these, and sample k must be the same everywhere; a
# person may have set others to debug, or in their shell for other code.
_PINNED = {
  "jax_default_prng_impl": "threefry2x32",
  "jax_threefry_partitionable": True,
  "jax_numpy_dtype_promotion": "standard",
  "jax_numpy_rank_promotion": "allow",
  # The loop has its own guard; what is placed before it goes unguarded.
  "jax_transfer_guard": None,
  "jax_transfer_guard_host_to_device": None,
  "jax_transfer_guard_device_to_host": None,
  "jax_transfer_guard_device_to_device": None,
}
_REFUSED = {  # when they are on
  "jax_disable_jit": "a step is one compiled program",
  "jax_enable_x64": "runs count in float32",
}
_CACHE_ERROR = "Error (reading|writing) persistent compilation cache entry"
_CACHE_FREE_BYTES = 2**25  # a program of the examples takes 1 to 8 MB


def pin() -> None:
  """Sets the flags of JAX that a run needs, and names each that it changes.

  Raises:
    UsageError: a flag under which there can be no run.
  """
  for flag, why in _REFUSED.items():
    if jax.config.values[flag]:
      options.refuse(flag, True, f"False: {why}")
  for flag, needed in _PINNED.items():
    given = jax.config.values[flag]
    given = getattr(given, "value", given)  # of an enum
    if given not in (needed, "allow"):
      jax.config.update(flag, needed if needed is not None else "allow")
      note(f"{flag}: given {given!r}; runs use {needed or 'allow'!r}")


def prepare() -> None:
  """Checks at the door of a tool what `devices.start` checks for a run.

  Raises:
    UsageError: see `pin` and `make_mesh`.
  """
  pin()
  make_mesh()


def make_mesh():
  """Returns the mesh over all devices of all processes.

  Raises:
    UsageError: none answers, e.g. JAX_PLATFORMS=cuda without a GPU.
  """
  try:
    return mesh_lib.make_mesh()
  except (RuntimeError, AssertionError) as error:  # jax asserts for "cuda"
    reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
    named = jax.config.jax_platforms or ""
    reason = reason or f"no device of platform {named!r} answers"
    options.refuse(
      "JAX_PLATFORMS",
      named,
      f"a platform whose devices are here, as cpu, or unset ({reason})",
    )


def open_cache(name: str, workdir) -> None:
  """Keeps compiled programs in a folder; a run never fails of it.

  JAX_COMPILATION_CACHE_DIR, where it is set, is used for "user" and "off"; a
  folder that the config names goes before it.

  Args:
    name: `compilation_cache` of the config.
    workdir: folder of the run, or None.

  Raises:
    UsageError: the config names a folder that cannot be written.
  """
  given = jax.config.jax_compilation_cache_dir
  if name == "off" and not given or name == "workdir" and not workdir:
    return
  if name in ("user", "off") and given:
    folder = given
  else:
    folder = _folder(name, workdir)
    if folder is not None:
      jax.config.update("jax_compilation_cache_dir", str(folder))
      jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  reason = _unwritable(folder)
  if reason and name not in ("user", "workdir", "off"):
    options.refuse(
      "compilation_cache",
      name,
      f"user, workdir, off, or a writable folder ({reason})",
    )
  if reason:
    jax.config.update("jax_enable_compilation_cache", False)
    note(f"compilation_cache: off: {reason}")
  else:
    _say_cache_errors_once()


def _folder(name, workdir) -> pathlib.Path | None:
  if name == "workdir":
    return pathlib.Path(workdir).resolve() / "xla_cache"
  if name != "user":
    return files.folder(name, "compilation_cache").absolute()
  base = os.environ.get("XDG_CACHE_HOME")
  try:
    base = pathlib.Path(base) if base else pathlib.Path.home() / ".cache"
  except RuntimeError:  # HOME is unset, and the user has no entry
    return None
  return base / "genrep_jax" / "xla"


def _unwritable(folder) -> str:
  """Says why nothing can be kept in a folder; "" if something can."""
  if folder is None:
    return "no home folder is known (HOME)"
  if "://" in os.fspath(folder):
    return ""  # JAX reaches some addresses itself
  try:
    with files.writing(folder):
      os.makedirs(folder, exist_ok=True)
      with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")
      stat = os.statvfs(folder)
  except OSError as error:
    return str(error)
  free = stat.f_bavail * stat.f_frsize
  if free < _CACHE_FREE_BYTES:
    return f"cannot write {folder}: {free >> 20} MiB left on device"
  return ""


def _say_cache_errors_once() -> None:
  """Lets JAX warn of a failing cache once, not for every program."""
  # `always` also where warnings are errors: the run goes on without a cache.
  warnings.filterwarnings("always", _CACHE_ERROR, UserWarning)
  show = warnings.showwarning
  if getattr(show, "says_once", False):
    return
  told = []

  def shown(message, *rest, **more):
    text = str(message)
    if "persistent compilation cache entry" not in text:
      show(message, *rest, **more)
    elif not told:
      told.append(text)
      note(f"compilation_cache: {' '.join(text.split())}")

  shown.says_once = True
  warnings.showwarning = shown


def note(line: str) -> None:
  """Tells what was set back or done without, on stderr."""
  print(f"note: {line}", file=sys.stderr, flush=True)

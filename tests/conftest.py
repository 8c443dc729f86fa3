"""Every test sees eight CPU devices; slow ones wait for --slow."""

import os
import shutil
import sys
import tempfile

import pytest

_COUNT = "xla_force_host_platform_device_count"

# Devices are counted when JAX starts, and the subprocesses of tests inherit
# this: so it comes before any import of JAX.
assert "jax" not in sys.modules, "a pytest plug-in imported jax too early"
os.environ["JAX_PLATFORMS"] = "cpu"
if _COUNT not in os.environ.get("XLA_FLAGS", ""):
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{flags} --{_COUNT}=8".strip()
# A device that waits in a collective holds a thread; there must be more.
os.environ.setdefault("NPROC", "32")
# Eight devices share two busy cores: one may well reach a collective a minute
# after another, which XLA takes for a deadlock and aborts.
for _limit in ("call_terminate_timeout", "timeout"):
  _flag = f"--xla_cpu_collective_{_limit}_seconds"
  if _flag not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" {_flag}=600"

# Compiling is most of the work here, and half of that optimizes programs that
# run once. Tests that compare bits ask for `optimized`; --slow optimizes all.
if "--slow" not in sys.argv:
  os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# One compilation cache per run of the tests, shared with the processes that
# tests start and gone afterwards: it saves compiling a program again in every
# one of them, and a stale entry cannot hide anything from the next run.
_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = tempfile.mkdtemp(prefix="genrep_tests_cache_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache


def pytest_addoption(parser):
  parser.addoption(
    "--slow", action="store_true", help="run the tests marked slow, too"
  )


def pytest_collection_modifyitems(config, items):
  if config.getoption("--slow"):
    return
  skip = pytest.mark.skip(reason="slow: runs with --slow")
  for item in items:
    if "slow" in item.keywords:
      item.add_marker(skip)


def pytest_unconfigure(config):
  del config
  if _cache is not None:
    shutil.rmtree(_cache, ignore_errors=True)


def _optimize():
  """Compiles as users do: without vector code, equal numbers differ in bits."""
  import jax

  before = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"
  jax.config.update("jax_disable_most_optimizations", False)
  jax.clear_caches()
  yield
  jax.config.update("jax_disable_most_optimizations", before)


optimized = pytest.fixture(_optimize, name="optimized")
optimized_module = pytest.fixture(
  _optimize, name="optimized_module", scope="module"
)

"""Machines, shells and variables as people have them: it works, or one line."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from genrep_jax.lib import configs, environment, errors, files, rng
from genrep_jax.tools import _cli
from tests import support


@pytest.mark.parametrize(
  "text",
  [
    "gs://bucket/run",
    "s3://bucket/run",
    "hdfs://x",
    "http://x/y",
    "a\0b",
    "\udcff",
  ],
)
def test_what_is_no_path_is_refused(text):
  with pytest.raises(errors.UsageError, match="--workdir: given .*allowed: "):
    files.folder(text)
  arguments = _cli.parser("a.tool", "A tool.")
  arguments.add_argument("--out")
  with pytest.raises(errors.UsageError, match="--out: given "):
    _cli.parse(arguments, ["--out", text])


def test_a_path_stays_what_it_is_but_for_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  for text in ("a b", "über/мир", "a:b/c", "C:x", "./~x", "x/~/y", "/a//b"):
    assert files.folder(text) == pathlib.Path(text)
  assert files.folder("~/runs/x") == tmp_path / "runs" / "x"
  with pytest.raises(errors.UsageError, match="home folder is not known"):
    files.folder("~no_such_person/x")


CONFIG = "from configs import common, quickstart\nMINE = 3\n"
CONFIG += "def get_config():\n  return quickstart.get_config()\n"


@pytest.mark.parametrize("hidden", ["configs.py", "configs/__init__.py", ""])
@pytest.mark.parametrize("inside", [True, False])
def test_a_foreign_configs_hides_nothing(tmp_path, monkeypatch, hidden, inside):
  """Neither for an experiment of ours nor for one that lies elsewhere."""
  folder = tmp_path / "lab"
  folder.mkdir()
  if hidden:
    (folder / hidden).parent.mkdir(exist_ok=True)
    (folder / hidden).write_text("x = 1")
  file = support.ROOT / "configs" / "supcon.py"
  if not inside:
    file = tmp_path / "experiment.py"
    file.write_text(CONFIG)
  for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
    monkeypatch.delitem(sys.modules, name)
  path = [x for x in sys.path if pathlib.Path(x) != support.ROOT]
  monkeypatch.setattr("sys.path", [str(folder), *path])
  before = list(sys.path)
  assert configs.load(str(file)).encoder.name == "small"
  assert sys.path == before
  if hidden:  # whoever imported theirs goes on with theirs
    import configs as theirs

    assert theirs.x == 1
    del sys.modules["configs"]


def test_an_experiment_imports_its_own_collection(tmp_path, monkeypatch):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "mine.py").write_text("SEED = 3")
  text = CONFIG.replace("common, quickstart", "mine")
  text = text.replace("quickstart.get_config()", "None")
  (tmp_path / "experiment.py").write_text(text)
  for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
    monkeypatch.delitem(sys.modules, name)
  path = [x for x in sys.path if pathlib.Path(x) != support.ROOT]
  monkeypatch.setattr("sys.path", [str(tmp_path), *path])
  with pytest.raises(errors.UsageError, match="returned NoneType"):  # it ran
    configs.load(str(tmp_path / "experiment.py"))


def test_samples_do_not_depend_on_the_default_generator_of_jax():
  def draw():
    return np.asarray(jax.random.normal(rng.stream(3, "sample"), (4,)))

  with jax.default_prng_impl("rbg"):
    other = draw()
  np.testing.assert_array_equal(other, draw())


@pytest.fixture
def flags():
  """Puts back the flags of JAX that a test sets."""
  before = dict(jax.config.values)
  yield
  for name, value in before.items():
    if jax.config.values[name] != value:
      jax.config.update(name, value)


@pytest.mark.usefixtures("flags")
def test_flags_that_a_run_needs_are_set_and_named(capsys):
  environment.pin()
  assert not capsys.readouterr().err
  jax.config.update("jax_numpy_rank_promotion", "raise")
  jax.config.update("jax_default_prng_impl", "rbg")
  environment.pin()
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 2 and all(line.startswith("note: jax_") for line in said)
  assert jax.config.values["jax_numpy_rank_promotion"] == "allow"
  environment.pin()
  assert not capsys.readouterr().err
  jax.config.update("jax_disable_jit", True)
  with pytest.raises(errors.UsageError, match="jax_disable_jit: given True"):
    environment.pin()


@pytest.mark.usefixtures("flags")
def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch, capsys):
  def opened(name, workdir=None):
    jax.config.update("jax_compilation_cache_dir", None)
    environment.open_cache(name, workdir)
    return jax.config.jax_compilation_cache_dir

  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  assert opened("user") == str(tmp_path / "cache" / "genrep_jax" / "xla")
  assert opened("workdir", tmp_path) == str(tmp_path / "xla_cache")
  assert opened(str(tmp_path / "mine")) == str(tmp_path / "mine")
  assert opened("off") is None
  for name in ("user", "off"):  # JAX_COMPILATION_CACHE_DIR goes before them
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    environment.open_cache(name, None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
  assert not capsys.readouterr().err
  for wrong in ("gs://bucket/cache", "/proc/nothing"):
    with pytest.raises(errors.UsageError, match="compilation_cache: given "):
      opened(wrong)


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("place", ["/proc/nothing", ""])
def test_a_run_goes_on_without_a_cache(place, monkeypatch, capsys):
  """Where nothing can be written, and where nobody has a home."""
  import pwd

  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setenv("XDG_CACHE_HOME", place)
  if not place:
    monkeypatch.delenv("HOME", raising=False)

    def nobody(uid):
      raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
  environment.open_cache("user", None)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("note: compilation_cache: off: ")
  assert (place or "HOME") in line
  assert not jax.config.jax_enable_compilation_cache


@pytest.mark.usefixtures("flags")
def test_a_cache_that_fails_on_the_way_is_told_once(tmp_path, capsys):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    for _ in range(2):  # two jobs in one process
      environment.open_cache(str(tmp_path), None)
    for name in ("jit_a", "jit_b"):
      warnings.warn(  # as JAX does
        f"Error writing persistent compilation cache entry for '{name}': "
        "OSError: [Errno 28] No space left on device",
        stacklevel=1,
      )
    with pytest.raises(UserWarning, match="another"):
      warnings.warn("another", stacklevel=1)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("note: compilation_cache: ") and "No space" in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_letter_that_the_locale_lacks_ends_nothing(encoding, monkeypatch):
  stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
  monkeypatch.setattr("sys.stdout", stream)
  with pytest.raises(SystemExit) as stopped:
    _cli.run(lambda argv: print("kNN 84.28 ± 0.20 → мир \udcff"))
  assert stopped.value.code == errors.EXIT_OK
  assert b"kNN 84.28 " in stream.buffer.getvalue()


def shell(redirections, *words, **environment):
  """Runs main.py in a shell with its streams redirected; returns its result."""
  given = support.command("genrep_jax.main", **environment)
  line = 'exec "$@" ' + redirections
  given["args"] = ["/bin/bash", "-c", line, "bash", *given["args"]]
  given["args"] += ["--config", "configs/quickstart.py", *words]
  return subprocess.run(**given, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
  "redirections, code, said",
  [
    (">/dev/full", 2, "error: cannot write standard output: No space left"),
    (">&-", 0, ""),
    ("<&- >&- 2>&-", 0, ""),
    ("2>/dev/full", 0, ""),
  ],
)
def test_streams_that_are_closed_or_full(redirections, code, said):
  done = shell(redirections, "--describe")
  assert done.returncode == code
  assert done.stderr.startswith(said) and bool(done.stderr) == bool(said)
  assert len(done.stderr.splitlines()) == bool(said)


@pytest.mark.parametrize(
  "variables, said",
  [
    ({"JAX_ENABLE_X64": "perhaps"}, "JAX_ENABLE_X64"),
    ({"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS: given 'cuda'; allowed: "),
  ],
)
def test_variables_of_jax_that_are_wrong(variables, said, tmp_path):
  words = [*support.flags(), "--workdir", str(tmp_path / "run")]
  done = shell("", *words, **variables)
  assert done.returncode == errors.EXIT_USAGE
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and said in line
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "variables", [{"JAX_PLATFORMS": "cuda"}, {"JAX_ENABLE_X64": "1"}]
)
def test_tools_refuse_them_too(variables, tmp_path):
  out = tmp_path / "a.png"
  words = ["--generator", "small", "--num", "1", "--out", str(out)]
  done = support.run("genrep_jax.tools.render", *words, **variables)
  assert done.returncode == errors.EXIT_USAGE
  (line,) = done.stderr.splitlines()
  assert next(iter(variables)) in line.upper() and "; allowed: " in line
  assert not out.exists()


HARMLESS = {
  "JAX_DEFAULT_PRNG_IMPL": "rbg",
  "JAX_THREEFRY_PARTITIONABLE": "0",
  "JAX_NUMPY_RANK_PROMOTION": "raise",
  "JAX_NUMPY_DTYPE_PROMOTION": "strict",
  "JAX_TRANSFER_GUARD": "disallow",
  "OMP_NUM_THREADS": "1",
  "MKL_NUM_THREADS": "1",
  "LC_ALL": "C",
  "PYTHONCOERCECLOCALE": "0",
  "PYTHONUTF8": "0",
  "PYTHONDONTWRITEBYTECODE": "1",
  "PYTHONOPTIMIZE": "1",
  "PYTHONWARNINGS": "error",
  "TZ": "Nowhere/Odd",
  "PATH": "/nonexistent",
  "TMPDIR": "/nonexistent",
  "HOME": "/nonexistent",
}
SHORT = (
  "total_steps=2",
  "log_every_steps=1",
  "checkpoint.every_steps=0",
  "report.baselines=False",
  "evaluations.linear.name=knn",
  "writers.tensorboard=False",
)


def metrics(workdir):
  """Every number of a log but times."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  timed = {"wall_time", "views_per_second"}
  return [{k: v for k, v in r.items() if k not in timed} for r in rows]


@pytest.mark.slow
def test_what_a_shell_may_have_set_changes_no_bit(tmp_path):
  for name, variables in {"plain": {}, "odd run:x": HARMLESS}.items():
    words = ["--config", str(support.ROOT / "configs" / "quickstart.py")]
    words += ["--workdir", str(tmp_path / name), *support.flags(*SHORT)]
    given = support.command("genrep_jax.main", *words, **variables)
    umask = 0o077 if variables else -1
    done = subprocess.run(
      **given, capture_output=True, timeout=300, check=False, umask=umask
    )
    assert done.returncode == 0, done.stderr
  notes = done.stderr.splitlines()
  assert len(notes) == 5 and all(x.startswith("note: jax_") for x in notes)
  plain, odd = metrics(tmp_path / "plain"), metrics(tmp_path / "odd run:x")
  assert len(plain) == 3 and odd == plain


@pytest.mark.slow
@pytest.mark.parametrize(
  "variables",
  [
    {"JAX_DEBUG_NANS": "1", "JAX_DEBUG_INFS": "1"},
    {"JAX_CHECK_TRACER_LEAKS": "1"},
    {"JAX_LOG_COMPILES": "1"},
    {"JAX_DEFAULT_MATMUL_PRECISION": "highest"},
    {"OMP_NUM_THREADS": "0", "MKL_NUM_THREADS": "nonsense"},
    {"PYTHONOPTIMIZE": "2"},
  ],
  ids=lambda variables: next(iter(variables)),
)
def test_variables_of_someone_who_debugs(tmp_path, variables):
  for name, given in (("plain", {}), ("other", variables)):
    done = support.main(tmp_path / name, *SHORT, **given)
    assert done.returncode == 0, done.stderr
  assert metrics(tmp_path / "other") == metrics(tmp_path / "plain")


@pytest.mark.slow
def test_an_installation_that_cannot_be_written(tmp_path):
  given = support.command(
    *("genrep_jax.main", "--config", "configs/quickstart.py"),
    *("--workdir", str(tmp_path / "run"), *support.flags(*SHORT)),
  )
  if os.geteuid() != 0:
    pytest.skip("needs root to bind a folder read-only")
  line = 'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" && "$@"'
  given["args"] = [
    *("unshare", "--mount", "bash", "-c", line, "bash"),
    *given["args"],
  ]
  with contextlib.suppress(FileNotFoundError):
    done = subprocess.run(**given, capture_output=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
      pytest.skip("mounts are not allowed here")
    assert done.returncode == 0, done.stderr

"""A signal at any moment of a command ends it with 75; what runs, ends too."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from genrep_jax.lib import errors
from tests import support
from tests.test_resume import QUICK

FOREVER = ("total_steps=20000", "checkpoint.every_steps=0")


def start(workdir, *overrides, config="configs/quickstart.py"):
  words = ["--config", config, "--workdir", str(workdir)]
  command = support.command("genrep_jax.main", *words, *overrides)
  return subprocess.Popen(
    **command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )


def end(process):
  """Returns the one line on stderr of a process that was asked to stop."""
  try:
    _, said = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == errors.EXIT_PREEMPTED, said
  (line,) = said.strip().splitlines()
  assert line.startswith("preempted: "), line
  return line


@pytest.mark.parametrize("seconds", [0.25, 1.0])
def test_while_it_starts(tmp_path, seconds):
  process = start(tmp_path / "run", *support.flags(*QUICK))
  time.sleep(seconds)  # Python, imports, the config, the parts
  process.send_signal(signal.SIGTERM)
  assert "nothing is lost" in end(process)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  "number, text",
  [
    (signal.SIGTERM, "experiment"),  # it restores, checks and compiles
    pytest.param(signal.SIGINT, "experiment", marks=pytest.mark.slow),
    # At its end it evaluates, then the baselines, and writes the report.
    pytest.param(signal.SIGTERM, "step 20/", marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, "step 20/", marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, "step 20 ", marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, "step 20 ", marks=pytest.mark.slow),
  ],
)
def test_where_nothing_is_lost(tmp_path, number, text):
  process = start(
    tmp_path / "run", *support.flags(*QUICK, "report.baselines=True")
  )
  support.until(process, text)
  process.send_signal(number)
  assert "nothing is lost" in end(process)
  saved = tmp_path / "run" / "checkpoints"
  assert "20" not in text or "20" in os.listdir(saved)
  assert not list((tmp_path / "run").glob("run.lock"))


LONG_EVALUATION = """
from genrep_jax.lib import contracts
OPTIONS = {}
def make(cfg, model, mesh):
  def run(variables):
    import time
    print("evaluating", flush=True)
    time.sleep(600)
    return [("nothing", 0.0)]
  return contracts.Evaluation(run=run, headline="nothing")
"""


@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_in_a_long_evaluation_between_two_checkpoints(
  tmp_path, monkeypatch, number
):
  """What it evaluates is saved before, whatever the checkpoints' interval."""
  (tmp_path / "my_lab").mkdir()
  (tmp_path / "my_lab" / "long.py").write_text(LONG_EVALUATION)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  process = start(
    tmp_path / "run",
    *support.flags(
      *(word for word in QUICK if "knn" not in word),  # it has none of these
      *FOREVER,
      "evaluations.knn.name=my_lab.long",
      "evaluate_every_steps=5",
    ),
  )
  support.until(process, "evaluating")
  process.send_signal(number)
  assert "nothing is lost" in end(process)
  assert os.listdir(tmp_path / "run" / "checkpoints") == ["5"]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["evaluate", "compile_only"])
def test_other_jobs(tmp_path, job):
  done = support.main(tmp_path, *QUICK)
  assert done.returncode == 0, done.stderr
  before = sorted(tmp_path.rglob("*"))
  process = start(tmp_path, *support.flags(*QUICK, f"job={job}"))
  support.until(process, "experiment")
  process.send_signal(signal.SIGTERM)
  end(process)
  assert sorted(tmp_path.rglob("*")) == before


STUDY = """
from configs import common
def get_config():
  c = common.get_config()
  c.job = "study"
  c.study.base = "configs/quickstart.py"
  c.study.rows = (("one", ()), ("two", ("encoder.width=0.125",)))
  c.study.seeds = (0,)
  c.study.parallel = 2
  return c
"""


def alive(workdir):
  """Processes that work in a folder."""
  found = []
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
      continue
    if any(word.startswith(os.fsencode(workdir)) for word in words):
      found.append(folder.name)
  return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)],
)
def test_a_study_takes_its_runs_along(tmp_path, number):
  file = tmp_path / "study.py"
  file.write_text(STUDY)
  workdir = tmp_path / "study"
  flags = support.flags(*QUICK, *FOREVER)
  process = start(workdir, *flags, config=str(file))
  logs = [workdir / row / "seed0" / "log.txt" for row in ("one", "two")]
  until_logged(logs, "step 5/")
  assert len(alive(workdir)) == 3
  process.send_signal(number)
  if number == signal.SIGTERM:
    line = end(process)
    assert "2 runs of the study are left; run the same command again" in line
  else:
    process.communicate(timeout=60)
  until_gone(workdir)
  for log in logs:
    assert len(os.listdir(log.parent / "checkpoints")) == 1
    assert "run the same command again" in log.read_text()


def until_logged(logs, text):
  limit = time.monotonic() + 120
  while not all(log.exists() and text in log.read_text() for log in logs):
    assert time.monotonic() < limit, [log.read_text() for log in logs]
    time.sleep(0.1)


def until_gone(workdir):
  limit = time.monotonic() + 60
  while found := alive(workdir):
    assert time.monotonic() < limit, found
    time.sleep(0.1)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
@pytest.mark.parametrize("script", ["local.sh", "gpu.sh"])
def test_a_launch_script_passes_signals_on(tmp_path, script):
  """With this environment in the place of .venv, and no installation."""
  scripts = tmp_path / "repo" / "launch"
  scripts.mkdir(parents=True)
  for name in (script, "_venv.sh"):
    text = (support.ROOT / "launch" / name).read_text()
    (scripts / name).write_text(text)
  for name in ("requirements.txt", "pyproject.toml", "genrep_jax", "configs"):
    (tmp_path / "repo" / name).symlink_to(support.ROOT / name)
  folder = tmp_path / "repo" / ".venv" / "bin"
  folder.mkdir(parents=True)
  python = folder / "python"
  python.write_text(
    '#!/bin/sh\ncase "$*" in *devices*) exit 0;; esac\n'
    f'exec {sys.executable} "$@"\n'
  )
  python.chmod(0o755)
  gpu = tmp_path / "bin" / "nvidia-smi"
  gpu.parent.mkdir()
  gpu.write_text("#!/bin/sh\n")
  gpu.chmod(0o755)
  stamp = (
    "cat requirements.txt pyproject.toml | cksum | tee .venv/.installed-base "
    "> .venv/.installed-cuda13"
  )
  subprocess.run(stamp, shell=True, check=True, cwd=tmp_path / "repo")
  workdir = tmp_path / "run"
  process = subprocess.Popen(
    ["bash", str(scripts / script), "--workdir", str(workdir)],
    env={**os.environ, "PATH": f"{gpu.parent}:{os.environ['PATH']}"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  limit = time.monotonic() + 60
  while not any("python" in name for name in programs(workdir)):
    assert time.monotonic() < limit and process.poll() is None
    time.sleep(0.05)
  time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  assert "nothing is lost" in end(process)
  assert alive(workdir) == []


def programs(workdir):
  """The programs of the processes that work in a folder."""
  links = [f"/proc/{number}/exe" for number in alive(workdir)]
  return [os.readlink(link) for link in links if os.path.exists(link)]


def test_a_script_that_installs_takes_the_installation_along(tmp_path):
  (tmp_path / "launch").mkdir()
  text = (support.ROOT / "launch" / "_venv.sh").read_text()
  (tmp_path / "launch" / "_venv.sh").write_text(text)
  (tmp_path / "pip.sh").write_text("echo $$; exec sleep 60\n")
  code = (
    "set -euo pipefail; source launch/_venv.sh; "
    "_passing_signals bash pip.sh; echo done"
  )
  process = subprocess.Popen(
    ["bash", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
  )
  child = int(process.stdout.readline())
  process.send_signal(signal.SIGTERM)
  assert process.communicate(timeout=30)[0] == ""
  assert process.returncode == errors.EXIT_PREEMPTED
  with pytest.raises(ProcessLookupError):
    os.kill(child, 0)

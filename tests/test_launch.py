"""The launch scripts and the list of requirements: checked, without network."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

REPO = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = ("local.sh", "test.sh", "gpu.sh", "tpu_pod.sh")
SCRIPTS = [
  *sorted(p.relative_to(REPO).as_posix() for p in REPO.glob("launch/*.sh")),
  ".ci/run",
]
# Module -> distribution, where the names differ.
DISTRIBUTIONS = {
  "PIL": "pillow",
  "ml_collections": "ml-collections",
  "orbax": "orbax-checkpoint",
  "tensorflow_datasets": "tensorflow-datasets",
}
# Needed by jax, flax or ml_collections themselves.
BROUGHT = {"absl", "scipy", "jaxlib", "ml_dtypes"}
# Imported lazily, and installed by whoever asks for the feature.
BY_REQUEST = {
  "skimage",
  "sklearn",
  "torch",
  "tensorflow",
  "wandb",
  "huggingface_hub",
  "libtpu",
}

# Stands in for an interpreter: logs its arguments, makes an "environment" of
# itself, and passes every question that the scripts ask of it.
FAKE_PYTHON = """#!/bin/bash
echo "$*" >>"$FAKE_LOG"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python"
fi
if [ "$1 $2" = "-m pip" ]; then exit "${FAKE_PIP_CODE:-0}"; fi
if [ "$1 $2" = "-m genrep_jax.main" ]; then exit "${FAKE_MAIN_CODE:-0}"; fi
"""


def requirements():
  lines = (REPO / "requirements.txt").read_text().splitlines()
  return [Requirement(line) for line in lines if line[0] != "#"]


def pyproject():
  return tomllib.loads((REPO / "pyproject.toml").read_text())


def has_range(requirement):
  operators = {specifier.operator for specifier in requirement.specifier}
  return operators == {">=", "<"}


def run(*command, cwd=REPO, **env):
  return subprocess.run(
    command,
    cwd=cwd,
    env={**os.environ, **env},
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_sound_shell(script):
  done = run("bash", "-n", script)
  assert (done.returncode, done.stderr) == (0, "")


def test_bash_n_sees_a_broken_script(tmp_path):
  (tmp_path / "x.sh").write_text("if true; then\n")
  assert run("bash", "-n", "x.sh", cwd=tmp_path).returncode != 0


@pytest.mark.parametrize("script", [f"launch/{c}" for c in COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_how_and_does_nothing(script, flag):
  done = run("bash", script, flag)
  assert done.returncode == 0
  assert f"usage: bash {script}" in done.stdout
  assert "set -euo" not in done.stdout


@pytest.fixture
def clone(tmp_path):
  """A copy of what the scripts need, with a fake Python first on PATH."""
  shutil.copytree(REPO / "launch", tmp_path / "launch")
  for name in ("requirements.txt", "pyproject.toml"):
    shutil.copy(REPO / name, tmp_path)
  bin_folder = tmp_path / "bin"
  bin_folder.mkdir()
  fake = bin_folder / "python3.12"
  fake.write_text(FAKE_PYTHON)
  fake.chmod(0o755)
  log = tmp_path / "log"

  def call(*command, **env):
    log.write_text("")
    done = run(
      "bash",
      *command,
      cwd="/",
      PATH=f"{bin_folder}:{env.pop('PATH', '/usr/bin:/bin')}",
      FAKE_LOG=str(log),
      **env,
    )
    words = [
      " ".join(line.split()[:2])
      for line in log.read_text().splitlines()
      if line.startswith("-m")
    ]
    return done, words, log.read_text()

  call.folder = tmp_path
  return call


def test_local_installs_once_and_runs_the_quick_start(clone):
  script = str(clone.folder / "launch/local.sh")
  done, words, log = clone(script, "--config.seed=3", "--workdir", "runs/x")
  assert done.returncode == 0, done.stderr
  assert words == ["-m venv", "-m pip", "-m genrep_jax.main"]
  assert (
    "-m genrep_jax.main --config configs/quickstart.py --workdir "
    "runs/quickstart --config.seed=3 --workdir runs/x\n" in log
  )
  done, words, _ = clone(script)
  assert words == ["-m genrep_jax.main"]


def test_a_changed_list_or_another_extra_installs_again(clone):
  local = str(clone.folder / "launch/local.sh")
  tests = str(clone.folder / "launch/test.sh")
  clone(local)
  assert clone(tests, "--slow", "-x")[1] == ["-m pip", "-m pytest"]
  _, words, log = clone(tests, "--slow", "-x")
  assert words == ["-m pytest"]
  assert "-m pytest -q -n 2 --dist loadfile --slow -x\n" in log
  with open(clone.folder / "requirements.txt", "a") as file:
    file.write("einops>=0.8,<1\n")
  assert clone(local)[1] == ["-m pip", "-m genrep_jax.main"]


def test_a_failed_installation_is_not_taken_for_done(clone):
  local = str(clone.folder / "launch/local.sh")
  done, words, _ = clone(local, FAKE_PIP_CODE="1")
  assert done.returncode == 2
  assert done.stderr == "error: the installation failed\n"
  assert words == ["-m venv", "-m pip"]
  assert clone(local)[1] == ["-m pip", "-m genrep_jax.main"]


def test_the_exit_code_of_the_run_is_passed_on(clone):
  local = str(clone.folder / "launch/local.sh")
  done, _, _ = clone(local, FAKE_MAIN_CODE="75")
  assert done.returncode == 75


def test_no_python_is_one_line(clone, tmp_path):
  tools = tmp_path / "tools"
  tools.mkdir()
  for name in ("bash", "cat", "cksum", "dirname", "sed"):
    (tools / name).symlink_to(shutil.which(name))
  (tmp_path / "bin/python3.12").unlink()
  old = tools / "python3"
  old.write_text("#!/bin/bash\nexit 1\n")  # 3.10, or a pyenv shim
  old.chmod(0o755)
  local = str(tmp_path / "launch/local.sh")
  done, _, _ = clone(local, PATH=str(tools))
  assert done.returncode == 2
  assert done.stderr.startswith("error: no Python >= 3.11")
  assert done.stderr.count("\n") == 1
  assert not (tmp_path / ".venv").exists()
  done, _, _ = clone(local, PATH=str(tools), GENREP_PYTHON="python3")
  assert done.returncode == 2
  assert done.stderr.startswith("error: GENREP_PYTHON: python3 is no Python")


def test_the_python_search_asks_the_real_question():
  """The interpreter of these tests fits; one of version 3.10 would not."""
  text = (REPO / "launch/_venv.sh").read_text()
  code = re.search(r"\"\$1\" -c '([^']*)'", text).group(1)
  assert run(sys.executable, "-c", code).returncode == 0
  older = code.replace("sys.version_info", "(3, 10, 14)")
  assert run(sys.executable, "-c", older).returncode == 1


def fake_gcloud(folder):
  folder.mkdir(exist_ok=True)
  script = folder / "gcloud"
  script.write_text('#!/bin/bash\nprintf "%s\\n" "$@" "--end--"\n')
  script.chmod(0o755)
  return {"PATH": f"{folder}:{os.environ['PATH']}"}


def gcloud_calls(done):
  assert done.returncode == 0, done.stderr
  return [
    call.strip("\n").split("\n") for call in done.stdout.split("--end--\n")[:-1]
  ]


def test_tpu_pod_says_the_right_words_to_gcloud(tmp_path):
  env = fake_gcloud(tmp_path / "fake")
  pod = ("bash", "launch/tpu_pod.sh")
  start = ["compute", "tpus", "tpu-vm"]
  for kind, image in (
    ("v6e-32", "v2-alpha-tpuv6e"),
    ("v5p-8", "v2-alpha-tpuv5"),
    ("v5litepod-8", "v2-alpha-tpuv5-lite"),
    ("v4-16", "tpu-ubuntu2204-base"),
  ):
    done = run(*pod, "create", "n", "z", kind, TPU_CREATE_FLAGS="--spot", **env)
    assert gcloud_calls(done) == [
      [
        *start,
        "create",
        "n",
        "--zone=z",
        f"--accelerator-type={kind}",
        f"--version={image}",
        "--spot",
      ]
    ]
  words = ("--config", "configs/x.py", "--workdir", "/mnt/genrep/a b")
  done = run(*pod, "run", "n", "z", "--", *words, **env)
  (call,) = gcloud_calls(done)
  assert call[:6] == [*start, "ssh", "n", "--zone=z"]
  assert call[6] == "--worker=all"
  assert call[7].startswith("--command=cd genrep_jax && ")
  assert "--config configs/x.py --workdir /mnt/genrep/a\\ b" in call[7]
  assert gcloud_calls(run(*pod, "delete", "n", "z", **env)) == [
    [*start, "delete", "n", "--zone=z", "--quiet"]
  ]
  mount = "\n".join(*gcloud_calls(run(*pod, "mount", "n", "z", "b;x", **env)))
  remote = mount.split("--command=")[1]
  assert "/mnt/genrep" in remote and "b\\;x" in remote
  assert subprocess.run(["bash", "-n", "-c", remote]).returncode == 0


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (("create", "n"), "NAME and ZONE are missing"),
    (("create", "n", "z"), "needs NAME ZONE TYPE"),
    (("create", "n", "z", "v9-8"), "unknown v9-8; known: v2-N"),
    (("run", "n", "z", "--config", "x"), "needs NAME ZONE --"),
    (("run", "n", "z", "--"), "nothing after --"),
    (("destroy", "n", "z"), "unknown action destroy"),
  ],
)
def test_tpu_pod_refuses_in_one_line(tmp_path, words, said):
  env = fake_gcloud(tmp_path)
  done = run("bash", "launch/tpu_pod.sh", *words, **env)
  assert done.returncode == 2
  assert said in done.stderr
  assert done.stderr.count("\n") == 1
  assert done.stdout == ""


def test_every_requirement_has_a_floor_and_a_ceiling():
  listed = requirements()
  assert [r.name for r in listed if not has_range(r)] == []
  names = [r.name.lower().replace("_", "-") for r in listed]
  assert len(set(names)) == len(names) >= 15
  assert not has_range(Requirement("jax>=0.10"))
  assert not has_range(Requirement("jax==0.10.2"))


def test_the_base_list_brings_no_accelerator_and_no_tensorflow():
  for requirement in requirements():
    assert not requirement.extras, requirement
    assert requirement.name not in {"tensorflow", "libtpu", "torch"}


def test_pyproject_takes_its_dependencies_from_the_one_list():
  project = pyproject()["project"]
  dynamic = pyproject()["tool"]["setuptools"]["dynamic"]
  assert "dependencies" in project["dynamic"]
  assert "dependencies" not in project
  assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
  assert project["requires-python"] == ">=3.11"


def test_extras_are_there_and_ask_for_the_same_jax():
  extras = pyproject()["project"]["optional-dependencies"]
  assert {"tpu", "cuda13", "dev", "torch"} <= set(extras)
  (jax,) = [r for r in requirements() if r.name == "jax"]
  for name, lines in extras.items():
    for requirement in map(Requirement, lines):
      assert has_range(requirement), (name, requirement)
      if requirement.name == "jax":
        assert requirement.extras == {name}
        assert requirement.specifier == jax.specifier


def test_every_imported_package_is_in_the_list():
  listed = {r.name.lower() for r in requirements()}
  missing = set()
  for path in [*REPO.glob("genrep_jax/**/*.py"), *REPO.glob("configs/**/*.py")]:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
      else:
        continue
      for module in {name.split(".")[0] for name in names}:
        known = module in sys.stdlib_module_names | BROUGHT | BY_REQUEST
        if known or module in ("genrep_jax", "configs"):
          continue
        if DISTRIBUTIONS.get(module, module).lower() not in listed:
          missing.add(f"{path.relative_to(REPO)}: {module}")
  assert missing == set()

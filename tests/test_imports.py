"""The floors of the house: who may import whom, read from the source."""

import ast
import pathlib
import subprocess
import sys
import textwrap

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "genrep_jax"

# Room -> floor. A file imports from lower floors and from its own room only.
FLOORS = {
  "lib": 0,
  "sources": 1,
  "generators": 1,
  "views": 1,
  "encoders": 1,
  "objectives": 1,
  "optimizers": 1,
  "schedules": 1,
  "data": 1,
  "programs": 2,
  "evaluations": 2,
  "jobs": 3,
  "commands": 4,
}
# Files of the package's root: one room each, or one room together.
ROOT = {
  "run": "programs",
  "train": "jobs",
  "jobs": "jobs",
  "main": "commands",
}
OPTIONAL = {  # imported inside the function that needs them
  "torch",
  "tensorflow",
  "wandb",
  "tensorboardX",
  "huggingface_hub",
  "skimage",
  "sklearn",
  "matplotlib",
  "libtpu",
  "torchvision",
  "timm",
}
# What a config may import, beside other configs.
OF_CONFIGS = {"configs/common.py": {"genrep_jax.lib.experiment"}}
SHIPPED = ("genrep_jax", "configs", "tests", "benchmarks", "docs", "launch")


def files(*folders):
  """All Python files below folders of the repository, as relative paths."""
  return sorted(
    path.relative_to(REPO).as_posix()
    for folder in folders
    for path in (REPO / folder).rglob("*.py")
  )


def imports(source):
  """Lists (line, dotted name, whether at module level) of all imports.

  `from a.b import c` is "a.b.c": it may be a module or a thing of a module.
  """
  found = []

  def visit(node, top):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.Import):
        found.extend((child.lineno, alias.name, top) for alias in child.names)
      elif isinstance(child, ast.ImportFrom):
        base = "." * child.level + (child.module or "")
        found.extend(
          (child.lineno, f"{base}.{alias.name}", top) for alias in child.names
        )
      inside = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
      visit(child, top and not isinstance(child, inside))

  visit(ast.parse(source), True)
  return found


def room_of(parts):
  """The room of a file or module: ("lib", "rng") -> "lib"."""
  head = parts[0]
  if head in ROOT:
    return ROOT[head]
  return "commands" if head == "tools" else head


def problems(path, source):
  """All breaches of the floors in one file, as "path:line: what"."""
  parts = pathlib.PurePosixPath(path).with_suffix("").parts
  found = []

  def report(line, what):
    found.append(f"{path}:{line}: {what}")

  in_package = parts[0] == PACKAGE
  own = room_of(parts[1:]) if in_package and parts[1:] != ("__init__",) else ""
  if own and own not in FLOORS:
    report(1, f"no floor is known for {parts[1]!r}")
    return found
  for line, name, top in imports(source):
    words = name.split(".")
    if name.startswith("."):
      report(line, "relative import: write genrep_jax....")
    elif parts[0] == "configs":
      allowed = OF_CONFIGS.get(path, ())
      if words[0] not in ("ml_collections", "configs") and name not in allowed:
        report(line, f"a config imports {name}")
    elif in_package:
      if words[0] == PACKAGE:
        other = room_of(words[1:]) if len(words) > 1 else own
        if not own:
          if top:
            report(line, f"{PACKAGE}/__init__.py imports {name} at once")
        elif other not in FLOORS:
          report(line, f"no floor is known for {name}")
        elif other != own and FLOORS[other] >= FLOORS[own]:
          report(line, f"floor {FLOORS[own]} ({own}) imports {name}")
      if words[0] in ("configs", "tests"):
        report(line, f"the package imports {name}")
      if words[0] == "orbax" and path != f"{PACKAGE}/lib/checkpoint.py":
        report(line, "orbax is for lib/checkpoint.py only")
      if words[0] in OPTIONAL and top:
        report(line, f"optional package at module level: {words[0]}")
  # The global flags of absl belong to commands; a FlagValues of one's own,
  # as lib/configs.py has it, is a parser like any other.
  if in_package and own != "commands":
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, ast.Attribute) and node.attr == "FLAGS":
        report(node.lineno, "absl's global FLAGS below floor 4")
  return found


@pytest.mark.parametrize("path", files("genrep_jax", "configs"))
def test_floors(path):
  assert problems(path, (REPO / path).read_text()) == []


@pytest.mark.parametrize("path", files(*SHIPPED))
def test_every_shipped_file_parses_and_says_what_it_is(path):
  tree = ast.parse((REPO / path).read_text(), filename=path)
  assert ast.get_docstring(tree), f"{path} has no module docstring"


@pytest.mark.parametrize(
  ("path", "source", "what"),
  [
    ("genrep_jax/lib/x.py", "from genrep_jax import run", "floor 0"),
    ("genrep_jax/lib/x.py", "import genrep_jax.encoders.small", "floor 0"),
    (
      "genrep_jax/objectives/x.py",
      "def f():\n  from genrep_jax.encoders import small",
      "floor 1",
    ),
    ("genrep_jax/sources/x.py", "import genrep_jax.generators.y", "floor 1"),
    ("genrep_jax/optimizers/x.py", "import genrep_jax.schedules.y", "floor 1"),
    ("genrep_jax/programs/x.py", "import genrep_jax.evaluations.y", "floor 2"),
    ("genrep_jax/evaluations/x.py", "from genrep_jax import run", "floor 2"),
    ("genrep_jax/run.py", "from genrep_jax import train", "floor 2"),
    ("genrep_jax/programs/x.py", "from genrep_jax import jobs", "floor 2"),
    ("genrep_jax/jobs.py", "from genrep_jax.tools import _cli", "floor 3"),
    ("genrep_jax/train.py", "from genrep_jax import main", "floor 3"),
    ("genrep_jax/encoders/x.py", "from . import small", "relative"),
    ("genrep_jax/encoders/x.py", "from configs import common", "configs"),
    ("genrep_jax/train.py", "import orbax.checkpoint as ocp", "orbax"),
    ("genrep_jax/lib/x.py", "try:\n  import torch\nexcept E: pass", "optional"),
    ("genrep_jax/lib/x.py", "class A:\n  import wandb", "optional"),
    ("genrep_jax/lib/x.py", "from absl import flags\nflags.FLAGS.a", "FLAGS"),
    ("genrep_jax/attic/x.py", "import jax", "no floor"),
    ("genrep_jax/attic.py", "import jax", "no floor"),
    ("genrep_jax/__init__.py", "from genrep_jax.lib import rng", "__init__"),
    ("configs/x.py", "import jax", "config imports"),
    ("configs/x.py", "from genrep_jax.lib import experiment", "config imports"),
    ("configs/common.py", "from genrep_jax.lib import options", "config"),
  ],
)
def test_a_breach_is_seen(path, source, what):
  assert any(what in line for line in problems(path, source))


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("genrep_jax/lib/checkpoint.py", "import orbax.checkpoint as ocp"),
    ("genrep_jax/__init__.py", "def f():\n  import genrep_jax.lib.export"),
    ("genrep_jax/run.py", "from genrep_jax.programs import _stages"),
    ("genrep_jax/jobs.py", "from genrep_jax import run, train\nimport jax"),
    ("genrep_jax/programs/x.py", "from genrep_jax.views import walks"),
    ("genrep_jax/views/latent/x.py", "from genrep_jax.lib import rng"),
    ("genrep_jax/lib/writers.py", "def f():\n  import tensorboardX"),
    ("genrep_jax/main.py", "from genrep_jax.tools import _cli"),
    ("configs/common.py", "from genrep_jax.lib import experiment"),
    ("configs/studies/x.py", "from configs import common, quickstart"),
    ("configs/studies/x.py", "from configs.common import get_config"),
  ],
)
def test_what_is_allowed_passes(path, source):
  assert problems(path, source) == []


# Imports every module of the package while each optional one fails to import,
# and prints those that did not survive it.
_IMPORT_ALL = """
import importlib, pkgutil, sys, traceback

banned = {banned!r}

class Ban:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in banned:
      raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Ban())
for name in banned:
  try:
    importlib.import_module(name)
  except ImportError:
    continue
  sys.exit(f"{{name}} could be imported: this test tests nothing")

import genrep_jax
count = 0
for info in pkgutil.walk_packages(genrep_jax.__path__, "genrep_jax."):
  importlib.import_module(info.name)
  count += 1
print(count)
"""


def test_the_core_imports_without_tensorflow_and_all_optional_packages():
  code = textwrap.dedent(_IMPORT_ALL.format(banned=sorted(OPTIONAL)))
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  modules = [p for p in files(PACKAGE) if p != f"{PACKAGE}/__init__.py"]
  assert int(done.stdout) == len(modules)

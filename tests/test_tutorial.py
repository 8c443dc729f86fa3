"""The documents keep their word: files run as printed, commands exist."""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import main as main_lib
from genrep_jax.lib import configs, contracts, errors, plugins
from tests import support, test_contracts

ROOT = support.ROOT
DOCUMENTS = sorted(
  path.relative_to(ROOT).as_posix()
  for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
) + ["launch/README.md"]
WITH_FILES = ("docs/tutorial.md", "docs/extend.md", "docs/reproduce.md")
QUICKSTART = "configs/quickstart.py"
# The tiny experiment, without what only the embedded generator has.
TINY = [text for text in support.TINY if not text.startswith("generator.")] + [
  "total_steps=4",
  "log_every_steps=2",
  "checkpoint.every_steps=2",
  "writers.tensorboard=False",
  "evaluations.knn.train_limit=200",
  "evaluations.knn.test_limit=200",
  "evaluations.linear.train_limit=200",
  "evaluations.linear.test_limit=200",
  "evaluations.linear.l2=(0.001,)",
  "evaluations.linear.max_iterations=10",
]
FLAGS = [f"--config.{text}" for text in TINY]


def blocks(text):
  """Lists the fenced blocks as (info string, content)."""
  return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)


def read(document):
  return (ROOT / document).read_text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
  """A folder outside the repository with every file the documents print."""
  folder = tmp_path_factory.mktemp("lab")
  for document in WITH_FILES:
    for info, content in blocks(read(document)):
      if info.startswith("python "):
        file = folder / info.removeprefix("python ")
        file.parent.mkdir(exist_ok=True)
        assert not file.exists(), f"{info} is printed twice"
        file.write_text(content)

  def forget():
    for name in [n for n in sys.modules if n.split(".")[0] == "my_lab"]:
      del sys.modules[name]

  forget()
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    patch.chdir(ROOT)
    yield folder
  forget()


def shell(script, folder):
  """Runs lines of bash as a reader of the tutorial would."""
  python = f'python() {{ "{sys.executable}" "$@"; }}\n'
  return subprocess.run(
    ["bash", "-e", "-c", python + script],
    cwd=folder,
    env=support.command("", PYTHONPATH=str(ROOT))["env"],
    capture_output=True,
    text=True,
    timeout=1800,
    check=False,
  )


@pytest.fixture(scope="module")
def walked(lab):
  """The lab after every command of the tutorial's parts 3 and 4."""
  lines = [
    line
    for info, content in blocks(read("docs/tutorial.md"))
    if info == "bash lab"
    for line in content.splitlines()
  ]
  short = " ".join(shlex.quote(flag) for flag in FLAGS)
  outputs = []
  for line in lines:
    if "genrep_jax.main" in line:
      line += f" {short}"
    if "runs/wide" in line:
      line += " --config.report.baselines=False"
    done = shell(line, lab)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    outputs.append(done.stdout)
  return lab, outputs


def test_the_tutorial_ends_in_a_table(walked):
  folder, (trained, table, *_) = walked
  summary = json.loads((folder / "runs/ellipses/summary.json").read_text())
  assert summary["steps"] == 4
  rows = {row["name"]: row for row in summary["rows"]}
  assert set(rows) == {"raw pixels", "random initialization", "ellipses"}
  row = rows["ellipses"]
  assert row["source"] == "run" and row["seeds"] == [0]
  knn = row["results"]["knn/knn20_accuracy"]
  assert 0.1 < knn < 1 and 0.1 < row["results"]["linear/linear_accuracy"] < 1
  assert f"ellipses run {knn}" in table
  assert "generator       my_lab.ellipses 28x28x1, unconditional" in trained
  # The files that part 1 lists.
  tutorial = read("docs/tutorial.md")
  listed = re.findall(r"^\| `([a-z_.]+/?)` \|", tutorial, re.MULTILINE)
  assert len(listed) == 10
  for name in set(listed) - {"tensorboard/"}:  # switched off here
    assert (folder / "runs/ellipses" / name).exists(), name


def test_the_tutorial_evaluates_what_it_trained(walked):
  folder, (_, _, evaluated, *_) = walked
  summary = json.loads((folder / "runs/ellipses/summary.json").read_text())
  knn = "knn/knn20_accuracy"
  assert f"{knn} {summary['results'][knn]!r}" in evaluated


def test_the_tutorials_encoder_is_used_in_three_lines(walked):
  _, (*_, used) = walked
  assert re.fullmatch(r"\(5, \d+\) float32\n", used)


def test_the_tutorials_weights_are_pinned_and_change_the_images(walked):
  folder, _ = walked
  digest = (folder / "wide.sha256").read_text().strip()
  assert re.fullmatch("[0-9a-f]{64}", digest)
  summary = json.loads((folder / "runs/wide/summary.json").read_text())
  assert summary["facts"]["generator sha256"] == digest
  name = "views_before_pixel.png"
  wide = (folder / "runs/wide" / name).read_bytes()
  assert wide != (folder / "runs/ellipses" / name).read_bytes()


def test_the_images_of_a_step_are_drawn_again(walked):
  folder, _ = walked
  words = " ".join(shlex.quote(text) for text in TINY)
  done = shell(
    "python -c \"import runpy, sys\nfor sys.argv[2] in '0', '3':"
    f"\n  runpy.run_path('redraw.py')\" my_experiment.py - {words}",
    folder,
  )
  assert done.returncode == 0, done.stderr
  for name in ("views", "views_before_pixel"):
    first = (folder / f"runs/ellipses/{name}.png").read_bytes()
    assert (folder / f"{name}_0.png").read_bytes() == first
    assert (folder / f"{name}_3.png").read_bytes() != first


def test_the_examples_of_every_room_keep_the_contracts(
  lab, tmp_path, monkeypatch
):
  del lab
  program = "my_lab.linear_autoencoder"
  monkeypatch.setitem(test_contracts.PROGRAMS, program, ())
  test_contracts.test_program(program)
  test_contracts.test_source("my_lab.few")
  test_contracts.test_generator("my_lab.stripes")
  test_contracts.test_generator_samples("my_lab.stripes")
  test_contracts.test_latent_view("my_lab.angular", tmp_path)
  test_contracts.test_pixel_view("my_lab.cutout", 3)
  test_contracts.test_encoder("my_lab.patches", jnp.float32)
  test_contracts.test_objective("my_lab.align_uniform", 3)
  test_contracts.test_optimizer("my_lab.lion")
  test_contracts.test_schedule("my_lab.inverse_root")


def rooms(lab, *overrides):
  """Loads the config of all examples, and writes its images."""
  assets = ROOT / "genrep_jax" / "assets" / "fashion_mnist_mini.npz"
  if not (lab / "mine.npz").exists():
    with np.load(assets) as file:
      images = {name: file[name][::20] for name in file.files}
    np.savez(lab / "mine.npz", **images)
  return configs.load(str(lab / "my_rooms.py"), overrides)


def test_the_examples_of_every_room_run_together(lab, monkeypatch, capsys):
  monkeypatch.chdir(lab)
  rooms(lab)
  common = ["--config", "my_rooms.py", "--config.compilation_cache=off"]
  common += ["--config.report.baselines=False", "--config.total_steps=4"]
  common += ["--config.schedule.warmup_steps=1", "--config.steps_per_call=2"]
  common += ["--config.log_every_steps=2", "--config.checkpoint.every_steps=0"]
  assert main_lib.main([*common, "--workdir", "runs/rooms"]) == errors.EXIT_OK
  summary = json.loads((lab / "runs/rooms/summary.json").read_text())
  assert 0.1 < summary["results"]["centroid/centroid_accuracy"] < 1
  assert summary["config"]["data"]["path"] == "mine.npz"
  capsys.readouterr()
  words = [*common, "--workdir", "runs/linear"]
  words += ["--config.program.name=my_lab.linear_autoencoder"]
  words += ["--config.source.name=my_lab.few", "--config.log_every_steps=4"]
  assert main_lib.main(words) == errors.EXIT_OK
  said = capsys.readouterr().out
  assert re.search(r"autoencoder\.safetensors sha256 [0-9a-f]{64}", said)
  assert "100 of mine.npz" in said
  summary = json.loads((lab / "runs/linear/summary.json").read_text())
  assert 0.2 < summary["results"]["centroid/centroid_accuracy"] < 1
  assert (lab / "runs/linear/reconstructions.png").is_file()


def test_errors_look_as_printed(lab, monkeypatch):
  monkeypatch.chdir(lab)
  import my_lab.angular
  import my_lab.patches

  make = my_lab.patches.make

  def rounded(cfg, *, dtype):
    made = make(cfg, dtype=dtype)

    def apply(*arguments, **options):
      features, stats = made.apply(*arguments, **options)
      pooled = features.pooled.astype(jnp.bfloat16)
      return features._replace(pooled=pooled), stats

    return contracts.Encoder(made.init, apply)

  monkeypatch.setattr(my_lab.patches, "make", rounded)
  wrong = (
    lambda: rooms(lab, "views.latent.sigma=-0.5"),
    lambda: plugins.make(
      "views/latent", {"name": "my_lab.angular", "sgima": 1}, None
    ),
    lambda: support.open_run(rooms(lab)).latent_view,
    lambda: support.open_run(rooms(lab)).encoder,
  )
  ((_, printed),) = [
    block for block in blocks(read("docs/extend.md")) if "errors" in block[0]
  ]
  for line, trigger in zip(printed.splitlines(), wrong, strict=True):
    if "nrom" in line:
      monkeypatch.setattr(
        my_lab.angular, "make", lambda cfg, generator: jnp.nrom
      )
    with pytest.raises(errors.UsageError) as raised:
      trigger()
    assert str(raised.value) == line


def commands(text):
  """Lists the commands of a document: bash blocks, and `inline code`."""
  lines = []
  for info, content in blocks(text):
    if info.split()[:1] in (["bash"], []):
      lines += content.replace("\\\n", " ").splitlines()
  prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
  for code in re.findall(r"`([^`]+)`", prose):
    code = " ".join(code.split())
    if re.match(r"(bash launch/|python -m |pip install|--config\.)", code):
      lines.append(code)
  return [line for line in lines if line.strip()]


def words_of(line):
  lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
  lexer.whitespace_split = True
  return list(lexer)


def every_key(lab):
  """The keys of every kind of experiment that the documents speak of."""
  files = [
    QUICKSTART,
    "configs/studies/quickstart_table.py",
    "configs/cars_stylegan2.py",
    str(lab / "my_rooms.py"),
  ]
  known = {
    leaf.key for file in files for leaf in configs.leaves(configs.load(file))
  }
  for room, about in contracts.ROOMS.items():
    for name in plugins.names(room):
      declared = plugins.declared(room, plugins.resolve(room, name))
      known |= {f"{about.path}.{option}" for option in declared}
  return known


def problems(line, lab):
  """Says what a command names that does not exist."""
  words, found, module = words_of(line), [], None
  file, overrides = QUICKSTART, []
  for i, word in enumerate(words):
    after = words[i + 1] if i + 1 < len(words) else ""
    if word == "bash" and not (ROOT / after).is_file():
      found.append(f"no script {after}")
    elif word == "-m":
      module = after
      if not importlib.util.find_spec(module):
        found.append(f"no module {module}")
    elif word == "-e" and "pip" in words:
      extras = re.fullmatch(r"\.\[([\w,]+)\]", after).group(1).split(",")
      with open(ROOT / "pyproject.toml", "rb") as stream:
        project = tomllib.load(stream)["project"]
      known = project["optional-dependencies"]
      found += [f"no extra {extra}" for extra in extras if extra not in known]
    elif word == "--config":
      file = after.replace("~/genrep_jax/", "").partition(":")[0]
    elif word.startswith("--config."):
      overrides.append(word.removeprefix("--config."))
    elif word.startswith("--") and (module or "").startswith("genrep_jax."):
      flag = word.partition("=")[0].removeprefix("--")
      source = "".join(
        pathlib.Path(importlib.util.find_spec(name).origin).read_text()
        for name in (module, "genrep_jax.tools._cli")
      )
      if not re.search(rf"[\"'](--)?{flag}[\"']", source):
        found.append(f"{module} has no flag --{flag}")
  if file in ("FILE", "X.safetensors") or file.endswith(
    "/X.py"
  ):  # any experiment
    return found
  if line.startswith(
    "--config."
  ):  # a flag by itself, of one experiment or other
    keys = [text.partition("=")[0] for text in overrides]
    return [f"no key {key}" for key in keys if key not in every_key(lab)]
  path = ROOT / file if (ROOT / file).is_file() else lab / file
  try:
    config = configs.load(str(path))
    if config.job == "study":
      base = [text for text in overrides if not text.startswith("study.")]
      configs.load(config.study.base, base)
    # A value such as ... or $(command) stands for any: then the key counts.
    open_ended = [t for t in overrides if re.search(r"=(\$|\.\.\.$)", t)]
    config = configs.load(
      str(path), [text for text in overrides if text not in open_ended]
    )
    known = {leaf.key for leaf in configs.leaves(config)}
    keys = [text.partition("=")[0] for text in open_ended]
    found += [f"no key {key}" for key in keys if key not in known]
  except errors.UsageError as error:
    found.append(str(error))
  return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_names_what_exists(document, lab):
  text = read(document)
  found = {line: problems(line, lab) for line in commands(text)}
  assert {line: what for line, what in found.items() if what} == {}
  assert found or document not in ("README.md", *WITH_FILES)


@pytest.mark.parametrize(
  ("line", "what"),
  [
    ("bash launch/locla.sh", "no script launch/locla.sh"),
    ("python -m genrep_jax.tools.compile_fro", "no module"),
    ("python -m genrep_jax.main --config configs/no.py", "a Python file"),
    ("python -m genrep_jax.main --wrokdir x", "has no flag --wrokdir"),
    ("python -m genrep_jax.main --config.views.latent.simga=1", "sigma"),
    ("python -m genrep_jax.main --config.simga=...", "no key simga"),
    ("bash launch/local.sh --config.global_batch=many", "many"),
    ("--config.views.latent.simga=1", "no key views.latent.simga"),
    ("pip install -e '.[tpus]'", "no extra tpus"),
    (
      "python -m genrep_jax.main --config "
      "configs/studies/quickstart_table.py --config.study.seed=3",
      "study.seeds",
    ),
  ],
)
def test_a_wrong_command_is_found(line, what, lab):
  (text, *_) = commands(f"```bash\n{line}\n```\n")
  assert what in " ".join(problems(text, lab))


def slug(heading):
  """GitHub's anchor of a heading."""
  kept = re.sub(r"[^\w\- ]", "", heading.lower())
  return kept.strip().replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_exist(document):
  text = read(document)
  prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
  folder = (ROOT / document).parent
  missing = []
  for target in re.findall(r"\]\(([^)\s]+)\)", prose):
    if target.startswith("https://"):
      continue
    name, _, anchor = target.partition("#")
    if name and not (folder / name).exists():
      missing.append(target)
    elif anchor and not name:
      headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
      if anchor not in map(slug, headings):
        missing.append(target)
  rooms = "genrep_jax|configs|tests|launch|docs"
  for path in re.findall(rf"`((?:{rooms})/[\w./]+\.\w+)`", prose):
    if not (ROOT / path).exists() and not path.endswith("/X.py"):
      missing.append(path)
  assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_config_key_in_prose_exists(document, lab):
  if document == "docs/options.md":  # made: tests/test_extend.py
    return
  prose = re.sub(
    r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL
  )
  known = every_key(lab)
  rooms = {key.partition(".")[0] for key in known if "." in key}
  rooms |= {key.rpartition(".")[0] for key in known if "." in key}
  known |= {f"views.{field}" for field in contracts.Views._fields}
  endings = ("html", "json", "jsonl", "png", "py", "md", "safetensors", "ANY")
  for code in re.findall(r"`([a-z_]+(?:\.[\w]+)+)(?:\s*=[^`]*)?`", prose):
    head, _, last = code.partition(".")
    if head in rooms and not code.endswith(endings) and last:
      assert code in known | rooms, f"{document}: no config key {code}"


def test_readme_has_one_place_for_the_table():
  text = read("README.md")
  begin, end = "<!-- table:begin -->", "<!-- table:end -->"
  assert text.count(begin) == text.count(end) == 1
  assert text.index(begin) < text.index(end)


def test_no_document_names_this_machines_folders():
  for document in DOCUMENTS:
    assert not re.search(r"/work/|/tmp/|shared/", read(document)), document
  assert os.sep == "/"

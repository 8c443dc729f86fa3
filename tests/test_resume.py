"""A run that is cut and resumed is the run, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from PIL import Image

from genrep_jax import main as main_lib
from genrep_jax.lib import checkpoint, errors, execution, lock
from tests import support

QUICK = (
  "evaluations.knn.train_limit=200",
  "evaluations.linear.train_limit=200",
  "evaluations.knn.test_limit=200",
  "evaluations.linear.test_limit=200",
  "report.baselines=False",
  "writers.tensorboard=False",
)


def final_leaves(workdir, config, devices=1):
  """Every leaf of the newest checkpoint of a workdir."""
  state, step, metadata = newest(workdir, config, devices)
  return support.leaves(state), step, metadata


def newest(workdir, config, devices=1):
  """Returns (state, step, metadata) of the newest checkpoint."""
  abstract, _ = execution.abstract(support.open_run(config, devices).program)
  with checkpoint.Checkpoints(
    workdir / "checkpoints", keep=2, metadata={}
  ) as store:
    return store.restore_newest_sound(abstract)


def assert_same_bits(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def log_of(workdir):
  """The JSONL records without what a clock wrote."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  for record in records:
    record.pop("wall_time")
    record.pop("views_per_second", None)
    record.pop("waiting_share", None)
  return records


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run of 20 steps."""
  workdir = tmp_path_factory.mktemp("whole")
  done = support.main(workdir, *QUICK)
  assert done.returncode == 0, done.stderr
  return workdir


@pytest.mark.parametrize(
  "stop",
  [
    pytest.param(6, id="inside_a_log"),
    pytest.param(10, id="at_a_log", marks=pytest.mark.slow),
  ],
)
def test_some_steps_then_a_new_process_equal_twenty(stop, whole, tmp_path):
  half = support.main(tmp_path, *QUICK, f"stop_at_step={stop}")
  assert half.returncode == errors.EXIT_PREEMPTED, half.stderr
  assert {*os.listdir(tmp_path / "checkpoints")} == {"5", str(stop)}
  done = support.main(tmp_path, *QUICK)
  assert done.returncode == 0, done.stderr
  config = support.tiny()
  expected, step, _ = final_leaves(whole, config)
  got, _, metadata = final_leaves(tmp_path, config)
  assert step == 20
  assert_same_bits(got, expected)
  assert log_of(tmp_path) == log_of(whole)
  assert metadata["seed"] == 0 and metadata["config"]["global_batch"] == 16
  # An average of the steps on both sides of the stop is none of one side's.
  losses = [r["loss"] for r in log_of(tmp_path) if "loss" in r]
  assert len(losses) == len(set(losses)) == 4


def write_images(folder):
  """Writes 240 JPEGs of ten classes, of several sizes; returns the folder."""
  draws = np.random.default_rng(0)
  for number in range(240):
    place = folder / f"class{number % 10}"
    place.mkdir(parents=True, exist_ok=True)
    pixels = draws.integers(0, 256, (30 + number % 7, 34, 3), np.uint8)
    Image.fromarray(pixels).save(place / f"{number}.jpg")
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("source", ["generator", "stream"])
def test_killed_ten_times_at_random_moments_then_resumed(tmp_path, source):
  """Kill -9 ten times, also inside saves: every step saves."""
  rolls, of_source = random.Random(0), ()
  if source == "stream":  # decoded by processes, which die with their parent
    folder = write_images(tmp_path / "images")
    of_source = (
      *("source.name=stream", "source.crop=decode", "data.name=folder"),
      *(f"data.data_dir={folder}", "data.image_px=28", "data.channels=1"),
    )
  quick = (*QUICK, *of_source)
  whole, tmp_path = tmp_path / "whole", tmp_path / "killed"
  done = support.main(whole, *quick)
  assert done.returncode == 0, done.stderr
  tmp_path.mkdir()
  command = support.command(
    "genrep_jax.main",
    "--config",
    "configs/quickstart.py",
    "--workdir",
    str(tmp_path),
    *support.flags(*quick, "checkpoint.every_steps=1"),
  )
  kills = 0
  while kills < 10:
    with open(tmp_path / "log.txt", "a") as log:
      process = subprocess.Popen(**command, stdout=log, stderr=log)
    marks = len(list(tmp_path.glob("checkpoints/*")))
    start = time.time()
    # Wait until this process saves something, then strike within a save's time.
    while len(list(tmp_path.glob("checkpoints/*"))) == marks:
      if process.poll() is not None or time.time() - start > 60:
        break
      time.sleep(0.005)
    time.sleep(rolls.random() * 0.3)
    process.kill()
    process.wait()
    kills += 1
    left = sorted(path.name for path in tmp_path.glob("checkpoints/*"))
    print(f"kill {kills}: {left}")
  done = support.main(tmp_path, *quick, "checkpoint.every_steps=1")
  assert done.returncode == 0, done.stderr
  config = support.tiny(*of_source)
  assert_same_bits(
    final_leaves(tmp_path, config)[0], final_leaves(whole, config)[0]
  )
  assert log_of(tmp_path) == log_of(whole)


def test_checkpoint_crosses_device_counts(whole):
  config = support.tiny()
  one, _, _ = final_leaves(whole, config, devices=1)
  eight, _, _ = final_leaves(whole, config, devices=8)
  assert_same_bits(one, eight)


@pytest.mark.slow
def test_eight_then_one_then_eight_devices(tmp_path):
  sgd = (*support.SGD, "total_steps=15")
  for devices, stop in ((8, 5), (1, 10), (8, 0)):
    done = support.main(
      tmp_path, *QUICK, *sgd, f"stop_at_step={stop}", devices=devices
    )
    code = errors.EXIT_PREEMPTED if stop else errors.EXIT_OK
    assert done.returncode == code, done.stderr
  straight = tmp_path / "straight"
  done = support.main(straight, *QUICK, *sgd)
  assert done.returncode == 0, done.stderr
  config = support.tiny(*sgd)
  expected = final_leaves(straight, config)[0]
  for name, value in final_leaves(tmp_path, config)[0].items():
    np.testing.assert_allclose(
      value, expected[name], rtol=1e-4, atol=2e-6, err_msg=name
    )


def test_sigterm_saves_and_exits_with_the_documented_code(whole, tmp_path):
  command = support.command(
    "genrep_jax.main",
    "--config",
    "configs/quickstart.py",
    "--workdir",
    str(tmp_path),
    *support.flags(*QUICK, "checkpoint.every_steps=0"),
  )
  process = subprocess.Popen(
    **command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  for line in process.stdout:
    if line.startswith("step 5/"):
      process.send_signal(signal.SIGTERM)
      break
  _, stderr = process.communicate(timeout=120)
  assert process.returncode == errors.EXIT_PREEMPTED, stderr
  assert "run the same command again" in stderr
  saved = [int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")]
  assert saved and 5 <= saved[0] < 20
  done = support.main(tmp_path, *QUICK, "checkpoint.every_steps=0")
  assert done.returncode == 0, done.stderr
  config = support.tiny()
  assert_same_bits(
    final_leaves(tmp_path, config)[0], final_leaves(whole, config)[0]
  )


def test_a_nan_stops_the_run_and_names_the_step(tmp_path):
  done = support.main(
    tmp_path,
    *QUICK,
    "optimizer.name=sgd",
    "optimizer.learning_rate=1e4",
    "optimizer.weight_decay=1e35",
    "schedule.name=constant",
  )
  assert done.returncode == errors.EXIT_DIVERGED
  (line,) = done.stderr.strip().splitlines()[-1:]
  assert line.startswith("diverged: step ") and "not finite" in line
  step = int(line.split()[2].rstrip(":"))
  assert 1 <= step <= 5  # found at the log of step 5, named exactly
  assert not list((tmp_path / "checkpoints").glob("5"))


def test_evaluate_reprints_the_logged_numbers_exactly(whole):
  done = support.main(whole, *QUICK, "job=evaluate")
  assert done.returncode == 0, done.stderr
  logged = [r for r in log_of(whole) if "linear/linear_accuracy" in r][-1]
  logged.pop("step")
  printed = dict(
    line.split()
    for line in done.stdout.splitlines()
    if len(line.split()) == 2 and line.split()[0] in logged
  )
  assert {k: float(v) for k, v in printed.items()} == logged


def test_killed_between_save_and_evaluation_evaluates_on_resume(
  whole, tmp_path
):
  workdir = tmp_path / "cut"
  shutil.copytree(whole, workdir)
  log = workdir / "metrics.jsonl"
  lines = log.read_text().splitlines(keepends=True)
  assert "knn/knn20_accuracy" in lines[-1]
  assert "knn/knn20_accuracy" not in lines[-2]
  log.write_text("".join(lines[:-1]))
  for _ in range(2):  # the second time there is nothing to add
    done = support.main(workdir, *QUICK)
    assert done.returncode == 0, done.stderr
    assert log_of(workdir) == log_of(whole)


def test_another_experiments_workdir_is_refused(whole):
  before = sorted(os.listdir(whole / "checkpoints"))
  done = support.main(whole, *QUICK, "global_batch=32", "seed=3")
  assert done.returncode == errors.EXIT_USAGE
  (line,) = done.stderr.strip().splitlines()
  assert "global_batch" in line and "seed" in line
  assert sorted(os.listdir(whole / "checkpoints")) == before


def test_a_second_run_in_a_workdir_is_refused(whole, capsys, monkeypatch):
  with lock.Lock(whole):
    before = sorted(whole.rglob("*"))
    words = ["--config", "configs/quickstart.py", "--workdir", whole]
    words += support.flags(*QUICK, "cpu_devices=1")
    line = support.refused(main_lib.main, words, capsys, monkeypatch)
    assert f"is held by process {os.getpid()} on " in line
    assert sorted(whole.rglob("*")) == before


def cut_to(whole, workdir, step):
  """Copies a run as it was when `step` had been saved."""
  shutil.copytree(whole, workdir)
  for path in (workdir / "checkpoints").glob("[0-9]*"):
    if int(path.name) > step:
      shutil.rmtree(path)
  return workdir


def test_a_run_begun_before_a_key_existed_goes_on(
  whole, tmp_path, capsys, monkeypatch
):
  workdir, config = cut_to(whole, tmp_path / "old", 15), support.tiny()
  state, step, metadata = newest(workdir, config)
  assert step == 15
  measured = metadata["measured"]
  for key in ("step", "measured", "digests", "sha256"):
    metadata.pop(key)
  # A key of the experiment, one in a dictionary, one of a plug-in, a room.
  metadata["config"].pop("ema_final_decay")
  metadata["config"]["views"].pop("num_neighbors")
  metadata["config"]["encoder"].pop("feature_norm")
  metadata["config"].pop("program")
  shutil.rmtree(workdir / "checkpoints")
  with checkpoint.Checkpoints(
    workdir / "checkpoints", keep=2, metadata=metadata
  ) as store:
    assert store.save(step, state, measured=measured)
  before = sorted(os.listdir(workdir / "checkpoints"))
  for key, value in {
    "ema_final_decay": "0.5",
    "views.num_neighbors": "3",
    "encoder.feature_norm": "layer",
    "seed": "3",
  }.items():
    words = ["--config", "configs/quickstart.py", "--workdir", workdir]
    words += support.flags(*QUICK, "cpu_devices=1", f"{key}={value}")
    line = support.refused(main_lib.main, words, capsys, monkeypatch)
    assert line.endswith(f"differing keys: {key}"), line
  assert sorted(os.listdir(workdir / "checkpoints")) == before
  done = support.main(workdir, *QUICK)
  assert done.returncode == 0, done.stderr
  assert_same_bits(
    final_leaves(workdir, config)[0], final_leaves(whole, config)[0]
  )
  assert log_of(workdir) == log_of(whole)


def test_calls_of_several_steps_must_end_with_the_run(
  whole, tmp_path, capsys, monkeypatch
):
  workdir = cut_to(whole, tmp_path / "cut", 15)  # five steps are left
  before = sorted(path for path in workdir.rglob("*"))
  words = ["--config", "configs/quickstart.py", "--workdir", workdir]
  words += support.flags(
    *QUICK,
    *("steps_per_call=2", "log_every_steps=10", "checkpoint.every_steps=10"),
  )
  line = support.refused(main_lib.main, words, capsys, monkeypatch)
  assert "steps_per_call: given 2; allowed: a divisor of the 5" in line
  assert sorted(path for path in workdir.rglob("*")) == before


def test_state_holds_no_key_and_no_generator():
  program, _, state, _ = support.open_program(support.tiny())
  generator = {x.shape for x in jax.tree.leaves(program.frozen["generator"])}
  assert generator
  for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
    assert not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key), path
  assert "generator" not in str(jax.tree.structure(state))

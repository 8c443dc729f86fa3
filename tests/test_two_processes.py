"""Two real processes on this machine: they train, agree, and stop together."""

import json
import os
import signal
import socket
import subprocess

import numpy as np
import pytest

from genrep_jax.lib import errors
from tests import support
from tests.test_resume import QUICK, final_leaves

BARE = (
  *QUICK,
  *support.SGD,
  "evaluations.linear.every_steps=1000000",
  "evaluations.knn.every_steps=1000000",
)


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start(port, index, workdir, *overrides):
  """Starts one of two processes, of two devices each."""
  command = support.command(
    "genrep_jax.main",
    "--config",
    "configs/quickstart.py",
    "--workdir",
    str(workdir),
    *support.flags(
      *BARE,
      f"distributed.coordinator=127.0.0.1:{port}",
      "distributed.num_processes=2",
      f"distributed.process_id={index}",
      *overrides,
    ),
    devices=2,
  )
  return subprocess.Popen(
    **command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )


def start_two(workdir, *overrides, second=()):
  """Starts both; the second with overrides of its own."""
  port = free_port()
  return [
    start(port, 0, workdir, *overrides),
    start(port, 1, workdir, *overrides, *second),
  ]


def end(processes, timeout=300):
  """Returns (exit codes, outputs, errors)."""
  try:
    ended = [p.communicate(timeout=timeout) for p in processes]
  finally:
    for process in processes:
      process.kill()
  return ([p.returncode for p in processes], *zip(*ended, strict=True))


def saved(workdir):
  return sorted(os.listdir(workdir / "checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["generator", "stream"])
def test_two_processes_equal_one_and_one_restores(tmp_path, source):
  together = tmp_path / "together"
  source = f"source.name={source}"
  codes, outputs, said = end(start_two(together, "total_steps=10", source))
  assert codes == [0, 0], said
  assert "4 x cpu" in outputs[0] and "2 process(es)" in outputs[0]
  assert "step 10/10" in outputs[0] and "step 10/10" not in outputs[1]

  alone = tmp_path / "alone"
  done = support.main(alone, *BARE, "total_steps=10", source)
  assert done.returncode == 0, done.stderr
  config = support.tiny(*support.SGD, "total_steps=10", source)
  expected = final_leaves(alone, config)[0]
  restored, step, _ = final_leaves(together, config)
  assert step == 10
  for name, value in expected.items():
    np.testing.assert_allclose(
      restored[name], value, rtol=1e-4, atol=1e-5, err_msg=name
    )


@pytest.mark.parametrize(
  "number, to",
  [
    (signal.SIGTERM, (1,)),
    pytest.param(signal.SIGTERM, (0,), marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, (0, 1), marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, (0, 1), marks=pytest.mark.slow),
  ],
)
def test_a_signal_to_some_stops_all_at_the_same_saved_step(
  tmp_path, number, to
):
  processes = start_two(
    tmp_path, "total_steps=20000", "checkpoint.every_steps=0"
  )
  support.until(processes[0], "step 5/")
  for index in to:
    processes[index].send_signal(number)
  codes, _, said = end(processes, timeout=60)
  assert codes == [errors.EXIT_PREEMPTED] * 2, said
  (step,) = saved(tmp_path)
  for lines in said:
    assert f"state of step {step} is saved" in lines
  assert int(step) >= 5


_STEPS = """
import json, sys, types
import jax
from genrep_jax.lib import mesh, processes, stopping
index, port, ahead, asks = json.loads(sys.argv[1])
stopping.install()
processes.join(types.SimpleNamespace(
  mode="on", coordinator=f"127.0.0.1:{port}", num_processes=2,
  process_id=index, start_seconds=60, lost_seconds=60))
stop = processes.StopTogether(mesh.make_mesh(), ahead=ahead)
with stopping.deferred(), jax.transfer_guard("disallow"):
  for step in range(1, 20):
    if index == asks and step == 3:
      stopping.requested = lambda: True  # here alone: no word goes round
    if stop():
      print(step, flush=True)
      break
"""


@pytest.mark.parametrize(
  "ahead, step", [(False, "3"), (True, "4")], ids=["at_once", "one_ahead"]
)
def test_all_answer_alike_at_every_call(ahead, step):
  """Also where a step is queued while another runs, which no CPU does."""
  port = free_port()
  processes = []
  for index in range(2):
    command = support.command("genrep_jax.main", devices=2)
    given = json.dumps([index, port, ahead, 1])
    command["args"][1:] = ["-c", _STEPS, given]
    processes.append(
      subprocess.Popen(
        **command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
      )
    )
  _, outputs, said = end(processes, timeout=60)
  assert [text.split()[-1] for text in outputs] == [step, step], said


@pytest.mark.parametrize(
  "moment, to",
  [
    ("experiment", 1),
    pytest.param("experiment", 0, marks=pytest.mark.slow),
    pytest.param("step 20/", 0, marks=pytest.mark.slow),
    pytest.param("step 20/", 1, marks=pytest.mark.slow),
  ],
)
def test_where_nothing_is_lost_all_end_at_once(tmp_path, moment, to):
  """While they compile; while they evaluate what is saved."""
  often = "evaluations.linear.every_steps=20"
  processes = start_two(tmp_path, often)
  support.until(processes[0], moment)
  processes[to].send_signal(signal.SIGTERM)
  codes, _, said = end(processes, timeout=60)
  assert codes == [errors.EXIT_PREEMPTED] * 2, said


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_who_loses_the_other_asks_to_be_started_again(tmp_path, lost):
  processes = start_two(
    tmp_path, "total_steps=20000", "distributed.lost_seconds=10"
  )
  support.until(processes[0], "step 5/")
  processes[lost].kill()
  codes, _, said = end(processes, timeout=120)
  assert codes[1 - lost] == errors.EXIT_PREEMPTED, said
  assert "process of the run is lost" in said[1 - lost]


@pytest.mark.parametrize(
  "differs, first, second",
  [
    ("seed", "0", "3"),
    pytest.param("checkpoint.every_steps", "5", "7", marks=pytest.mark.slow),
    pytest.param("global_batch", "16", "32", marks=pytest.mark.slow),
    pytest.param(
      "optimizer.learning_rate", "0.003", "0.03", marks=pytest.mark.slow
    ),
  ],
)
def test_who_was_told_other_things_is_refused(tmp_path, differs, first, second):
  processes = start_two(tmp_path, second=[f"{differs}={second}"])
  codes, _, said = end(processes, timeout=60)
  assert codes == [errors.EXIT_USAGE] * 2, said
  line = (
    f"error: processes disagree: {differs}: process 0 has {first}, process 1 "
    f"has {second}\n"
  )
  for lines in said:
    assert lines.endswith(line) and lines.count("error: ") == 1, lines
  assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_two_folders_of_one_name_are_refused(tmp_path):
  port = free_port()
  folders = [tmp_path / name for name in "ab"]
  processes = [start(port, i, folder) for i, folder in enumerate(folders)]
  codes, _, said = end(processes, timeout=60)
  assert codes == [errors.EXIT_USAGE] * 2, said
  assert "processes disagree: workdir (one folder for all)" in said[1]
  assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_who_waits_in_vain_says_so_within_the_limit(tmp_path, index):
  process = start(free_port(), index, tmp_path, "distributed.start_seconds=3")
  (code,), _, (said,) = end([process], timeout=60)
  assert code == errors.EXIT_PREEMPTED
  (line,) = said.strip().splitlines()[-1:]
  assert line.startswith("error: distributed.start_seconds: given 3; 2 process")
  assert os.listdir(tmp_path) == []

"""Two real processes on this machine train, save, and one restores."""

import socket
import subprocess

import numpy as np
import pytest

from tests import support
from tests.test_resume import QUICK, final_leaves


@pytest.mark.slow
def test_two_processes_equal_one_and_one_restores(tmp_path):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  together = tmp_path / "together"
  processes = []
  for index in range(2):
    command = support.command(
      "genrep_jax.main",
      "--config",
      "configs/quickstart.py",
      "--workdir",
      str(together),
      *support.flags(
        *QUICK,
        *support.SGD,
        "total_steps=10",
        "distributed.mode=on",
        f"distributed.coordinator=127.0.0.1:{port}",
        "distributed.num_processes=2",
        f"distributed.process_id={index}",
      ),
      devices=2,
    )
    processes.append(
      subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=-2)
    )
  outputs = [p.communicate(timeout=300)[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
  assert "4 x cpu" in outputs[0] and "2 process(es)" in outputs[0]
  assert "step 10/10" in outputs[0] and "step 10/10" not in outputs[1]

  alone = tmp_path / "alone"
  done = support.main(alone, *QUICK, *support.SGD, "total_steps=10")
  assert done.returncode == 0, done.stderr
  config = support.tiny(*support.SGD, "total_steps=10")
  expected = final_leaves(alone, config)[0]
  restored, step, _ = final_leaves(together, config)
  assert step == 10
  for name, value in expected.items():
    np.testing.assert_allclose(
      restored[name], value, rtol=1e-4, atol=1e-5, err_msg=name
    )

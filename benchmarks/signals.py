"""How soon a run ends after a signal, and what it has saved by then.

`python -m benchmarks.signals` starts the quick start, shrunk, once for every
line it prints: alone, and as two processes of this machine; sends SIGTERM at a
moment (the last one kills); and prints the exit codes, the seconds from the
signal until all have ended, and the saved steps.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

_SMALL = (
  "generator.weights=",
  "generator.sha256=",
  "generator.widths=(8,4)",
  "generator.extra_convs=(0,0)",
  "generator.latent_dim=8",
  "encoder.width=0.25",
  "global_batch=16",
  "log_every_steps=5",
  "checkpoint.every_steps=0",
  "cpu_devices=2",
  "report.recorded=",
  "evaluations.knn.train_limit=200",
  "evaluations.linear.train_limit=200",
)
_LONG = ("total_steps=1000000", "evaluate_every_steps=0")
_SHORT = ("total_steps=5", "evaluate_every_steps=0")
# (moment, line of the output it follows, overrides)
_MOMENTS = (
  ("compilation", "experiment", _SHORT),
  ("the loop", "step 10/", _LONG),
  ("evaluation", "step 5/", _SHORT),
)


def start(workdir, overrides, index=0, count=1, port=0):
  """Starts one process of `count`."""
  together = (
    f"distributed.coordinator=127.0.0.1:{port}",
    f"distributed.num_processes={count}",
    f"distributed.process_id={index}",
    "distributed.lost_seconds=10",
  )
  command = [sys.executable, "-m", "genrep_jax.main"]
  command += ["--config", "configs/quickstart.py", "--workdir", workdir]
  given = (*_SMALL, *overrides, *(together if count > 1 else ()))
  command += [f"--config.{text}" for text in given]
  return subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def trial(text, overrides, count, to, number) -> tuple[list[int], float, str]:
  """Sends a signal once.

  Returns:
    (exit codes, seconds until all have ended, saved steps).
  """
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  with tempfile.TemporaryDirectory() as folder:
    workdir = os.path.join(folder, "run")
    processes = [
      start(workdir, overrides, index, count, port) for index in range(count)
    ]
    for line in processes[0].stdout:
      if text in line:
        break
    begin = time.perf_counter()
    for index in to:
      processes[index].send_signal(number)
    for process in processes:
      process.communicate()
    seconds = time.perf_counter() - begin
    saved = os.path.join(workdir, "checkpoints")
    steps = sorted(os.listdir(saved)) if os.path.isdir(saved) else []
  return [p.returncode for p in processes], seconds, ",".join(steps) or "none"


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--trials", type=int, default=3)
  trials = parser.parse_args().trials
  if trials < 1:
    parser.error(f"--trials: given {trials}; allowed: an integer >= 1")
  who = ((1, (0,)), (2, (0,)), (2, (1,)), (2, (0, 1)))
  cases = [
    (name, text, overrides, count, to, signal.SIGTERM)
    for name, text, overrides in _MOMENTS
    for count, to in who
  ]
  cases += [
    ("the loop, kill -9", "step 10/", _LONG, 2, (lost,), signal.SIGKILL)
    for lost in (0, 1)
  ]
  print("| moment | processes | signal to | exit codes | seconds | saved |")
  print("| --- | ---: | --- | --- | --- | --- |")
  for name, *case in cases:
    found = [trial(*case) for _ in range(trials)]
    codes = " or ".join(sorted({str(codes) for codes, _, _ in found}))
    seconds = sorted(seconds for _, seconds, _ in found)
    middle = statistics.median(seconds)
    saved = " or ".join(sorted({steps for _, _, steps in found}))
    to = ", ".join(map(str, case[3]))
    print(
      f"| {name} | {case[2]} | {to} | {codes} | {middle:.1f} "
      f"({seconds[0]:.1f}-{seconds[-1]:.1f}) | {saved} |",
      flush=True,
    )


if __name__ == "__main__":
  main()

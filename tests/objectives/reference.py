"""The cases of losses.npz, and what our formulas give for them.

Read by `test_fixtures` and, for the table of docs/objectives.md, by
`benchmarks/parity.py`. The cases were computed in float64 by explicit loops and
checked against public code; the file's meta says which.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.objectives import (
  byol,
  cmc,
  dim,
  inverter,
  moco_v3,
  multi_positive,
  simclr,
  supcon,
  vicreg,
)
from tests import fixture_files

ELSEWHERE = {"sao_coarse": "a game's, not an objective's"}


def read():
  """Returns (the file's arrays, {case: its meta} of our objectives)."""
  file = fixture_files.arrays("losses.npz")
  cases = json.loads(str(file["meta"]))["cases"]
  return file, {
    name: case
    for name, case in cases.items()
    if case["objective"] not in ELSEWHERE
  }


def formula(name, case):
  """Returns (the function of a case's inputs, names of its inputs)."""
  kind, tau = case["objective"], {"temperature": case.get("tau")}
  partial = functools.partial
  if name.startswith("vicreg_sumstd"):
    return partial(vicreg.loss, variance_reduction="sum"), ("z",)
  base = {"base_temperature": case.get("base_tau")}
  return {
    "simclr": (partial(simclr.loss, **tau), ("z",)),
    "multi_positive": (partial(multi_positive.loss, **tau), ("z",)),
    "supcon": (partial(supcon.loss, **tau, **base), ("z", "labels")),
    "cmc_core": (partial(cmc.loss, **tau), ("z",)),
    "cmc_full": (partial(cmc.loss, graph="full", **tau), ("z",)),
    "mocov3": (partial(moco_v3.loss, **tau), ("q", "target")),
    "byol": (byol.loss, ("q", "target")),
    "vicreg": (vicreg.loss, ("z",)),
    "dim_jsd": (dim.loss, ("local", "glob")),
    "dim_infonce": (partial(dim.loss, measure="infonce"), ("local", "glob")),
    "inverter_unsupervised": (inverter.loss, ("z_pred", "z")),
    "inverter_supervised": (
      inverter.loss,
      ("z_pred", "z", "logits", "labels"),
    ),
  }[kind]


def compute(file, cases, dtype):
  """Computes all cases in one program.

  Gradients are with respect to all inputs for which the file has one.

  Args:
    file: arrays, as `read` returns them.
    cases: likewise.
    dtype: "float32" or "float64".

  Returns:
    {case: {"loss" or name of an input: (ours, the file's)}}.
  """

  def cast(x):
    return jnp.asarray(x, dtype if x.dtype.kind == "f" else jnp.int32)

  def every(inputs):
    out = {}
    for name, arrays in inputs.items():
      function, names = formula(name, cases[name])
      wanted = [
        i for i, x in enumerate(names) if f"out/{name}/grad_{x}" in file
      ]
      value, grads = jax.value_and_grad(function, argnums=wanted)(*arrays)
      keys = [f"grad_{names[i]}" for i in wanted]
      out[name] = {"loss": value, **dict(zip(keys, grads, strict=True))}
    return out

  with jax.enable_x64(dtype == "float64"):
    inputs = {
      name: [cast(file[f"in/{name}/{x}"]) for x in formula(name, case)[1]]
      for name, case in cases.items()
    }
    # Compiling takes the time here, not running.
    options = {"xla_backend_optimization_level": 0}
    ours = jax.device_get(jax.jit(every, compiler_options=options)(inputs))
  return {
    name: {what: (x, file[f"out/{name}/{what}"]) for what, x in found.items()}
    for name, found in ours.items()
  }


def error(ours, wanted) -> float:
  """Largest difference, as a share of the largest entry."""
  wanted = np.asarray(wanted)
  return float(np.max(np.abs(ours - wanted)) / np.max(np.abs(wanted)))

"""Every formula equals its reference, in value and gradient.

The cases of losses.npz were computed in float64 by explicit loops and checked
against public code; its meta says which. Those of one kernel, SimCLR and its
kin, are in `test_contrastive`.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.objectives import (
  byol,
  cmc,
  dim,
  inverter,
  moco_v3,
  vicreg,
)

# Factor of the largest entry, and floor.
_BOUNDS = {"float32": (1e-4, 1e-5), "float64": (1e-6, 1e-9)}
_ELSEWHERE = {
  "simclr": "test_contrastive",
  "multi_positive": "test_contrastive",
  "supcon": "test_contrastive",
  "sao_coarse": "a game's, not an objective's",
}


def _formula(name, case):
  """Returns (the function of a case's inputs, names of its inputs).

  Gradients are with respect to all inputs for which the file has one.
  """
  kind, tau = case["objective"], {"temperature": case.get("tau")}
  if name.startswith("vicreg_sumstd"):
    return functools.partial(vicreg.loss, variance_reduction="sum"), ("z",)
  return {
    "cmc_core": (functools.partial(cmc.loss, **tau), ("z",)),
    "cmc_full": (functools.partial(cmc.loss, graph="full", **tau), ("z",)),
    "mocov3": (functools.partial(moco_v3.loss, **tau), ("q", "target")),
    "byol": (byol.loss, ("q", "target")),
    "vicreg": (vicreg.loss, ("z",)),
    "dim_jsd": (dim.loss, ("local", "glob")),
    "dim_infonce": (
      functools.partial(dim.loss, measure="infonce"),
      ("local", "glob"),
    ),
    "inverter_unsupervised": (inverter.loss, ("z_pred", "z")),
    "inverter_supervised": (
      inverter.loss,
      ("z_pred", "z", "logits", "labels"),
    ),
  }[kind]


@pytest.fixture(scope="module")
def file(fixture):
  with np.load(fixture("losses.npz")) as opened:
    return dict(opened)


@pytest.fixture(scope="module", params=["float32", "float64"])
def computed(request, file):
  """(Dtype, {case: (loss, {input: gradient})}), from one program."""
  dtype = request.param
  cases = json.loads(str(file["meta"]))["cases"]
  cases = {n: c for n, c in cases.items() if c["objective"] not in _ELSEWHERE}

  def cast(x):
    return jnp.asarray(x, dtype if x.dtype.kind == "f" else jnp.int32)

  def every(inputs):
    out = {}
    for name, arrays in inputs.items():
      function, names = _formula(name, cases[name])
      wanted = [
        i for i, x in enumerate(names) if f"out/{name}/grad_{x}" in file
      ]
      value, grads = jax.value_and_grad(function, argnums=wanted)(*arrays)
      out[name] = value, dict(zip([names[i] for i in wanted], grads))
    return out

  with jax.enable_x64(dtype == "float64"):
    inputs = {
      name: [cast(file[f"in/{name}/{x}"]) for x in _formula(name, case)[1]]
      for name, case in cases.items()
    }
    run = jax.jit(every, compiler_options={"xla_backend_optimization_level": 0})
    return dtype, jax.device_get(run(inputs))


def _error(got, want):
  """Largest error, relative to the largest entry."""
  want = np.asarray(want)
  return np.max(np.abs(np.asarray(got) - want)) / np.max(np.abs(want))


def test_values_and_gradients(file, computed):
  """All cases; the message lists every one that differs."""
  dtype, results = computed
  factor, floor = _BOUNDS[dtype]
  failures = []
  for name, (value, grads) in results.items():
    pairs = {"loss": (value, file[f"out/{name}/loss"])}
    for key, grad in grads.items():
      pairs[key] = grad, file[f"out/{name}/grad_{key}"]
    assert len(pairs) > 1, name
    for what, (got, want) in pairs.items():
      assert got.dtype == dtype and got.shape == want.shape, (name, what)
      largest = np.max(np.abs(want))
      if not np.max(np.abs(got - want)) <= factor * largest + floor:
        failures.append(f"{name} {what}: {_error(got, want):.1e}")
  assert not failures, failures
  assert len(results) == 26


@pytest.mark.parametrize("name", ["dim_jsd_B4_M3_C16", "dim_nce_B4_M3_C16"])
def test_what_the_original_dim_does_differently(file, computed, name):
  """Unshifted JSD differs by 2 log 2; the mask of -10 is another function."""
  _, results = computed
  value = results[name][0]
  if "jsd" in name:
    np.testing.assert_allclose(
      value + 2 * np.log(2), file[f"out/{name}/loss_unshifted"], rtol=1e-5
    )
  else:
    assert abs(value - file[f"out/{name}/loss_mask_minus10"]) > 1e-6

"""Every formula equals its reference, in value and gradient."""

import numpy as np
import pytest

from tests.objectives import reference

# Factor of the largest entry, and floor.
_BOUNDS = {"float32": (1e-4, 1e-5), "float64": (1e-6, 1e-9)}


@pytest.fixture(scope="module", params=_BOUNDS)
def computed(request):
  """(Dtype, {case: {what: (ours, the file's)}})."""
  return request.param, reference.compute(*reference.read(), request.param)


def test_values_and_gradients(computed):
  """All cases; the message lists every one that differs."""
  dtype, results = computed
  factor, floor = _BOUNDS[dtype]
  failures = []
  for name, pairs in results.items():
    assert len(pairs) > 1, name
    for what, (got, want) in pairs.items():
      assert got.dtype == dtype and got.shape == want.shape, (name, what)
      largest = np.max(np.abs(want))
      if not np.max(np.abs(got - want)) <= factor * largest + floor:
        failures.append(f"{name} {what}: {reference.error(got, want):.1e}")
  assert not failures, failures
  assert len(results) == 43


@pytest.mark.parametrize("name", ["dim_jsd_B4_M3_C16", "dim_nce_B4_M3_C16"])
def test_what_the_original_dim_does_differently(computed, name):
  """Unshifted JSD differs by 2 log 2; the mask of -10 is another function."""
  _, results = computed
  file, _ = reference.read()
  value, _ = results[name]["loss"]
  if "jsd" in name:
    np.testing.assert_allclose(
      value + 2 * np.log(2), file[f"out/{name}/loss_unshifted"], rtol=1e-5
    )
  else:
    assert abs(value - file[f"out/{name}/loss_mask_minus10"]) > 1e-6

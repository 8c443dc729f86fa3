"""Errors of reconstructions: recorded numbers, closed forms, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.evaluations import inversion
from genrep_jax.lib import contracts, errors, mesh, plugins
from tests import fixture_files, support

DATA = {"name": "fashion_mnist_mini"}


def test_recorded_numbers():
  recorded = fixture_files.arrays("evaluation.npz")
  images, again, generated = (
    recorded[f"in/bigan_metrics/{name}"]
    for name in ("images", "reconstructions", "generated")
  )
  own, other = inversion.errors(images, again, batch=8)
  out = {
    "egr": own,
    "egr_b": other,
    "ratio": own / other,
    "nnd": inversion.nearest(images, generated),
  }
  for name, value in out.items():
    np.testing.assert_allclose(
      value, recorded[f"out/bigan_metrics/{name}"], rtol=1e-9, err_msg=name
    )


def results(model, **options):
  entry = {"name": "inversion", "data": DATA, "samples": 40, "batch": 16}
  one = plugins.make("evaluations", entry | options, model, mesh.make_mesh())
  return dict(one.run({"gray": jnp.zeros(())})), one


def generate(variables, index):
  """Images whose brightness is their number's."""
  level = (index % 16) / 8.0 - 1 + variables["gray"]
  images = jnp.broadcast_to(level[:, None, None, None], (len(index), 28, 28, 1))
  return images, jnp.zeros(len(index), jnp.int32)


def test_perfect_and_empty_reconstructions():
  whole, one = results(
    contracts.Model(
      generate=generate, reconstruct=lambda v, x: x + v["gray"], channels=1
    )
  )
  assert one.headline == "ratio_40" and {*whole} == {*one.metrics}
  np.testing.assert_allclose(whole["error_40"], 0, atol=1e-5)
  np.testing.assert_allclose(whole["generated_ratio_40"], 0, atol=1e-5)
  nothing, _ = results(
    contracts.Model(
      generate=generate,
      reconstruct=lambda v, x: 0 * x + v["gray"],
      channels=1,
    )
  )
  np.testing.assert_allclose(nothing["ratio_40"], 1, rtol=1e-6)
  np.testing.assert_allclose(nothing["generated_ratio_40"], 1, rtol=1e-6)
  assert nothing["error_40"] > 5
  assert nothing["nearest_40"] == whole["nearest_40"]
  again, _ = results(
    contracts.Model(
      generate=generate, reconstruct=lambda v, x: x * 0.5, channels=1
    ),
    batch=40,
  )
  other, _ = results(
    contracts.Model(
      generate=generate, reconstruct=lambda v, x: x * 0.5, channels=1
    )
  )
  for name, value in again.items():
    np.testing.assert_allclose(other[name], value, rtol=1e-6, err_msg=name)


def test_a_model_without_reconstructions_is_refused():
  run = support.open_run(support.tiny("evaluations.inversion.name=inversion"))
  with pytest.raises(
    errors.UsageError, match="without reconstruct, which prog"
  ):
    _ = run.evaluations

"""The LiDAR of generated views; its formula is in test_spectrum."""

import jax
import numpy as np
import pytest

from genrep_jax.evaluations import spectrum
from genrep_jax.lib import errors, mesh as mesh_lib
from tests.evaluations import toy_views


def test_groups_are_views_of_one_latent():
  found, made = toy_views.run("lidar", samples=20, q=4, batch=24)
  assert made.headline == "lidar_q4_n20_both" and made.unit == ""
  variables = toy_views.variables(mesh_lib.make_mesh(jax.devices()[:1]))

  @jax.jit
  def features(variables, index):
    images = toy_views.views(variables, index, 4).images
    return toy_views.encode(variables, images.reshape(80, *toy_views.SHAPE))

  z = features(variables, np.arange(20, dtype=np.uint32))
  expected = spectrum.lidar(np.asarray(z).reshape(20, 4, 8))
  np.testing.assert_allclose(found[made.headline], expected, rtol=1e-5)


def test_devices_and_batches_do_not_matter():
  one, _ = toy_views.run("lidar", samples=21, q=3, batch=7)
  eight, _ = toy_views.run("lidar", devices=8, samples=21, q=3, batch=512)
  np.testing.assert_allclose(*one.values(), *eight.values(), rtol=1e-5)


def test_an_encoder_of_one_direction_has_rank_one():
  rich, _ = toy_views.run("lidar", samples=200, q=5, views="latent")
  assert list(rich.values())[0] > 3
  first = np.zeros((6, 8))
  first[0] = 1
  poor, made = toy_views.run(
    "lidar",
    samples=200,
    q=5,
    views="latent",
    delta=1e-3,
    weights={"matrix": first},
  )
  assert poor["lidar_q5_n200_latent_delta0.001"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("options", [{"views": "none"}, {"q": 1}, {"delta": 0}])
def test_bad_input(options):
  with pytest.raises(errors.UsageError, match=f"{[*options][0]}: given"):
    toy_views.run("lidar", **options)

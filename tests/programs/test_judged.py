"""Views of a run's generator, rendered to be judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors, execution
from tests import support


@pytest.fixture(scope="module")
def offered():
  """Returns (run, a jitted `views`, the variables)."""
  run = support.open_run(support.tiny("encoder.width=0.1"))
  state = execution.initial(run.program)
  variables = run.program.variables(state, execution.put_frozen(run.program))
  made = {}

  def views(index, count, **options):
    key = count, *sorted(options.items())
    if key not in made:
      made[key] = jax.jit(
        lambda v, i: run.program.model.views(v, i, count, **options)
      )
    return jax.device_get(made[key](variables, jnp.asarray(index, "uint32")))

  return run, views, variables


def test_a_view_is_a_function_of_anchor_and_number(offered):
  _, views, _ = offered
  four, two = views([0, 1, 2, 3], 2), views([3, 1], 2)
  np.testing.assert_array_equal(two.latents, four.latents[[3, 1]])
  np.testing.assert_allclose(two.images, four.images[[3, 1]], atol=1e-5)
  three = views([3, 1], 3)
  np.testing.assert_array_equal(three.latents[:, :2], two.latents)


def test_what_is_left_out_does_not_vary(offered):
  run, views, variables = offered
  plain = views([5, 6], 2, latent=False, pixel=False)
  np.testing.assert_array_equal(plain.images[:, 0], plain.images[:, 1])
  np.testing.assert_array_equal(plain.latents[:, 0], plain.latents[:, 1])
  rendered = run.generator.generator.apply(
    variables["generator"], plain.latents[:, 0], plain.labels
  )
  np.testing.assert_allclose(plain.images[:, 0], rendered, atol=1e-5)
  latent = views([5, 6], 2, pixel=False)
  assert np.abs(latent.latents[:, 0] - latent.latents[:, 1]).min(axis=1).max()
  pixel = views([5, 6], 2, latent=False)
  np.testing.assert_array_equal(pixel.latents, plain.latents)
  assert np.abs(pixel.images[:, 0] - pixel.images[:, 1]).max() > 0.05
  for shown in (plain, latent, pixel):
    assert np.abs(shown.images).max() <= 1.0001


def test_sigma_is_that_of_the_view(offered):
  run, views, _ = offered
  anchors = views(range(32), 1, latent=False, pixel=False).latents
  own = views(range(32), 4, pixel=False).latents - anchors
  for sigma in (0.1, 0.7, 2.0):
    moved = views(range(32), 4, pixel=False, sigma=sigma).latents - anchors
    # The same draws, scaled.
    np.testing.assert_allclose(
      moved / sigma, own / run.config.views.latent.sigma, atol=2e-5
    )


def test_generated_images_are_the_generators(offered):
  run, _, variables = offered
  images, labels = run.program.model.generate(
    variables, jnp.arange(4, dtype=jnp.uint32)
  )
  assert images.shape == (4, 28, 28, 1) and (labels == 0).all()
  assert np.abs(images[0] - images[1]).max() > 0.01


def test_without_a_sigma_a_curve_over_it_is_refused_at_the_door():
  config = support.tiny(
    "views.latent.name=none", "evaluations.curve.name=hardness"
  )
  with pytest.raises(errors.UsageError, match="sigmas: given .* has sigma"):
    _ = support.open_run(config).evaluations
  real = support.tiny("source.name=array", "evaluations.curve.name=lidar")
  with pytest.raises(errors.UsageError, match="without views"):
    _ = support.open_run(real).evaluations


def test_evaluations_are_added_and_taken_out_by_name():
  config = support.tiny(
    *("evaluations.mine.name=lidar", "evaluations.mine.q=3"),
    "evaluations.linear.name=",
  )
  assert set(config.evaluations) == {"knn", "mine"}
  assert config.evaluations.mine.q == 3
  with pytest.raises(errors.UsageError, match="evaluations.mine.q: unknown"):
    support.tiny("evaluations.mine.q=3")

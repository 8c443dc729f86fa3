"""T_z that learns: latents that search for the hardest view, a navigator."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import (
  contracts,
  errors,
  execution,
  plugins,
  rng,
  weights,
)
from genrep_jax.views import vectors
from tests import support

DIM = 6
GENERATOR = contracts.Generator(
  (4, 4), 1, DIM, 0, None, None, lambda v, z, y: None
)
SMALL = (*support.SGD, "global_batch=8", "encoder.width=0.125")


def make(name, **options):
  return plugins.make("views/latent", {"name": name, **options}, GENERATOR)


def drawn(seed, shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_lengths_and_projections():
  x = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e-25, 4e-25]], np.float32)
  np.testing.assert_allclose(vectors.norm(x[:3])[:, 0], [5, 0.5, 0])
  want = [[0.6, 0.8], [0.3, 0.4], [0, 0], [3e-25, 4e-25]]
  np.testing.assert_allclose(vectors.into_ball(x, 1.0), want, rtol=1e-6)
  want = [[0.6, 0.8], [0.6, 0.8], [0, 0], [0.6, 0.8]]
  np.testing.assert_allclose(vectors.unit(x), want, rtol=1e-6)


@pytest.mark.parametrize("length", [0.0, 0.5, 1.0, 2.0])
def test_the_projections_gradient_is_finite_and_right(length):
  x = jnp.asarray([0.6, 0.8]) * length
  got = jax.jacobian(lambda x: vectors.into_ball(x, 1.0))(x)
  # Inside the identity; outside x/|x|, whose Jacobian is (I - uu')/|x|.
  u = np.array([[0.6, 0.8]])
  want = np.eye(2) if length <= 1 else (np.eye(2) - u.T @ u) / length
  np.testing.assert_allclose(got, want, atol=1e-6)


def slow_search(slope, start, anchors, radius, step_size, num_steps):
  moved = start - anchors[:, None]
  for _ in range(num_steps):
    gradient = slope(anchors[:, None] + moved)
    for i in range(moved.shape[0]):
      for j in range(moved.shape[1]):
        length = math.sqrt((gradient[i, j] ** 2).sum())
        if length:
          moved[i, j] += step_size * radius * gradient[i, j] / length
        length = math.sqrt((moved[i, j] ** 2).sum())
        if length > radius:
          moved[i, j] *= radius / length
  return anchors[:, None] + moved


def test_search_climbs_as_a_slow_twin_does_and_stays_in_the_ball():
  sigma, step_size, num_steps = 0.3, 0.4, 3
  radius = sigma * math.sqrt(DIM)
  view = make(
    "adversarial", sigma=sigma, step_size=step_size, num_steps=num_steps
  )
  anchors, direction = drawn(0, (4, DIM)), drawn(1, (4, 2, DIM))
  direction[:, 0] = 0  # the anchors' own renderings stay
  start = anchors[:, None] + np.stack(
    [np.zeros((4, DIM)), 0.2 * drawn(2, (4, DIM))], axis=1
  ).astype(np.float32)

  def loss(z):
    return jnp.sum(direction * jnp.sin(z))

  got, measured = jax.jit(
    lambda z: view.search(jax.value_and_grad(loss), z, jnp.asarray(anchors))
  )(start)
  want = slow_search(
    lambda z: direction * np.cos(z), start, anchors, radius, step_size, 3
  )
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_array_equal(got[:, 0], anchors)
  length = np.linalg.norm(want[:, 1] - anchors, axis=-1)
  assert length.max() <= radius * (1 + 1e-5)
  np.testing.assert_allclose(
    measured["view_distance"], length.mean() / radius, rtol=1e-4
  )
  np.testing.assert_allclose(
    measured["loss_before_search"], loss(start), rtol=1e-5
  )
  assert loss(got) > loss(start)


def test_it_starts_as_the_gaussian_view_drawn_into_the_ball():
  view = make("adversarial", sigma=0.3, num_steps=0)
  assert view.search is None
  plain = make("gaussian", sigma=0.3)
  z = jnp.asarray(drawn(0, DIM))
  for seed in range(20):
    key = jax.random.key(seed)
    w = np.array(plain(key, z, 0) - z)
    w *= min(1, 0.3 * math.sqrt(DIM) / np.linalg.norm(w))
    np.testing.assert_allclose(view.apply({}, key, z, 0), z + w, atol=1e-6)


def adversarial_run(devices):
  """Returns (state before, state after, metrics) of one step."""
  program, _, state, frozen = support.open_program(
    support.tiny(
      *SMALL,
      *support.NO_PIXEL_VIEW,
      "objective.name=tests.programs.seen",
      "views.latent.name=adversarial",
      "views.latent.sigma=0.5",
      "views.latent.step_size=0.6",
      "views.latent.num_steps=2",
    ),
    devices,
  )

  new, measured = jax.jit(program.step)(state, frozen)
  return state, new, measured.compute()


@pytest.fixture(scope="module")
def on_one_device():
  return adversarial_run(1)


def test_a_step_shows_harder_views_than_it_started_from(on_one_device):
  _, _, measured = on_one_device
  assert measured["loss"] > measured["loss_before_search"] + 1e-3
  assert measured["anchor_moved"] == 0
  radius = 0.5 * math.sqrt(8)
  assert 0 < measured["shortest"] and measured["longest"] <= radius * (1 + 1e-5)
  np.testing.assert_allclose(
    measured["view_distance"], measured["mean_length"] / radius, rtol=1e-4
  )


def test_eight_devices_search_as_one_does(on_one_device):
  one, eight = on_one_device, adversarial_run(8)
  for name in ("loss", "loss_before_search", "view_distance"):
    np.testing.assert_allclose(one[2][name], eight[2][name], rtol=1e-4)
  a, b = (support.leaves(run[1].params) for run in (one, eight))
  start = support.leaves(one[0].params)
  moved = max(np.abs(a[k] - start[k]).max() for k in a)
  for name, value in a.items():
    np.testing.assert_allclose(value, b[name], atol=0.02 * moved, err_msg=name)


def test_a_navigator_climbs_the_loss_and_the_encoder_descends():
  """With the encoder held still, its views get harder from step to step."""
  config = support.tiny(
    *SMALL,
    *support.NO_PIXEL_VIEW,
    "optimizer.learning_rate=0.0",
    "sampler.num_anchors=8",
    "views.latent.name=navigator",
    "views.latent.learning_rate=1e-2",
  )
  run = support.open_run(config)
  program = run.program
  state = execution.initial(program)
  frozen = execution.put_frozen(program)
  step = jax.jit(program.step)
  losses, before = [], state
  for _ in range(6):
    state, measured = step(state, frozen)
    losses.append(float(measured.compute()["loss"]))
  assert all(b > a for a, b in zip(losses, losses[1:], strict=False)), losses
  for name, value in support.leaves(before.params).items():
    np.testing.assert_array_equal(support.leaves(state.params)[name], value)
  moved = support.leaves(state.views["params"])
  for name, value in support.leaves(before.views["params"]).items():
    assert np.abs(moved[name] - value).max() > 1e-3, name
  exported = program.export(state, frozen)
  tree, metadata = exported.pop("latent_view.safetensors")
  assert set(exported) == {"encoder.safetensors"}
  assert metadata["generator_sha256"] == run.generator.sha256
  assert tree is state.views["params"]


def test_the_navigators_gradient_is_that_of_the_loss():
  """One Adam step is the sign of the gradient: measured by differences."""
  config = support.tiny(
    *SMALL,
    "views.latent.name=navigator",
    "views.latent.learning_rate=1e-3",
    "views.latent.b1=0.0",
  )
  program, _, state, frozen = support.open_program(config)
  new, _ = jax.jit(program.step)(state, frozen)
  bias, after = (s.views["params"]["linear1"]["bias"] for s in (state, new))

  @jax.jit
  def loss_at(bias):
    views = {
      **state.views,
      "params": {
        **state.views["params"],
        "linear1": {**state.views["params"]["linear1"], "bias": bias},
      },
    }
    return program.step(state.replace(views=views), frozen)[1].compute()["loss"]

  for i in range(3):
    e = jnp.zeros_like(bias).at[i].set(2e-2)
    slope = (loss_at(bias + e) - loss_at(bias - e)) / 4e-2
    assert np.sign(slope) == np.sign(after[i] - bias[i]), (i, slope)


def test_a_navigator_is_bounded_by_sigma():
  view = make("navigator", sigma=0.1)
  params = jax.tree.map(lambda x: 10 * x, view.init(jax.random.key(0)))
  z = jnp.asarray(drawn(0, (50, DIM)))
  moved = jax.vmap(lambda z: view.apply(params, None, z, 0))(z) - z
  length = np.linalg.norm(moved, axis=-1)
  np.testing.assert_allclose(length.max(), 0.1 * math.sqrt(DIM), rtol=1e-4)


def test_a_trained_navigator_is_a_view_like_any_other(tmp_path):
  learned = make("navigator", hidden=5)
  params = learned.init(rng.stream(0, "views_init"))
  assert params["linear0"]["kernel"].shape == (DIM, 5)
  own = {"generator_sha256": GENERATOR.sha256}
  weights.save(tmp_path / "n.safetensors", params, own)
  view = make("navigator", hidden=5, file=str(tmp_path / "n.safetensors"))
  z = jnp.asarray(drawn(0, DIM))
  np.testing.assert_array_equal(
    view(jax.random.key(0), z, 0), learned.apply(params, None, z, 0)
  )


def test_a_navigator_of_another_generator_is_refused(tmp_path):
  file = tmp_path / "n.safetensors"
  params = make("navigator").init(jax.random.key(0))
  weights.save(file, params, {"generator_sha256": "a" * 64})
  line = "sha256 none: its weights are random; .*a{64}"
  with pytest.raises(errors.UsageError, match=line):
    make("navigator", file=str(file))


@pytest.mark.parametrize(
  "name, options, says",
  [
    ("adversarial", {"sigma": -1.0}, "sigma: given -1.0; allowed: .* >= 0"),
    (
      "adversarial",
      {"num_steps": -1},
      "num_steps: given -1; .* 0..100",
    ),
    ("adversarial", {"step_size": math.nan}, "step_size: given nan"),
    (
      "navigator",
      {"learning_rate": 0.0},
      "rate: given 0.0; allowed: .* > 0",
    ),
    ("navigator", {"b1": 1.0}, "b1: given 1.0; allowed: .*>= 0 and < 1"),
    ("navigator", {"hidden": -3}, "hidden: given -3"),
    ("navigator", {"file": "gone.safetensors"}, "gone.safetensors"),
    (
      "mixture",
      {"views": {"adversarial": {}}},
      "'adversarial'; .*does not learn",
    ),
  ],
)
def test_bad_input_is_named(name, options, says):
  with pytest.raises(errors.UsageError, match=says) as raised:
    make(name, **options)
  assert "\n" not in str(raised.value)

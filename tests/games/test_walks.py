"""Training of latent walks: the loss, its gradient, files, and what they do."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import parts, state as state_lib, step as step_lib
from genrep_jax.games import walks as game
from genrep_jax.lib import configs, errors, metrics, weights
from genrep_jax.tools import _session
from genrep_jax.views import steering, walks
from tests import support

CONFIG = str(support.ROOT / "configs" / "steering" / "fashion_mnist.py")
OPERATIONS = ("zoom", "shift_x", "shift_y")
SHORT = (
  f"steering.operations={OPERATIONS}",
  "steering.learning_rate=0.05",
  "global_batch=16",
  "total_steps=24",
)


@pytest.fixture(autouse=True)
def few(monkeypatch, request):
  """Measures walks on fewer latents, where the figures do not matter."""
  if "slow" not in request.keywords:
    monkeypatch.setattr(game, "_MEASURED", 128)


class Trained:
  """A program and its compiled step."""

  def __init__(self, overrides, devices=1):
    self.cfg = configs.load(CONFIG, overrides)
    self.mesh = support.mesh_of(devices)
    self.program = _session.build(self.cfg, self.mesh)
    self.frozen = state_lib.put_frozen(self.program, self.mesh)
    self.first = state_lib.initial(self.program, self.mesh)
    self.run = step_lib.jit(self.program, self.mesh)

  def on(self, state, steps):
    """Goes on from a state, which is kept; returns (state, [metrics])."""
    state, logged = jax.tree.map(jnp.copy, state), []
    for _ in range(steps):
      state, collected = self.run(state, self.frozen)
      logged.append(metrics.compute(collected))
    return state, logged

  @functools.cached_property
  def draw(self):
    """The draws of a batch, compiled once."""
    made, variables = self.made(), self.program.frozen["generator"]
    return jax.jit(lambda batch: made.draw("sample", batch, variables))

  @functools.cached_property
  def last(self):
    """(the last state, what every step logged)."""
    return self.on(self.first, self.program.total_steps)

  def made(self):
    generator, _, _ = parts.load_generator(self.cfg, jnp.float32)
    return game._steering(self.cfg, self.mesh, generator)


@pytest.fixture(scope="module")
def trained():
  return Trained(SHORT)


def test_masked_error_by_hand():
  images, targets = np.zeros((2, 2, 1, 3)), np.zeros((2, 2, 1, 3))
  targets[0, 0], targets[1] = [1, 2, 3], 100
  masks = np.array([[[True], [True]], [[False], [False]]])
  # (1 + 4 + 9) over two pixels of three channels.
  error = jax.value_and_grad(game.masked_error)
  value, slope = error(jnp.float32(images), targets, masks)
  np.testing.assert_allclose(value, 14 / 6, rtol=1e-6)
  np.testing.assert_allclose(slope[0, 0, 0], [-2 / 6, -4 / 6, -1], rtol=1e-6)
  assert not slope[1].any()
  # No valid pixel, whatever lies outside.
  targets[:] = np.inf
  value, slope = error(jnp.float32(images), targets, masks & False)
  assert value == 0 and not slope.any()


def test_loss_and_gradient(trained):
  made = trained.made()
  drawn = trained.draw(0)
  params = trained.first.params
  variables = trained.frozen["generator"]

  @jax.jit
  def both(params):
    return jax.value_and_grad(
      lambda params: made.errors(params, variables, drawn), has_aux=True
    )(params)

  def loss(params):
    return both(params)[0]

  # By hand: one image at a time, the mean over what the edits know.
  @jax.jit
  def one(z, y, a):
    moved = z
    for row, name in enumerate(OPERATIONS):
      moved = moved + a[row] * params[name][0]
    latents, classes = jnp.stack([z, moved]), jnp.stack([y, y])
    image, walked = made.generator.apply(variables, latents, classes)
    target, mask = steering.apply(image, made.law.edit(a))
    return image - target, walked - target, mask

  squares, still, count = 0.0, 0.0, 0
  for row in zip(*drawn, strict=True):
    by_none, by_walk, mask = jax.device_get(one(*row))
    squares += np.sum(by_walk[mask] ** 2)
    still += np.sum(by_none[mask] ** 2)
    count += np.sum(mask)
  error, zero = loss(params)
  np.testing.assert_allclose(error, squares / count, rtol=1e-4)
  np.testing.assert_allclose(zero, still / count, rtol=1e-4)
  # Walks that stand still leave the whole error, and it is what step 0 logs.
  nothing = jax.tree.map(jnp.zeros_like, params)
  np.testing.assert_allclose(*loss(nothing), rtol=1e-6)
  logged = trained.last[1][0]
  np.testing.assert_allclose(logged["loss"], error, rtol=1e-5)
  np.testing.assert_allclose(logged["error_of_zero_walks"], zero, rtol=1e-5)
  np.testing.assert_allclose(logged["error_ratio"], error / zero, rtol=1e-5)
  # The gradient along a random direction, by differences.
  gradient = both(params)[1]
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  way = jax.random.normal(jax.random.key(3), flat.shape)
  up, down = (loss(unravel(flat + d * way))[0] for d in (5e-4, -5e-4))
  along = jax.flatten_util.ravel_pytree(gradient)[0] @ way
  assert abs(along) > 1e-4
  np.testing.assert_allclose((up - down) / 1e-3, along, rtol=0.02)


def test_a_step_moves_the_walks_alone_and_resumes_to_the_bit(trained):
  first = trained.first
  last, logged = trained.on(first, 3)
  assert int(last.step) == 3
  half, early = trained.on(first, 1)
  again, late = trained.on(jax.device_get(half), 2)
  jax.tree.map(np.testing.assert_array_equal, last, again)
  assert logged == early + late
  for name, rows in half.params.items():
    # Adam's first step is the learning rate.
    moved = np.abs(rows - first.params[name])
    np.testing.assert_allclose(moved, 0.05, rtol=0.05, err_msg=name)
  std = np.std(np.concatenate(list(first.params.values())))
  assert 0.08 < std < 0.12


def test_draws_depend_on_seed_and_step(trained):
  first, again, other = (jax.device_get(trained.draw(i)) for i in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert len(np.unique(np.concatenate([first[0], other[0]]), axis=0)) == 32
  assert len(np.unique(np.concatenate([first[2], other[2]]), axis=0)) == 32
  made, variables = trained.made(), trained.frozen["generator"]
  cfg = made.cfg.copy_and_resolve_references()
  cfg.seed = 1
  made = dataclasses.replace(made, cfg=cfg)
  seeded = jax.jit(lambda: made.draw("sample", 0, variables))()
  assert np.abs(seeded[0] - first[0]).min() > 0


def test_export(trained, tmp_path):
  cfg, program = trained.cfg, trained.program
  last, _ = trained.last
  side = {"facts": program.facts}
  said = game.export(cfg, program, last, tmp_path, side)
  path = tmp_path / "walks.safetensors"
  assert said["sha256"] == weights.sha256(path)
  made = walks.read(path)
  assert made.generator_sha256 == weights.sha256(cfg.generator.weights)
  assert made.law == trained.made().law
  assert made.law.max_shift == 30 and made.law.max_zoom == 1.5
  jax.tree.map(np.testing.assert_array_equal, made.directions, last.params)
  found = weights.read_metadata(path)
  assert found["steps"] == 24 and found["seed"] == 0
  assert found["generator"]["latent_dim"] == 64
  # Already these few steps edit: each alone, and all together.
  assert set(found["errors"]) == {*OPERATIONS, "all"}
  ratios = {k: error / zero for k, (error, zero) in found["errors"].items()}
  assert ratios["all"] < 0.95 and max(ratios.values()) < 0.98, ratios
  assert "error_ratio zoom" in said
  # A row of edits and one of walks for each; no edit in the middle.
  assert (tmp_path / "walks.png").is_file()
  shown = jax.jit(program.preview)(last, trained.frozen)["walks"]
  assert shown.shape == (12, 9, 28, 28, 1)
  for i, row in enumerate(shown):
    same = 0 if i % 4 < 2 else 2  # two latents
    np.testing.assert_allclose(row[4], shown[same, 4], atol=1e-4)
  assert np.abs(shown[0, 4] - shown[2, 4]).mean() > 0.1
  # shift_x, to the left: unknown pixels are grey, on the right.
  assert not shown[4, 0, :, -1].any() and shown[4, 0, :, 0].all()


def test_bad_input_is_one_line(tmp_path):
  def refuse(words, *overrides, config=CONFIG):
    with pytest.raises(errors.UsageError) as caught:
      _session.build(configs.load(config, overrides), support.mesh_of(8))
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
      assert word in line, line

  refuse(["generator.weights", "''"], "generator.weights=")
  refuse(["global_batch", "12", "8 devices"], "global_batch=12")
  refuse(["steering.max_zoom", "0.5"], "steering.max_zoom=0.5")
  refuse(["shear", "rot3d"], "steering.operations=('shear',)")
  refuse(["learning_rate", "-1.0"], "steering.learning_rate=-1.0")
  refuse(["total_epochs", "endless"], "total_steps=0", "total_epochs=1.0")
  quickstart = str(support.ROOT / "configs" / "quickstart.py")
  refuse(["job", "'steering'"], "job=steer", config=quickstart)
  # As T_z, or within one: walks in the latent space of another generator.
  path = tmp_path / "walks.safetensors"
  law = steering.Law(1, operations=("zoom",))
  walks.save(path, law, {"zoom": np.zeros((1, 64), "f")}, "cd" * 32, {})
  words = ["views.latent.file", "cd" * 32, "0b8ca9a6"]
  steered = ["views.latent.name=steered", f"views.latent.file={path}"]
  refuse(words, *steered, config=quickstart)
  text = pathlib.Path(quickstart).read_text()
  mixed = tmp_path / "mixed.py"
  mixed.write_text(
    text.replace(
      "  return c\n",
      "  c.views.latent = {'name': 'mixture', 'views': {'gaussian': {}, "
      f"'steered': {{'file': '{path}'}}}}}}\n  return c\n",
    )
  )
  refuse(words, config=str(mixed))


def assert_they_shift_and_zoom(measured):
  """The stated factors; measured: zoom .75 to .77, shifts .80 to .85."""
  ratios = {name: error / zero for name, (error, zero) in measured.items()}
  assert ratios["all"] < 0.75 and ratios["zoom"] < 0.85, ratios
  assert max(ratios["shift_x"], ratios["shift_y"]) < 0.9, ratios


def test_the_walks_of_the_package_shift_and_zoom_clothes():
  cfg = configs.load(CONFIG)
  generator, variables, _ = parts.load_generator(cfg, jnp.float32)
  made = game._steering(cfg, support.mesh_of(1), generator)
  shipped = walks.read("asset:fashion_mnist_walks.safetensors")
  assert shipped.law == made.law
  frozen = {"generator": variables}
  assert_they_shift_and_zoom(made.measure(shipped.directions, frozen))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_config_makes_such_walks(seed):
  trained = Trained((f"seed={seed}",))
  assert_they_shift_and_zoom(
    trained.made().measure(trained.last[0].params, trained.frozen)
  )


@pytest.mark.slow
def test_eight_devices_train_the_same_walks(trained):
  _, logged = trained.on(trained.first, 3)
  spread = Trained(SHORT, devices=8)
  _, again = spread.on(spread.first, 3)
  for one, eight in zip(logged, again, strict=True):
    for name, value in one.items():
      np.testing.assert_allclose(eight[name], value, rtol=1e-3)

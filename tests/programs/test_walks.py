"""Training of latent walks: the loss, its gradient, files, and what they do."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import main as main_lib
from genrep_jax.lib import configs, errors, execution, export, metrics, weights
from genrep_jax.programs import walks as program_lib
from genrep_jax.tools import _cli
from genrep_jax.views import edits, walks
from tests import support

CONFIG = str(support.ROOT / "configs" / "walks" / "fashion_mnist.py")
OPERATIONS = ("zoom", "shift_x", "shift_y")
SHORT = (
  f"program.operations={OPERATIONS}",
  "program.learning_rate=0.05",
  "global_batch=16",
  "total_steps=24",
)


@pytest.fixture(autouse=True)
def few(monkeypatch, request):
  """Measures walks on fewer latents, where the figures do not matter."""
  if "slow" not in request.keywords:
    monkeypatch.setattr(program_lib, "_MEASURED", 128)


class Trained:
  """A program and its compiled step."""

  def __init__(self, overrides, devices=1):
    self.run = support.open_run(configs.load(CONFIG, overrides), devices)
    self.program = self.run.program
    self.frozen = execution.put_frozen(self.program)
    self.first = execution.initial(self.program)
    self.step = execution.jit(self.program)

  def on(self, state, steps):
    """Goes on from a state, which is kept; returns (state, [metrics])."""
    state, logged = jax.tree.map(jnp.copy, state), []
    for _ in range(steps):
      state, collected = self.step(state, self.frozen)
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
    return walking(self.run)


def walking(run):
  """What a run trains, without its optimizer."""
  generator, cfg = run.source.generator, run.config.program
  return program_lib.Walking(
    seed=run.seed,
    batch=run.batch,
    generator=generator,
    render_views=run.render,
    distribution=edits.make_distribution("program", cfg, generator.channels),
    optimizer=None,
    init_std=cfg.init_std,
    split=run.split,
  )


@pytest.fixture(scope="module")
def trained():
  return Trained(SHORT)


def test_masked_error_by_hand():
  images, targets = np.zeros((2, 2, 1, 3)), np.zeros((2, 2, 1, 3))
  targets[0, 0], targets[1] = [1, 2, 3], 100
  masks = np.array([[[True], [True]], [[False], [False]]])
  # (1 + 4 + 9) over two pixels of three channels.
  error = jax.value_and_grad(program_lib.masked_error)
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
    target, mask = edits.apply(image, made.distribution.edit(a))
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
  made = dataclasses.replace(made, seed=1)
  seeded = jax.jit(lambda: made.draw("sample", 0, variables))()
  assert np.abs(seeded[0] - first[0]).min() > 0


def test_export(trained, tmp_path):
  config, program = trained.run.config, trained.program
  last, _ = trained.last
  ((name, (tree, about)),) = program.export(last, trained.frozen).items()
  path = tmp_path / name
  assert name == "walks.safetensors"
  assert export.save(path, tree, about, {}) == weights.sha256(path)
  made = walks.read(path)
  assert made.generator_sha256 == weights.sha256(config.generator.weights)
  assert made.distribution == trained.made().distribution
  assert made.distribution.max_shift == 30 and made.distribution.max_zoom == 1.5
  jax.tree.map(np.testing.assert_array_equal, made.directions, last.params)
  found = weights.read_metadata(path)
  assert found["steps"] == 24 and found["seed"] == 0
  assert found["generator"]["latent_dim"] == 64
  # Already these few steps edit: each alone, and all together.
  assert set(found["errors"]) == {*OPERATIONS, "all"}
  ratios = {k: error / zero for k, (error, zero) in found["errors"].items()}
  assert ratios["all"] < 0.95 and max(ratios.values()) < 0.98, ratios
  measured = program.measure(last, trained.frozen)
  assert measured == {f"walks/error_ratio_{k}": x for k, x in ratios.items()}
  # A row of edits and one of walks for each; no edit in the middle.
  shown = jax.jit(program.preview)(last, trained.frozen)["walks"]
  assert shown.shape == (12, 9, 28, 28, 1)
  for i, row in enumerate(shown):
    same = 0 if i % 4 < 2 else 2  # two latents
    np.testing.assert_allclose(row[4], shown[same, 4], atol=1e-4)
  assert np.abs(shown[0, 4] - shown[2, 4]).mean() > 0.1
  # shift_x, to the left: unknown pixels are gray, on the right.
  assert not shown[4, 0, :, -1].any() and shown[4, 0, :, 0].all()


def test_bad_input_is_one_line(tmp_path):
  def refuse(words, *overrides, config=CONFIG):
    with pytest.raises(errors.UsageError) as caught:
      _ = support.open_run(configs.load(config, overrides), 8).program
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
      assert word in line, line

  random = ("generator.weights=", "generator.sha256=")
  refuse(["generator.weights: given ''"], *random)
  refuse(["global_batch", "12", "8 devices"], "global_batch=12")
  refuse(["program.max_zoom: given 0.5"], "program.max_zoom=0.5")
  refuse(["shear", "rot3d"], "program.operations=('shear',)")
  refuse(["learning_rate: given -1.0"], "program.learning_rate=-1.0")
  refuse(["total_epochs", "endless"], "total_steps=0", "total_epochs=1.0")
  quickstart = str(support.ROOT / "configs" / "quickstart.py")
  refuse(["job", "'steer'", "program.name=walks"], "job=steer")
  real = ("source.name=array", "data.name=fashion_mnist_mini")
  refuse(["source.name: given 'array'"], *real)
  # As T_z, or within one: walks in the latent space of another generator.
  path = tmp_path / "walks.safetensors"
  made = edits.EditDistribution(1, operations=("zoom",))
  walks.save(path, made, {"zoom": np.zeros((1, 64), "f")}, "cd" * 32, {})
  words = ["views.latent.file", "cd" * 32, "0b8ca9a6"]
  along = ["views.latent.name=walks", f"views.latent.file={path}"]
  refuse(words, *along, config=quickstart)
  text = pathlib.Path(quickstart).read_text()
  mixed = tmp_path / "mixed.py"
  mixed.write_text(
    text.replace(
      "  return c\n",
      "  c.views.latent = {'name': 'mixture', 'views': {'gaussian': {}, "
      f"'walks': {{'file': '{path}'}}}}}}\n  return c\n",
    )
  )
  words[0] = "views.latent.views.walks.file"
  refuse(words, config=str(mixed))


def assert_they_shift_and_zoom(measured):
  """The stated factors; measured: zoom .75 to .77, shifts .80 to .85."""
  ratios = {name: error / zero for name, (error, zero) in measured.items()}
  assert ratios["all"] < 0.75 and ratios["zoom"] < 0.85, ratios
  assert max(ratios["shift_x"], ratios["shift_y"]) < 0.9, ratios


def test_the_walks_of_the_package_shift_and_zoom_clothes():
  run = support.open_run(configs.load(CONFIG))
  made = walking(run)
  shipped = walks.read("asset:fashion_mnist_walks.safetensors")
  assert shipped.distribution == made.distribution
  frozen = {"generator": run.generator.variables}
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


def test_every_job_works_on_walks(tmp_path, capsys, monkeypatch):
  words = ["--config", CONFIG, "--workdir", str(tmp_path)]
  words += [
    f"--config.{text}"
    for text in (*SHORT, "total_steps=2", "compilation_cache=off")
  ]

  def job(name):
    monkeypatch.setattr("sys.argv", ["main", *words, f"--config.job={name}"])
    with pytest.raises(SystemExit) as stopped:
      _cli.run(main_lib.main)
    said = capsys.readouterr()
    assert stopped.value.code == errors.EXIT_OK, said.err
    return said.out

  printed = job("train")
  left = {path.name for path in tmp_path.iterdir()}
  assert {"walks.safetensors", "walks.png", "report.html"} <= left
  assert "encoder.safetensors" not in left and "model_card.md" not in left
  summary = json.loads((tmp_path / "summary.json").read_text())
  digest = weights.sha256(tmp_path / "walks.safetensors")
  assert summary["exports"] == {"walks.safetensors": digest}
  assert digest in printed
  found = summary["results"]
  assert set(found) == {f"walks/error_ratio_{k}" for k in (*OPERATIONS, "all")}
  lines = job("evaluate").splitlines()
  assert {f"{name} {value!r}" for name, value in found.items()} <= {*lines}
  assert "all-reduce" in job("compile_only")

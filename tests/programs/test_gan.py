"""The GAN game: formulas, one round, devices, export."""

import functools
import hashlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import main as main_lib
from genrep_jax.lib import (
  configs,
  errors,
  execution,
  export,
  metrics,
  plugins,
  rng,
  weights,
)
from genrep_jax.programs import _discriminator, gan
from genrep_jax.tools import _cli
from tests import support
from tests.programs import toy

CLASSES = toy.CLASSES


def config(*overrides):
  """A game on 8x8 images that compiles in seconds."""
  return configs.load(toy.__file__, overrides)


def game_of(config, discriminator=None):
  """The two players without their optimizers."""
  run = support.open_run(config)
  return gan.Game(
    seed=run.seed,
    batch=run.batch,
    options=config.program,
    source=run.source,
    generator=plugins.make("generators", config.generator, dtype=jnp.float32),
    discriminator=discriminator,
    tx={},
    split=run.split,
  )


@pytest.fixture(scope="module")
def dataset():
  """40 images of 8x8: dark, gray and light ones."""
  return toy.make(None)


def rounds(run, state, frozen, steps):
  """Plays on from a state, which is kept; returns (state, [metrics])."""
  state, logged = jax.tree.map(jnp.copy, state), []
  for _ in range(steps):
    state, collected = run(state, frozen)
    logged.append(metrics.compute(collected))
  return state, logged


def play(cfg, devices=1, steps=3):
  """Plays a game; returns (program, initial state, last, [metrics], on).

  `on(state, steps)` plays on from a state with the same compiled program.
  """
  program = support.open_run(cfg, devices).program
  first = execution.initial(program)
  frozen = execution.put_frozen(program)
  run = execution.jit(program, 1)
  last, logged = rounds(run, first, frozen, steps)
  return program, first, last, logged, functools.partial(on, run, frozen)


def on(run, frozen, state, steps):
  return rounds(run, state, frozen, steps)


@pytest.fixture(scope="module")
def played():
  return play(config())


def test_losses_and_gradients_by_hand():
  real, fake = jnp.array([0.5, 2.0]), jnp.array([-3.0, 1.0])
  # mean(0.5, 0) + mean(0, 2)
  np.testing.assert_allclose(gan.d_loss("hinge", real, fake), 1.25)
  np.testing.assert_allclose(gan.g_loss("hinge", fake), 1.0)
  np.testing.assert_allclose(
    gan.d_loss("non_saturating", real, fake),
    np.mean(np.log1p(np.exp([-0.5, -2.0])))
    + np.mean(np.log1p(np.exp([-3.0, 1.0]))),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    gan.g_loss("non_saturating", fake),
    np.mean(np.log1p(np.exp([3.0, -1.0]))),
    rtol=1e-6,
  )
  d_grad = jax.grad(gan.d_loss, (1, 2))
  for kind, expected in {
    "hinge": ([-0.5, 0], [0, 0.5]),
    "non_saturating": (
      -0.5 / (1 + np.exp([0.5, 2.0])),
      0.5 / (1 + np.exp([3.0, -1.0])),
    ),
  }.items():
    for got, want in zip(d_grad(kind, real, fake), expected, strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(
    jax.grad(gan.g_loss, 1)("non_saturating", fake),
    -0.5 / (1 + np.exp([-3.0, 1.0])),
    rtol=1e-6,
  )


def test_spectral_normalization_against_svd():
  noise = np.random.default_rng(0)
  params = {
    "kernel": jnp.float32(noise.normal(size=(3, 3, 2, 5))),
    "bias": jnp.ones(5),
  }
  vectors = _discriminator.init_vectors(jax.random.key(0), params)
  for _ in range(200):
    vectors = _discriminator.power_iteration(params, vectors)
  matrix = np.asarray(params["kernel"]).reshape(-1, 5)
  u, sigma, vt = np.linalg.svd(matrix, full_matrices=False)
  normal = _discriminator.normalize(params, vectors)
  np.testing.assert_allclose(
    normal["kernel"].reshape(-1, 5), matrix / sigma[0], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_array_equal(normal["bias"], params["bias"])
  # d/dW <c, W / sigma> = (c - <c, W / sigma> u v^T) / sigma (Miyato, eq. 12).
  c = noise.normal(size=matrix.shape)
  grad = jax.grad(
    lambda p: jnp.sum(
      c * _discriminator.normalize(p, vectors)["kernel"].reshape(-1, 5)
    )
  )(params)["kernel"].reshape(-1, 5)
  inner = np.sum(c * matrix) / sigma[0]
  expected = (c - inner * np.outer(u[:, 0], vt[0])) / sigma[0]
  np.testing.assert_allclose(grad, expected, atol=1e-4)


def test_projection_adds_the_class_term():
  net = _discriminator.Discriminator((4, 4), (0, 1), CLASSES)
  images = jax.random.normal(jax.random.key(0), (5, 7, 7, 1))
  labels = jnp.array([0, 1, 2, 1, 0])
  variables = net.init(jax.random.key(1), images, labels)
  apply = jax.jit(net.apply)
  with_class = apply(variables, images, labels)
  table = variables["params"]["projection"]["embedding"]
  without = apply(
    {"params": variables["params"] | {"projection": {"embedding": 0 * table}}},
    images,
    labels,
  )
  doubled = apply(
    {"params": variables["params"] | {"projection": {"embedding": 2 * table}}},
    images,
    labels,
  )
  assert with_class.shape == (5,)
  assert np.abs(with_class - without).max() > 1e-3
  # Linear in the embedding, and each image is seen alone.
  np.testing.assert_allclose(
    doubled - with_class, with_class - without, atol=1e-5
  )
  np.testing.assert_allclose(
    apply(variables, images[3:4], labels[3:4]), with_class[3:4], atol=1e-5
  )


class Linear(nn.Module):
  """D(x, y) = <a, x>: its R1 penalty is |a|^2."""

  @nn.compact
  def __call__(self, images, labels):
    a = self.param("a", nn.initializers.normal(1.0), images.shape[1:])
    return jnp.sum(a * images, axis=(1, 2, 3))


def test_r1_of_a_linear_discriminator():
  game = game_of(config(), Linear())
  images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
  labels = jnp.zeros(6, jnp.int32)
  params = Linear().init(jax.random.key(1), images, labels)["params"]
  got = game.r1(params, None, images, labels)
  np.testing.assert_allclose(got, np.sum(params["a"] ** 2), rtol=1e-5)


def test_learning_rates_fall_to_zero_in_the_last_part():
  cfg = config("program.decay_fraction=0.5", "program.beta2=0.0").program
  tx = gan.optimizer(cfg, 0.1, 4)
  params = jnp.zeros(())
  state, steps = tx.init(params), []
  for _ in range(5):
    update, state = tx.update(jnp.ones(()), state)
    steps.append(-float(update))
  np.testing.assert_allclose(steps, [0.1, 0.1, 0.1, 0.05, 0], atol=1e-6)


def test_a_round_moves_both_players(played):
  _, first, last, logged, _ = played
  assert int(last.step) == 3
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), first.params, last.params
  )
  still = [
    jax.tree_util.keystr(path)
    for path, value in jax.tree_util.tree_leaves_with_path(moved)
    if not value > 0
  ]
  assert not still, f"parameters that no gradient reaches: {still}"
  assert np.all(np.isfinite([list(m.values()) for m in logged]))
  # Lazy R1: rounds 0 and 2 of r1_every = 2, weighted for both.
  assert [m["r1"] > 0 for m in logged] == [True, False, True]
  for m in logged:
    np.testing.assert_allclose(m["loss"], m["d_loss"] + m["g_loss"], rtol=1e-5)


def test_moving_average_of_the_generator(played):
  _, first, last, _, go_on = played
  one, _ = go_on(first, 1)
  # Round t weighs the past by min(ema_decay, (1 + t) / (10 + t)).
  expected = jax.tree.map(
    lambda a, b: 0.1 * a + 0.9 * b,
    first.params["generator"],
    one.params["generator"],
  )
  for got, want in zip(
    jax.tree.leaves(one.ema["params"]), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(got, want, atol=1e-6)
  difference = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()),
    last.ema["params"]["generator"],
    last.params["generator"],
  )
  assert max(jax.tree.leaves(difference)) > 0


def test_a_resumed_game_is_the_same_game_to_the_bit(played):
  _, first, last, logged, go_on = played
  one, logged_one = go_on(first, 1)
  again, logged_on = go_on(jax.device_get(one), 2)
  for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)
  assert logged == logged_one + logged_on


def test_draws_depend_on_seed_player_and_round():
  draws = []
  for seed in (0, 1):
    latents = game_of(config(f"seed={seed}")).latents
    draw = jax.jit(latents, static_argnums=0)
    for name in ("d_latents", "g_latents"):
      for update in (0, 1):
        draws += list(np.asarray(draw(name, jnp.int32(update))[0]))
  assert len(np.unique(np.stack(draws), axis=0)) == 2 * 2 * 2 * 8


@pytest.mark.slow
def test_eight_devices_play_the_same_game(played):
  _, _, last, logged, _ = played
  _, _, spread, logged_spread, _ = play(config(), devices=8)
  for one, eight in zip(logged, logged_spread, strict=True):
    for name, value in one.items():
      np.testing.assert_allclose(eight[name], value, rtol=2e-4, atol=1e-5)
  for a, b in zip(
    jax.tree.leaves(last.ema), jax.tree.leaves(spread.ema), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_real_images_come_epoch_by_epoch_with_their_labels(dataset):
  game = game_of(config("global_batch=40"))
  frozen = jax.tree.map(jnp.asarray, game.source.frozen)
  draw = jax.jit(game.real_batch)
  epochs = [draw(frozen, jnp.int32(i)) for i in (0, 1)]
  whole = dataset.train.images.astype(np.float32) / 127.5 - 1
  for images, labels in epochs:
    order = np.argsort(np.asarray(images).sum((1, 2, 3)))
    reference = np.argsort(whole.sum((1, 2, 3)))
    np.testing.assert_allclose(images[order], whole[reference], atol=1e-6)
    np.testing.assert_array_equal(
      np.asarray(labels)[order], dataset.train.labels[reference]
    )
  assert not np.array_equal(epochs[0][0], epochs[1][0])


@pytest.mark.slow
def test_unconditional_hinge_game_with_two_discriminator_steps():
  cfg = config(
    "generator.num_classes=0",
    "program.loss=hinge",
    "program.spectral_norm=True",
    "program.r1_weight=0.0",
    "program.d_steps=2",
  )
  program, first, last, logged, _ = play(cfg, steps=2)
  assert "projection" not in last.params["discriminator"]
  assert program.examples_per_step == 16
  assert program.images_per_step == 40
  counts = {
    name: int(jax.tree.leaves(last.opt_state[name])[0])
    for name in last.opt_state
  }
  assert counts == {"generator": 2, "discriminator": 4}
  assert logged[-1]["r1"] == 0
  vectors = [
    (a, b)
    for a, b in zip(
      jax.tree.leaves(first.vectors), jax.tree.leaves(last.vectors), strict=True
    )
    if a.size > 1
  ]
  assert vectors
  assert all(np.abs(a - b).max() > 0 for a, b in vectors)


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("program.loss=wasserstein", "'wasserstein'; allowed: one of hinge, non_s"),
    ("program.d_widths=(8,)", "program.d_extra_convs: given (0, 0); allowed"),
    ("program.d_steps=0", "program.d_steps: given 0"),
    ("program.r1_weight=-1.0", "program.r1_weight: given -1.0"),
    ("program.ema_decay=1.5", "program.ema_decay: given 1.5"),
    ("global_batch=6", "given 6; allowed: a multiple of the 8"),
    ("generator.num_classes=7", "generator.num_classes: given 7"),
    ("generator.base_px=4", "(16, 16, 1)"),
    ("generator.name=procedural", "generator.name: given 'procedural'"),
    ("source.name=generator", "source.name: given 'generator'"),
    ("total_steps=0", "total_steps"),
  ],
)
def test_bad_input_is_one_line(override, words):
  with pytest.raises(errors.UsageError) as caught:
    _ = support.open_run(config(override), 8).program
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)


def test_export_is_what_the_average_draws(played, tmp_path):
  program, _, last, _, _ = played
  ((name, (tree, about)),) = program.export(last, program.frozen).items()
  assert name == "generator.safetensors"
  path = tmp_path / name
  said = export.save(path, tree, about, {"fid/fid_classifier_16": 2.0})
  data = path.read_bytes()
  assert said == hashlib.sha256(data).hexdigest()
  again = program.export(last, execution.put_frozen(program))[name]
  weights.save(tmp_path / "again", *again)
  weights.save(tmp_path / "first", tree, about)
  one, other = ((tmp_path / name).read_bytes() for name in ("first", "again"))
  assert one == other

  metadata = weights.read_metadata(path)
  assert metadata["steps"] == 3
  assert metadata["results"] == {"fid/fid_classifier_16": 2.0}
  assert metadata["generator"]["latent_dim"] == 4
  frozen = program.frozen
  assert (
    metadata["data_sha256"]
    == hashlib.sha256(
      frozen["images"].tobytes() + frozen["labels"].tobytes()
    ).hexdigest()
  )

  generator = plugins.make(
    "generators", metadata["generator"], dtype=jnp.float32
  )
  expected = jax.eval_shape(generator.init, jax.random.key(0))
  loaded = weights.load(path, None, expected)
  for got, want in zip(
    jax.tree.leaves(loaded["params"]),
    jax.tree.leaves(last.ema["params"]),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)  # float16
  # With standing statistics inference draws what training mode draws of one
  # big batch of the same latents.
  keys = rng.per_index(
    rng.stream(0, "standing_statistics"), jnp.arange(2000, dtype=jnp.uint32)
  )
  z, y = jax.vmap(generator.sample)(keys)
  trained, _ = generator.train_apply(loaded, z, y)
  drawn = generator.apply(loaded, z, y)
  assert np.abs(drawn - trained).mean() < 0.005
  lagging = generator.apply(
    loaded | {"batch_stats": last.ema["batch_stats"]["generator"]}, z, y
  )
  assert np.abs(lagging - trained).mean() > 0.02


@pytest.mark.slow
def test_every_job_works_on_a_game(tmp_path, capsys, monkeypatch):
  words = ["--config", toy.__file__, "--workdir", str(tmp_path)]
  words += [
    f"--config.{text}"
    for text in ("total_steps=2", "log_every_steps=1", "compilation_cache=off")
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
  assert {"generator.safetensors", "samples.png", "report.html"} <= left
  assert "encoder.safetensors" not in left and "model_card.md" not in left
  summary = json.loads((tmp_path / "summary.json").read_text())
  digest = weights.sha256(tmp_path / "generator.safetensors")
  assert summary["exports"] == {"generator.safetensors": digest}
  assert digest in printed
  ((name, value),) = summary["results"].items()
  assert name == "fid/fid_classifier_16"
  assert f"{name} {value!r}" in job("evaluate").splitlines()
  assert "all-reduce" in job("compile_only")

"""BiGAN: recorded losses, one round, whose gradient, devices, exports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import configs, errors, execution, metrics, plugins, weights
from genrep_jax.programs import _inference, _joint, bigan
from tests import fixture_files, support


def config(*overrides):
  base = configs.load("tests/programs/toy_bigan.py", overrides)
  return base


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("games.npz")


def play(cfg, devices=1, steps=3):
  """Plays a game; returns (program, [states], [metrics])."""
  program = support.open_run(cfg, devices).program
  frozen = execution.put_frozen(program)
  run = execution.jit(program, 1)
  states, logged = [execution.initial(program)], []
  for _ in range(steps):
    state, collected = run(jax.tree.map(jnp.copy, states[-1]), frozen)
    states.append(state)
    logged.append(metrics.compute(collected))
  return program, states, logged


@pytest.fixture(scope="module")
def played():
  return play(config())


@pytest.mark.parametrize("case", ["N8", "N64", "extreme"])
@pytest.mark.parametrize(("player", "number"), [("D", 0), ("EG", 1)])
def test_recorded_losses_and_gradients(recorded, case, player, number):
  name = f"bigan_{player}_{case}"
  with jax.enable_x64(True):
    given = [
      jnp.asarray(recorded[f"in/{name}/{of}"], jnp.float64)
      for of in ("real", "fake")
    ]
    value, grads = jax.value_and_grad(
      lambda *x: bigan.losses(*x)[number], (0, 1)
    )(*given)
    np.testing.assert_allclose(
      value, recorded[f"out/{name}/loss"], rtol=1e-9, atol=1e-12
    )
    for of, gradient in zip(("real", "fake"), grads, strict=True):
      np.testing.assert_allclose(
        gradient, recorded[f"out/{name}/grad_{of}"], rtol=1e-9, atol=1e-12
      )


def test_the_first_loss_is_log_two_for_all(played):
  """D's last layer starts at zero (games of the authors' log, epoch 0)."""
  _, _, logged = played
  np.testing.assert_allclose(logged[0]["d_loss"], np.log(2), rtol=1e-6)
  np.testing.assert_allclose(logged[0]["eg_loss"], np.log(2), rtol=1e-6)
  assert logged[0]["real_logit"] == logged[0]["fake_logit"] == 0


def test_sizes_are_those_of_the_recipe():
  """Weights without shifts, as the authors' networks have them."""
  run = support.open_run(configs.load("configs/games/bigan.py"))
  params = jax.eval_shape(run.program.init).params
  counts = {
    name: sum(x.size for x in jax.tree.leaves(tree) if x.ndim > 1)
    for name, tree in params.items()
  }
  assert counts["encoder"] + counts["head"] == 1_902_592
  assert counts["generator"] == 1_953_792
  assert counts["discriminator"] == 1_903_616


def test_a_round_moves_all_networks_and_their_statistics(played):
  _, states, logged = played
  # In the first round D's last layer is zero: nothing reaches E and G.
  for of in ("params", "batch_stats"):
    moved = jax.tree.map(
      lambda a, b: float(np.abs(a - b).max()),
      getattr(states[0], of),
      getattr(states[-1], of),
    )
    still = [
      jax.tree_util.keystr(path)
      for path, value in jax.tree_util.tree_leaves_with_path(moved)
      if not value > 0
    ]
    assert not still, still
  assert int(states[-1].step) == 3
  for values in logged:
    assert np.all(np.isfinite(list(values.values())))


def game_of(cfg):
  """The game itself, through its program's own parts."""
  made = []
  real = bigan.Game.__init__

  def remember(self, *arguments, **options):
    real(self, *arguments, **options)
    made.append(self)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bigan.Game, "__init__", remember)
    program = support.open_run(cfg).program
  return made[-1], program


def test_encoder_and_generator_are_moved_by_their_own_pairs():
  """dL_EG/dE comes from real pairs alone, dL_EG/dG from fake ones alone."""
  game, program = game_of(config())
  state = program.init()
  # Past the first round, when D passes gradients on.
  out = jax.random.normal(jax.random.key(3), (8, 1))
  params = state.params | {
    "discriminator": state.params["discriminator"] | {"out": {"kernel": out}}
  }
  images = jax.random.uniform(jax.random.key(0), (8, 8, 8, 1))
  z = jax.random.uniform(jax.random.key(1), (8, 4), minval=-1)
  fakes, _ = game.generate_train(
    params["generator"], state.batch_stats["generator"], z, jnp.zeros(8, int)
  )
  own = {"params": params["discriminator"]}

  def total(params):
    return game.eg_loss(params, state, (images, z))[0]

  def of_real(params):
    inferred, _ = game.infer(params, state.batch_stats["encoder"], images)
    real = game.discriminator.apply(own, images, inferred)
    return jnp.mean(jax.nn.softplus(real)) / 2

  def of_fake(params):
    fakes, _ = game.generate_train(
      params["generator"], state.batch_stats["generator"], z, jnp.zeros(8, int)
    )
    return (
      jnp.mean(jax.nn.softplus(-game.discriminator.apply(own, fakes, z))) / 2
    )

  grads, real, fake = (jax.grad(f)(params) for f in (total, of_real, of_fake))
  for name, alone in (("encoder", real), ("head", real), ("generator", fake)):
    for got, want in zip(
      jax.tree.leaves(grads[name]), jax.tree.leaves(alone[name]), strict=True
    ):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)
      assert np.abs(got).max() > 0
  assert fakes.shape == images.shape


def test_a_resumed_game_is_the_same_to_the_bit(played):
  program, states, _ = played
  frozen = execution.put_frozen(program)
  state = jax.device_put(jax.device_get(states[1]))
  for _ in range(2):
    state, _ = execution.jit(program, 1)(state, frozen)
  for a, b in zip(
    jax.tree.leaves(states[-1]), jax.tree.leaves(state), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_eight_devices_play_the_same_game(played):
  _, states, logged = played
  _, spread, logged_spread = play(config(), devices=8)
  for one, eight in zip(logged, logged_spread, strict=True):
    for name, value in one.items():
      np.testing.assert_allclose(eight[name], value, rtol=1e-3, atol=1e-4)
  for a, b in zip(
    jax.tree.leaves(states[2].params),
    jax.tree.leaves(spread[2].params),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_alarms_by_hand():
  """Perfect inversion, none, a collapsed encoder, and equal features."""
  random = np.random.default_rng(0)
  x = jnp.asarray(random.uniform(-1, 1, (6, 4, 4, 1)))
  z = jnp.asarray(random.normal(size=(6, 3)))
  perfect = _inference.alarms(x, x, z, z, z)
  assert perfect["reconstruction_error"] == 0
  np.testing.assert_allclose(perfect["latent_variance_ratio"], 1, rtol=1e-6)
  gray = jnp.zeros_like(x)
  none = _inference.alarms(x, gray, z, 0 * z + 0.3, jnp.ones_like(z))
  np.testing.assert_allclose(none["reconstruction_ratio"], 1, rtol=1e-6)
  np.testing.assert_allclose(none["latent_variance_ratio"], 0, atol=1e-12)
  np.testing.assert_allclose(none["mean_cosine"], 1, rtol=1e-5)
  by_hand = np.mean(np.linalg.norm((np.asarray(x) / 2).reshape(6, -1), axis=1))
  np.testing.assert_allclose(none["reconstruction_error"], by_hand, rtol=1e-6)
  unit = np.asarray(z) / np.linalg.norm(z, axis=1, keepdims=True)
  cosines = (unit @ unit.T)[~np.eye(6, dtype=bool)]
  np.testing.assert_allclose(perfect["mean_cosine"], cosines.mean(), rtol=1e-4)


def test_the_model_and_the_files_are_the_game(played, tmp_path):
  program, states, _ = played
  frozen = execution.put_frozen(program)
  variables = program.variables(states[-1], frozen)
  images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1)))
  again = program.model.reconstruct(variables, images)
  assert again.shape == images.shape
  files = program.export(states[-1], frozen)
  assert {*files} == {"encoder.safetensors", "generator.safetensors"}
  parts = {}
  for name, (tree, about) in files.items():
    weights.save(tmp_path / name, tree, about)
    about = weights.read_metadata(tmp_path / name)
    room = name.split(".")[0]
    made = plugins.make(f"{room}s", about[room], dtype=jnp.float32)
    key = jax.random.key(0)
    like = made.init(key, (8, 8, 1)) if room == "encoder" else made.init(key)
    parts[room] = made, weights.load(tmp_path / name, None, like)
  # What the file's encoder says of the images is what was judged.
  encoder, loaded = parts["encoder"]
  mean, std = 0.5, 0.5
  shown = ((images + 1) / 2 - mean) / std
  np.testing.assert_allclose(
    encoder.apply(loaded, shown, train=False)[0].pooled,
    program.model.encode(variables, images),
    atol=1e-5,
  )
  generator, loaded = parts["generator"]
  z, y = jax.vmap(generator.sample)(jax.random.split(jax.random.key(0), 4))
  np.testing.assert_allclose(
    generator.apply(loaded, z, y),
    generator.apply(variables["generator"], z, y),
    atol=2e-3,  # float16
  )


def test_latents_stay_where_the_prior_is(played):
  """E(x) in -1..1 for the uniform prior; unbounded for the Gaussian."""
  for prior, bounded in (("uniform", True), ("gaussian", False)):
    cfg = config(
      f"program.prior={prior}",
      f"generator.prior={prior}",
      "program.features=latent",
    )
    program = support.open_run(cfg).program
    state = program.init()
    head = {"kernel": 1e6 * state.params["head"]["kernel"]}
    state = state.replace(params=state.params | {"head": head})
    variables = program.variables(state, {})
    images = jax.random.uniform(jax.random.key(0), (9, 8, 8, 1))
    z = program.model.encode(variables, images)
    assert z.shape == (9, 4)
    assert (np.abs(z).max() <= 1) == bounded


@pytest.mark.parametrize(
  "module", [_joint.Dense((6, 5)), _joint.Convolutional((6, 5))]
)
def test_a_discriminator_sees_both_halves_of_a_pair(module):
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  z = jax.random.normal(jax.random.key(1), (4, 3))
  variables = module.init(jax.random.key(2), images, z)
  np.testing.assert_array_equal(module.apply(variables, images, z), 0)
  kernel = variables["params"]["out"]["kernel"]
  params = variables["params"] | {"out": {"kernel": jnp.ones_like(kernel)}}

  def logits(images, z):
    return module.apply({"params": params}, images, z)

  for number in (0, 1):
    slope = jax.jacobian(logits, number)(images, z)
    assert np.abs(slope).max() > 0


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("program.prior=gaussian", "program.prior: given 'gaussian'; allowed: the"),
    ("generator.prior=gaussian", "its z are not within -1..1"),
    ("generator.name=procedural", "generator.name: given 'procedural'"),
    ("generator.side=7", "allowed: the generator's (7, 7, 1)"),
    ("encoder.name=", "encoder.name: given ''"),
    ("program.alarm_images=9", "program.alarm_images: given 9; allowed: 2..8"),
    ("program.d_widths=(8,)", "program.d_widths"),
    ("program.r1_weight=1.0", "program.r1_weight: unknown key"),
    ("source.name=generator", "source.name: given 'generator'"),
  ],
)
def test_bad_input_is_one_line(override, words):
  with pytest.raises(errors.UsageError) as caught:
    _ = support.open_run(config(override)).program
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)

"""BigBiGAN: recorded losses and gradients, rounds, isolation, switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import configs, errors, execution, metrics
from genrep_jax.programs import bigbigan
from tests import fixture_files, support

LOSSES = {"D": bigbigan.d_loss, "EG": bigbigan.eg_loss}
TERMS = ("x", "z", "xz")


def config(*overrides):
  return configs.load("tests/programs/toy_bigbigan.py", overrides)


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("games.npz")


def play(cfg, devices=1, steps=2):
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


def scores(recorded, case):
  return tuple(
    {
      term: jnp.asarray(recorded[f"in/{case}/{kind}_{term}"], jnp.float64)
      for term in TERMS
      if f"in/{case}/{kind}_{term}" in recorded
    }
    for kind in ("real", "fake")
  )


@pytest.mark.parametrize("which", ["full", "nounary", "xonly", "zonly"])
@pytest.mark.parametrize("player", LOSSES)
def test_recorded_losses_and_gradients(recorded, player, which):
  """The sum form; the mean form is it over the number of scores."""
  with jax.enable_x64(True):
    for form in ("sum", "mean"):
      case = f"bigbigan_{player}_{form}_{which}"
      given = scores(recorded, case)
      share = 1 / len(given[0]) if form == "mean" else 1
      value, grads = jax.value_and_grad(LOSSES[player], (0, 1))(*given)
      np.testing.assert_allclose(
        value * share, recorded[f"out/{case}/loss"], rtol=1e-9, atol=1e-12
      )
      for kind, of in zip(("real", "fake"), grads, strict=True):
        for term, gradient in of.items():
          np.testing.assert_allclose(
            gradient * share,
            recorded[f"out/{case}/grad_{kind}_{term}"],
            rtol=1e-9,
            atol=1e-12,
          )


def test_closed_values(recorded):
  """Zero scores, right signs, and a clamp of each score on its own."""
  zero = {term: jnp.zeros(4) for term in TERMS}
  assert bigbigan.d_loss(zero, zero) == 6 and bigbigan.eg_loss(zero, zero) == 0
  real = {term: jnp.full(4, 2.0) for term in TERMS}
  fake = {term: jnp.full(4, -2.0) for term in TERMS}
  assert bigbigan.d_loss(real, fake) == 0
  assert bigbigan.eg_loss(real, fake) == 12
  one = dict(zip(TERMS, jnp.array([[3.0], [-1.0], [0.0]]), strict=True))
  far = {term: jnp.full(1, -9.0) for term in TERMS}
  assert bigbigan.d_loss(one, far) == 3
  with jax.enable_x64(True):
    given = scores(recorded, "bigbigan_D_sum_handmade")
    np.testing.assert_allclose(
      bigbigan.d_loss(*given), recorded["out/bigbigan_D_sum_handmade/loss"]
    )


@pytest.mark.parametrize("player", LOSSES)
def test_recorded_system(recorded, player):
  """A small game: every player's gradient with respect to its own weights."""
  case = f"bigbigan_system_{player}"
  lrelu = lambda x: jnp.where(x > 0, x, 0.2 * x)  # noqa: E731
  with jax.enable_x64(True):
    state = {
      key.removeprefix(f"state/{case}/"): jnp.asarray(value, jnp.float64)
      for key, value in recorded.items()
      if key.startswith(f"state/{case}/")
    }
    x, z, eps = (
      jnp.asarray(recorded[f"in/{case}/{name}"], jnp.float64)
      for name in ("x", "z", "eps")
    )

    def judge(state, images, latents):
      f = jax.nn.relu(images @ state["D.F"])
      h = lrelu(latents @ state["D.H"])
      j = lrelu(jnp.concatenate([f, h], axis=-1) @ state["D.J"])
      return {
        "x": f @ state["D.s_x"],
        "z": h @ state["D.s_z"],
        "xz": j @ state["D.s_xz"],
      }

    def loss(state):
      mean, raw = jnp.split(x @ state["E.w"], 2, axis=-1)
      inferred = mean + jax.nn.softplus(raw) * eps
      return LOSSES[player](
        judge(state, x, inferred), judge(state, jnp.tanh(z @ state["G.w"]), z)
      )

    value, grads = jax.value_and_grad(loss)(state)
    np.testing.assert_allclose(value, recorded[f"out/{case}/loss"], rtol=1e-9)
    own = [key for key in recorded if key.startswith(f"out/{case}/grad_")]
    assert own
    for key in own:
      name = key.removeprefix(f"out/{case}/grad_")
      np.testing.assert_allclose(
        grads[name], recorded[key], rtol=1e-9, atol=1e-12, err_msg=name
      )


def test_a_round_moves_everything_and_averages(played):
  _, states, logged = played
  first, last = states[0], states[-1]
  for of in ("params", "batch_stats", "ema"):
    moved = jax.tree.map(
      lambda a, b: float(np.abs(a - b).max()),
      getattr(first, of),
      getattr(last, of),
    )
    still = [
      jax.tree_util.keystr(path)
      for path, value in jax.tree_util.tree_leaves_with_path(moved)
      if not value > 0
    ]
    # A single score has one singular vector, which is 1 or -1.
    still = [name for name in still if "s_x" not in name and "s_z" not in name]
    assert not still, still
  for values in logged:
    assert np.all(np.isfinite(list(values.values())))
    assert {f"{k}_{t}" for k in ("real", "fake") for t in TERMS} <= {*values}
  counts = {
    name: int(jax.tree.leaves(last.opt_state[name])[0])
    for name in ("discriminator", "inference")
  }
  assert counts == {"discriminator": 4, "inference": 2}


def game_of(cfg):
  """The game itself, through its program."""
  run = support.open_run(cfg)
  return run.program.init.__self__, run.program


def test_phases_move_their_own_player_alone():
  game, program = game_of(config())
  state, frozen = program.init(), execution.put_frozen(program)
  d_phase, eg_phase = game.rules.phases
  after, _ = game.rules.update(d_phase, state, frozen, jnp.int32(0))
  for name in ("encoder", "head", "generator"):
    for a, b in zip(
      jax.tree.leaves(state.params[name]),
      jax.tree.leaves(after.params[name]),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
  # In the discriminator's phase the statistics of E and G stay.
  for name in ("encoder", "generator"):
    for a, b in zip(
      jax.tree.leaves(state.batch_stats[name]),
      jax.tree.leaves(after.batch_stats[name]),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
  then, _ = game.rules.update(eg_phase, after, frozen, jnp.int32(0))
  for a, b in zip(
    jax.tree.leaves(after.params["discriminator"]),
    jax.tree.leaves(then.params["discriminator"]),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_encoder_and_generator_are_moved_by_their_own_pairs():
  game, program = game_of(config())
  state, frozen = program.init(), execution.put_frozen(program)
  given = game.eg_draw(jnp.int32(0), frozen)

  def scored(params):
    return game.play(params, state, given)[:2]

  def of(kind):
    def loss(params):
      values = scored(params)[kind].values()
      return (1, -1)[kind] * sum(jnp.mean(s) for s in values)

    return jax.grad(loss)(state.params)

  whole = jax.grad(lambda params: game.eg_loss(params, state, given)[0])(
    state.params
  )
  real, fake = of(0), of(1)
  for name, own, other in (
    ("encoder", real, fake),
    ("head", real, fake),
    ("generator", fake, real),
  ):
    for got, want, none in zip(
      *(jax.tree.leaves(tree[name]) for tree in (whole, own, other)),
      strict=True,
    ):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)
      np.testing.assert_array_equal(none, 0)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(whole["encoder"]))


def test_draws_are_new_for_every_update():
  game, program = game_of(config())
  frozen = execution.put_frozen(program)
  drawn = [game.d_draw(jnp.int32(i), frozen) for i in range(4)]
  drawn += [game.eg_draw(jnp.int32(i), frozen) for i in range(2)]
  for part in range(3):
    rows = np.stack([np.asarray(one[part]).reshape(-1) for one in drawn])
    assert len(np.unique(rows, axis=0)) == 6
  # 6 batches of 8 of 40 images: the first 40 seen are each seen once.
  order = [0, 1, 4, 2, 3, 5]
  seen = np.concatenate([np.asarray(drawn[i][0]) for i in order])[:40]
  assert len(np.unique(seen.reshape(40, -1), axis=0)) == 40


def test_a_resumed_game_is_the_same_to_the_bit(played):
  program, states, _ = played
  frozen = execution.put_frozen(program)
  state = jax.device_put(jax.device_get(states[1]))
  state, _ = execution.jit(program, 1)(state, frozen)
  for a, b in zip(
    jax.tree.leaves(states[-1]), jax.tree.leaves(state), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_eight_devices_take_the_same_gradients():
  grads = []
  for devices in (1, 8):
    run = support.open_run(config(), devices)
    game, program = run.program.init.__self__, run.program
    state, frozen = execution.initial(program), execution.put_frozen(program)
    made = []
    for phase in game.rules.phases:
      taken = jax.jit(
        lambda state, frozen, phase=phase, game=game: game.rules.gradients(
          phase, state, phase.draw(jnp.int32(0), frozen)
        )[0]
      )
      made.append(jax.device_get(taken(state, frozen)))
    grads.append(made)
  for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
    np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(a).max())
    )


@pytest.mark.parametrize(
  "overrides",
  [
    ("program.stochastic=False",),
    (
      "program.scores=('xz',)",
      "program.prior=uniform",
      "generator.prior=uniform",
    ),
    ("program.scores=('x','xz')", "generator.base_px=2"),
  ],
  ids=["deterministic", "no unaries, uniform", "no z unary, small generator"],
)
def test_switches_of_the_ablation(overrides):
  program, states, logged = play(config(*overrides), steps=1)
  terms = {name.split("_")[1] for name in logged[0] if name.startswith("real_")}
  wanted = TERMS
  for text in overrides:
    if "scores" in text:
      wanted = ("x", "xz") if "'x'" in text else ("xz",)
  assert terms == {*wanted}
  variables = program.variables(states[-1], execution.put_frozen(program))
  images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1)
  assert program.model.encode(variables, images).shape == (3, 6)
  assert program.model.reconstruct(variables, images).shape == images.shape


@pytest.mark.parametrize(
  ("override", "words"),
  [
    (
      "generator.latent_dim=5",
      "generator.latent_dim: given 5; allowed: a",
    ),
    ("program.scores=('x',)", "given ('x',); allowed: z or xz among them"),
    ("program.scores=('z','z')", "allowed: each term once"),
    ("program.d_halvings=3", "program.d_halvings: given 3; allowed: at most 2"),
    ("generator.base_px=3", "allowed: the generator's (6, 6, 1), or k times"),
    ("program.prior=uniform", "program.prior: given 'uniform'; allowed: the"),
    ("encoder.name=", "encoder.name: given ''"),
    ("program.loss=hinge", "program.loss: unknown key"),
  ],
)
def test_bad_input_is_one_line(override, words):
  with pytest.raises(errors.UsageError) as caught:
    _ = support.open_run(config(override)).program
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)

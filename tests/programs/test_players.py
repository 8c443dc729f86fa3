"""Players and phases: simultaneous, sequential and repeated play."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrep_jax.lib import metrics
from genrep_jax.programs import _players, bigan
from tests import fixture_files

RATE = 0.5  # of plain gradient descent, as the fixture has it


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("games.npz")


def lrelu(x):
  return jnp.where(x > 0, x, 0.2 * x)


def play(params, given):
  """The fixture's small BiGAN: (L_D, L_EG)."""
  x, z = given
  e, g, d = params["E"]["w"], params["G"]["w"], params["D"]

  def discriminate(images, latents):
    hidden = lrelu(lrelu(images @ d["x"]) @ d["h"] + latents @ d["z"])
    return hidden @ d["out"]

  inferred = 2 * jax.nn.sigmoid(x @ e) - 1
  return bigan.losses(
    discriminate(x, inferred), discriminate(jax.nn.sigmoid(z @ g), z)
  )


def loss_of(number):
  def loss(params, state, given):
    del state
    value = play(params, given)[number]
    return value, ({f"loss{number}": value}, {})

  return loss


def rules(phases):
  sgd = optax.sgd(RATE)
  return _players.Rules(
    players={
      "D": _players.Player(("D",), sgd),
      "EG": _players.Player(("E", "G"), sgd),
    },
    phases=phases,
    total=("loss0", "loss1"),
  )


def together(draw):
  return (_players.Phase("all", {"D": loss_of(0), "EG": loss_of(1)}, draw),)


def one_after_the_other(draw):
  return (
    _players.Phase("D", {"D": loss_of(0)}, draw),
    _players.Phase("EG", {"EG": loss_of(1)}, draw),
  )


def tree(recorded, prefix):
  made = {}
  for key, value in recorded.items():
    if key.startswith(prefix):
      net, leaf = key.removeprefix(prefix).split(".")
      made.setdefault(net, {})[leaf] = jnp.asarray(value, jnp.float64)
  return made


@pytest.mark.parametrize(
  ("how", "phases"),
  [("simultaneous", together), ("sequential", one_after_the_other)],
)
def test_recorded_rounds(recorded, how, phases):
  """A round against the fixture: whose gradients, taken where."""
  case = "bigan_system_EG"
  with jax.enable_x64(True):
    given = tuple(
      jnp.asarray(recorded[f"in/{case}/{name}"], jnp.float64) for name in "xz"
    )
    made = rules(phases(lambda update, frozen: given))
    state = made.init(tree(recorded, f"state/{case}/"))
    state, collected = jax.jit(made.round)(state, {})
    after = tree(recorded, f"out/{case}/{how}_")
    assert {*after} == {"E", "G", "D"}
    for net, leaves in after.items():
      for leaf, value in leaves.items():
        np.testing.assert_allclose(
          state.params[net][leaf],
          value,
          rtol=1e-9,
          atol=1e-9,
          err_msg=f"{net}.{leaf}",
        )
  assert int(state.step) == 1
  logged = metrics.compute(collected)
  np.testing.assert_allclose(
    logged["loss"], logged["loss0"] + logged["loss1"], rtol=1e-6
  )


def test_gradients_are_each_players_own(recorded):
  """By finite differences: of a player's own networks, at its own loss."""
  case = "bigan_system_EG"
  with jax.enable_x64(True):
    given = tuple(
      jnp.asarray(recorded[f"in/{case}/{name}"], jnp.float64) for name in "xz"
    )
    made = rules(together(lambda update, frozen: given))
    state = made.init(tree(recorded, f"state/{case}/"))
    grads, *_ = made.gradients(made.phases[0], state, given)
    assert {name: {*of} for name, of in grads.items()} == {
      "D": {"D"},
      "EG": {"E", "G"},
    }
    for number, of in enumerate(grads.values()):
      for net, leaves in of.items():
        for leaf, gradient in leaves.items():
          at = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
          ends = []
          for step in (1e-6, -1e-6):
            moved = state.params[net][leaf].at[at].add(step)
            params = state.params | {net: state.params[net] | {leaf: moved}}
            ends.append(float(play(params, given)[number]))
          np.testing.assert_allclose(
            gradient[at], (ends[0] - ends[1]) / 2e-6, rtol=1e-6
          )


def test_repeated_phases_draw_anew_and_hooks_run_in_order():
  """Three updates of one player, then one of the other, for two rounds."""
  seen = []

  def draw(update, frozen):
    return update + frozen

  def loss(params, state, given):
    value = params["a"] * given
    return value, ({"a_loss": value}, {"memory": {"last": given}})

  def count(name):
    def hook(state, update):
      seen.append(name)
      return state.moved(memory={name: state.memory[name] * 10 + update})

    return hook

  other = lambda params, state, given: (params["b"] ** 2, ({"b_loss": 0.0}, {}))  # noqa: E731
  made = _players.Rules(
    players={
      "a": _players.Player(("a",), optax.sgd(1.0)),
      "b": _players.Player(("b",), optax.sgd(0.25)),
    },
    phases=(
      _players.Phase(
        "a", {"a": loss}, draw, 3, count("before"), count("after")
      ),
      _players.Phase("b", {"b": other}, draw),
    ),
    total=("a_loss",),
  )
  memory = {name: jnp.int32(0) for name in ("before", "after", "last")}
  state = made.init({"a": jnp.zeros(()), "b": jnp.ones(())}, memory=memory)
  for _ in range(2):
    state, _ = made.round(state, jnp.int32(5))
  assert seen == ["before", "after"] * 6
  assert int(state.memory["before"]) == int(state.memory["after"]) == 12345
  assert int(state.memory["last"]) == 10
  # SGD of value * given: 5 + 6 + ... + 10; and b is halved twice.
  assert float(state.params["a"]) == -45.0
  assert float(state.params["b"]) == 0.25

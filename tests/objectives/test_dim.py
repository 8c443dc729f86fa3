"""DIM's measures and its prior game against recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import contracts, heads, plugins
from genrep_jax.objectives import dim
from tests import fixture_files


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("games.npz")


def given(recorded, case, *names):
  return [
    jnp.asarray(recorded[f"in/{case}/{name}"], jnp.float64) for name in names
  ]


@pytest.mark.parametrize("where", ["local_{}_B5_M3_C8", "global_{}_B7_M1_C12"])
@pytest.mark.parametrize("measure", ["jsd", "infonce", "dv", "nwj"])
def test_recorded_measures(recorded, where, measure):
  case = "dim_" + where.format(measure)
  with jax.enable_x64(True):
    maps, vectors = given(recorded, case, "local", "glob")
    for chunk in (0, 1):

      def loss(maps, vectors, chunk=chunk):
        return dim.loss(maps, vectors, measure=measure, chunk_rows=chunk)

      value, grads = jax.value_and_grad(loss, (0, 1))(maps, vectors)
      np.testing.assert_allclose(
        value, recorded[f"out/{case}/loss"], rtol=1e-9, atol=1e-12
      )
      for name, gradient in zip(("local", "glob"), grads, strict=True):
        wanted = recorded[f"out/{case}/grad_{name}"]
        np.testing.assert_allclose(
          gradient, wanted, atol=1e-9 * np.abs(wanted).max() + 1e-12
        )


def test_recorded_prior_losses(recorded):
  with jax.enable_x64(True):
    real, fake = given(
      recorded, "dim_prior_logits_P", "critic_real", "critic_fake"
    )
    value, grads = jax.value_and_grad(
      lambda *x: dim.prior_losses(*x)[0], (0, 1)
    )(real, fake)
    out = "out/dim_prior_logits_P"
    np.testing.assert_allclose(value, recorded[f"{out}/loss"], rtol=1e-9)
    for name, gradient in zip(("real", "fake"), grads, strict=True):
      np.testing.assert_allclose(
        gradient, recorded[f"{out}/grad_critic_{name}"], rtol=1e-9
      )
    (fake,) = given(recorded, "dim_prior_logits_E", "critic_fake")
    value, gradient = jax.value_and_grad(lambda x: dim.prior_losses(x, x)[1])(
      fake
    )
    out = "out/dim_prior_logits_E"
    np.testing.assert_allclose(value, recorded[f"{out}/loss"], rtol=1e-9)
    np.testing.assert_allclose(
      gradient, recorded[f"{out}/grad_critic_fake"], rtol=1e-9
    )
  zero = jnp.zeros(5)
  np.testing.assert_allclose(
    dim.prior_losses(zero, zero), [1.386294, 0.693147], rtol=1e-6
  )


def critic_of(recorded, case):
  return [
    {
      leaf: jnp.asarray(recorded[f"state/{case}/P.{i}.{leaf}"], jnp.float64)
      for leaf in ("weight", "bias")
    }
    for i in range(3)
  ]


def score(layers, x):
  for i, layer in enumerate(layers):
    x = x @ layer["weight"].T + layer["bias"]
    x = jax.nn.relu(x) if i < 2 else x
  return x[:, 0]


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_recorded_prior_game(recorded, law):
  """The critic's whole loss with its penalty, and the encoder's."""
  case = f"dim_prior_P_{law}"
  weight = {"uniform": 1.0, "gaussian": 0.5}[law]
  with jax.enable_x64(True):
    real, y = given(recorded, case, "prior", "y")
    fake = jax.nn.sigmoid(y) if law == "uniform" else y

    def critic_loss(layers):
      told, _ = dim.prior_losses(score(layers, real), score(layers, fake))
      slopes = dim.penalty(lambda x: score(layers, x), real, fake)
      return told + weight * slopes

    value, grads = jax.value_and_grad(critic_loss)(critic_of(recorded, case))
    np.testing.assert_allclose(value, recorded[f"out/{case}/loss"], rtol=1e-9)
    for i, layer in enumerate(grads):
      for leaf, gradient in layer.items():
        np.testing.assert_allclose(
          gradient,
          recorded[f"out/{case}/grad_P.{i}.{leaf}"],
          rtol=1e-8,
          atol=1e-10,
        )
    case = f"dim_prior_E_{law}"
    (y,) = given(recorded, case, "y")
    layers = critic_of(recorded, case)

    def encoder_loss(y):
      fake = jax.nn.sigmoid(y) if law == "uniform" else y
      told = score(layers, fake)
      return dim.prior_losses(told, told)[1]

    value, gradient = jax.value_and_grad(encoder_loss)(y)
    np.testing.assert_allclose(value, recorded[f"out/{case}/loss"], rtol=1e-9)
    np.testing.assert_allclose(
      gradient, recorded[f"out/{case}/grad_y"], rtol=1e-9, atol=1e-12
    )


def test_penalty_of_a_linear_critic():
  a = jnp.array([1.0, -2.0, 0.5])
  x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
  np.testing.assert_allclose(
    dim.penalty(lambda x: x @ a, x, 2 * x), jnp.sum(a**2), rtol=1e-6
  )


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_critic_and_encoder_do_not_move_each_other(law):
  """Isolation: each one's gradient is that of its own loss alone."""
  entry = {"name": "dim", "mi_units": 8, "prior": law, "prior_weight": 0.3}
  objective = plugins.make("objectives", entry, heads)
  random = np.random.default_rng(0)
  features = contracts.Features(
    jnp.asarray(random.normal(size=(5, 2, 6)), jnp.float32),
    jnp.asarray(random.normal(size=(5, 2, 3, 3, 4)), jnp.float32),
  )
  params, state = objective.init(jax.random.key(0), features)
  key = jax.random.key(1)

  def parts(params, pooled):
    given = features._replace(pooled=pooled)
    return objective.apply(params, given, None, None, state, key)

  loss, measured, _ = parts(params, features.pooled)
  bare = plugins.make("objectives", entry | {"prior": "none"}, heads)
  without = {k: v for k, v in params.items() if k != "critic"}
  base, *_ = bare.apply(without, features, None, None, state, key)
  np.testing.assert_allclose(
    loss,
    base
    + measured["critic_loss"]
    + measured["critic_penalty"]
    + 0.3 * measured["encoder_prior_loss"],
    rtol=1e-5,
  )
  # Of the critic: its own loss and penalty, whatever the encoder's weight.
  other = plugins.make("objectives", entry | {"prior_weight": 7.0}, heads)

  def critic(objective):
    def loss(of):
      given = params | {"critic": of}
      return objective.apply(given, features, None, None, state, key)[0]

    return jax.grad(loss)(params["critic"])

  for a, b in zip(
    jax.tree.leaves(critic(objective)),
    jax.tree.leaves(critic(other)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.abs(a).max() > 0
  # Of the encoder: the base's and its own term, not the critic's loss.
  zero = plugins.make(
    "objectives", entry | {"prior_weight": 0.0, "prior_penalty": 9.0}, heads
  )

  def encoder(objective, params):
    def loss(pooled):
      given = features._replace(pooled=pooled)
      return objective.apply(params, given, None, None, state, key)[0]

    return jax.grad(loss)(features.pooled)

  np.testing.assert_allclose(
    encoder(zero, params), encoder(bare, without), rtol=1e-5, atol=1e-7
  )
  assert np.abs(encoder(objective, params) - encoder(zero, params)).max() > 0

"""Autoencoder: its terms through a real generator, and a run that learns.

`test_formulas` has its formula, `test_objectives` its heads and devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import run as run_lib
from genrep_jax.lib import contracts, execution, heads, plugins
from genrep_jax.objectives import autoencoder
from tests import support

_B, _V, _F, _Z, _K = 4, 2, 6, 5, 3
_SIZES = {"latent_dim": _Z, "num_classes": _K}

_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@pytest.fixture(scope="module")
def run():
  """(run, arguments): all terms of a head, through a generator of 4x4 px.

  run(params, features, z, y) -> (loss, metrics), gradient of params.
  """
  layers = {"base_px": 2, "widths": (4,), "extra_convs": (0,)}
  generator = plugins.make(
    "generators", {"name": "small", **layers, **_SIZES}, dtype=jnp.float32
  )
  rng = np.random.default_rng(0)

  def normal(x):
    size = np.prod(x.shape[:-1]) ** -0.5
    return rng.normal(scale=size, size=x.shape).astype(np.float32)

  variables = jax.tree.map(
    normal, jax.eval_shape(generator.init, jax.random.key(0))
  )
  variables["batch_stats"] = jax.tree.map(
    lambda x: np.abs(x) + 1, variables["batch_stats"]
  )
  terms = {"latent_weight": 0.5, "pixel_weight": 3.0}
  objective = plugins.make(
    "objectives", {"name": "autoencoder", **terms, **_SIZES}, heads
  )
  features = np.maximum(rng.normal(size=(_B, _V, _F)), 0).astype(np.float32)
  z = rng.normal(size=(_B, _V, _Z)).astype(np.float32)
  y = np.array([0, 2, 1, 2], np.int32)
  abstract = contracts.Features(jax.ShapeDtypeStruct(features.shape, "f4"))
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), abstract)
  params = jax.tree.map(normal, params)

  def render(z, y):
    rows = z.reshape(-1, _Z)
    images = generator.apply(variables, rows, jnp.repeat(y, _V))
    return images.reshape(*z.shape[:2], *images.shape[1:])

  def loss(params, features, z, y):
    views = contracts.Views(
      None,
      latents=z,
      labels=y,
      rendered=render(z, y),
      render=lambda z: render(z, y),
    )
    total, metrics, _ = objective.apply(
      params, contracts.Features(features), views, None, {}, None
    )
    return total, metrics

  step = _jit(jax.value_and_grad(loss, has_aux=True))
  return step, _jit(render), (params, features, z, y)


def _twin(params, features, z, y, render):
  """(Loss, metrics) by loops, in float64; the generator itself is not ours."""

  def linear(name, x):
    layer = params[name]["linear_out"]
    return x.astype(np.float64) @ layer["kernel"] + layer["bias"]

  guess = linear("latent", features)
  made = np.asarray(render(guess.astype(np.float32), y), np.float64)
  images = np.asarray(render(z, y), np.float64)
  cosine = entropy = error = hits = 0.0
  for i in range(_B):
    for a in range(_V):
      g, true = guess[i, a], z[i, a].astype(np.float64)
      cosine += g @ true / np.linalg.norm(g) / np.linalg.norm(true)
      logits = linear("classes", features[i, a])
      entropy += np.log(np.exp(logits).sum()) - logits[y[i]]
      hits += np.argmax(logits) == y[i]
      error += ((made[i, a] - images[i, a]) ** 2).mean()
  n = _B * _V
  total = 0.5 * (entropy / n + 1 - cosine / n) + 3 * error / n
  return total, {
    "latent_cosine": cosine / n,
    "pixel_mse": error / n,
    "pixel_psnr": 10 * np.log10(4 * n / error),
    "class_cross_entropy": entropy / n,
    "class_accuracy": hits / n,
  }


def test_twin_of_value_and_metrics(run):
  step, render, arguments = run
  (value, metrics), _ = step(*arguments)
  want, want_metrics = _twin(*arguments, render)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert metrics.keys() == want_metrics.keys()
  for name, number in want_metrics.items():
    np.testing.assert_allclose(metrics[name], number, rtol=1e-4, err_msg=name)


def test_gradient_goes_through_the_generator(run):
  """Of the heads' params, against differences; mostly that of the pixels."""
  step, _, (params, *rest) = run
  (_, _), grad = step(params, *rest)
  rng = np.random.default_rng(1)
  for name in ("latent", "classes"):
    move = jax.tree.map(
      lambda x, name=name: rng.normal(size=x.shape).astype(np.float32),
      params[name],
    )
    sides = []
    for size in (3e-3, -3e-3):
      moved = jax.tree.map(lambda x, d, s=size: x + s * d, params[name], move)
      sides.append(float(step({**params, name: moved}, *rest)[0][0]))
    want = (sides[0] - sides[1]) / 6e-3
    products = jax.tree.map(lambda g, d: np.sum(g * d), grad[name], move)
    got = float(sum(jax.tree.leaves(products)))
    assert abs(want) > 0.05
    assert abs(got - want) < 0.01 * abs(want) + 1e-3, name


def test_the_true_latents_leave_nothing(run):
  """Where z' = z and the right classes: 0."""
  _, render, (_, _, z, y) = run
  images = render(z, y)
  logits = 50 * np.eye(_K, dtype=np.float32)[np.repeat(y, _V).reshape(_B, _V)]
  labels = np.repeat(y, _V).reshape(_B, _V)
  value = autoencoder.loss(z, z, images, images, logits, labels)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  # The length of z' does not matter to the cosine.
  np.testing.assert_allclose(
    autoencoder.loss(3 * z, z, images, images), 0, atol=1e-6
  )


def test_a_run_learns():
  """The whole step: views before T_x, the generator rendering again."""
  config = support.tiny(
    "objective.name=autoencoder",
    "views.num_views=1",
    "views.latent.name=none",
    *support.NO_PIXEL_VIEW,
    "generator.num_classes=3",
    "generator.latent_dim=4",
    "optimizer.name=adam",
    "optimizer.learning_rate=0.01",
    "schedule.name=constant",
    "sampler.num_anchors=16",
  )
  program = run_lib.Run(config, support.mesh_of(1)).program
  state, frozen = execution.initial(program), execution.put_frozen(program)
  step = execution.jit(program)
  found = []
  for _ in range(12):
    state, measured = step(state, frozen)
    found.append({k: float(x) for k, x in measured.compute().items()})
  first, last = found[0], found[-1]
  assert last["loss"] < 0.8 * first["loss"]
  assert last["pixel_mse"] < first["pixel_mse"]
  assert last["latent_cosine"] > first["latent_cosine"] + 0.1
  assert last["class_cross_entropy"] < first["class_cross_entropy"]

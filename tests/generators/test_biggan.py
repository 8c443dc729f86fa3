"""The small BigGAN against recorded numbers: outputs, state, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import biggan
from genrep_jax.lib import errors, plugins, spectral
from tests import fixture_files
from tests.generators import biggan_keys


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("bigbigan_nets.npz")


def same(got, wanted, **tolerance):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got),
    jax.tree.leaves(wanted),
    strict=True,
  ):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, err_msg=name, **tolerance)


def check(recorded, case, apply, inputs):
  """Evaluation, training, moved state and gradients of a recorded network.

  `apply(variables, *inputs, train)` -> (out, new batch_stats).
  """
  with jax.enable_x64(True):
    one = lambda kind, **k: biggan_keys.part(recorded, f"{kind}/{case}/")  # noqa: E731
    variables = biggan_keys.read(one("state"), np.float64)
    inputs = [jnp.asarray(x, jnp.float64) for x in inputs]
    probe = jnp.asarray(recorded[f"in/{case}/probe"], jnp.float64)
    out = one("out")
    got, _ = apply(variables, *inputs, False)
    np.testing.assert_allclose(got, out["eval"], rtol=1e-9, atol=1e-9)

    def loss(params, *inputs):
      got, stats = apply(variables | {"params": params}, *inputs, True)
      return jnp.sum(got * probe), (got, stats)

    grads, (got, stats) = jax.grad(
      loss, argnums=tuple(range(1 + len(inputs))), has_aux=True
    )(variables["params"], *inputs)
    np.testing.assert_allclose(got, out["train"], rtol=1e-9, atol=1e-9)
    after = {
      key.removeprefix("after_"): value
      for key, value in out.items()
      if key.startswith("after_")
    }
    same(
      stats,
      biggan_keys.read(after, np.float64)["batch_stats"],
      rtol=1e-9,
      atol=1e-9,
    )
    weights = {
      key.removeprefix("grad_"): value
      for key, value in out.items()
      if key.startswith("grad_") and "." in key
    }
    wanted = biggan_keys.read(weights, np.float64)["params"]
    largest = max(np.abs(x).max() for x in jax.tree.leaves(wanted))
    same(grads[0], wanted, rtol=1e-8, atol=1e-9 * largest)
    return grads[1:], out


def test_recorded_generator(recorded):
  net = biggan.BigGAN((8, 8, 8), 4, 3)

  def apply(variables, z, train):
    if not train:
      return net.apply(variables, z, None), variables["batch_stats"]
    out, new = net.apply(variables, z, None, True, mutable=["batch_stats"])
    return out, new["batch_stats"]

  grads, out = check(
    recorded, "generator32", apply, [recorded["in/generator32/z"]]
  )
  np.testing.assert_allclose(grads[0], out["grad_z"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", ["gblock_chunk", "gblock_const_chunk"])
def test_recorded_blocks(recorded, case):
  features = recorded[f"state/{case}/conv1.weight"].shape[0]
  block = biggan.Block(features)
  names = ["x", "y"]
  inputs = [recorded[f"in/{case}/{name}"] for name in names]
  constant = recorded.get(f"in/{case}/constant")

  def apply(variables, x, y, train):
    if constant is not None:
      shared = jnp.broadcast_to(constant, (len(y), len(constant)))
      y = jnp.concatenate([shared, y], axis=-1)
    out, new = block.apply(
      variables, x, y, train=train, mutable=["batch_stats"]
    )
    return out, new["batch_stats"]

  grads, out = check(recorded, case, apply, inputs)
  for name, gradient in zip(names, grads, strict=True):
    np.testing.assert_allclose(
      gradient, out[f"grad_{name}"], rtol=1e-8, atol=1e-8
    )


def test_a_step_of_power_iteration_nears_the_largest_singular_value():
  random = np.random.default_rng(0)
  matrix = jnp.asarray(random.normal(size=(7, 5)))
  u = jnp.asarray(random.normal(size=5))
  for _ in range(200):
    sigma, u = spectral.step(matrix, u)
  np.testing.assert_allclose(
    sigma, np.linalg.svd(matrix, compute_uv=False)[0], rtol=1e-5
  )


def test_the_constant_stands_before_each_chunk():
  entry = {"name": "biggan", "latent_dim": 9, "widths": (4, 4), "base_px": 2}
  plain = plugins.make("generators", entry)
  made = plugins.make("generators", entry | {"constant": 5})
  variables = made.init(jax.random.key(0))
  assert made.resolution == (8, 8) and made.channels == 3
  z, y = jax.vmap(made.sample)(jax.random.split(jax.random.key(1), 3))
  images = made.apply(variables, z, y)
  kernels = {}
  for name in ("block_0", "block_1"):
    block = dict(variables["params"][name])
    for of in ("bn1_gain", "bn1_bias", "bn2_gain", "bn2_bias"):
      assert block[of]["kernel"].shape == (8, 4)
      # Without the constant's rows the condition is the chunk alone.
      block[of] = {"kernel": block[of]["kernel"][5:]}
    kernels[name] = block
  silent = variables["params"] | {"constant": jnp.zeros(5)}
  rows = {k: v for k, v in silent.items() if k != "constant"} | kernels
  stats = variables["batch_stats"]
  zero = made.apply({"params": silent, "batch_stats": stats}, z, y)
  assert np.abs(images - zero).max() > 0
  assert jax.tree.structure(rows) == jax.tree.structure(
    plain.init(jax.random.key(0))["params"]
  )


def test_z_that_does_not_split_is_refused():
  with pytest.raises(
    errors.UsageError, match="latent_dim: given 81; allowed: a"
  ):
    plugins.make("generators", {"name": "biggan", "latent_dim": 81})

"""BigBiGAN's discriminator and head against recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.programs import _scores
from tests import fixture_files
from tests.generators import biggan_keys
from tests.generators.test_biggan import check


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("bigbigan_nets.npz")


def applied(module, of=lambda out: out):
  def apply(variables, *inputs):
    *inputs, train = inputs
    out, new = module.apply(
      variables, *inputs, train=train, mutable=["batch_stats"]
    )
    return of(out), new["batch_stats"]

  return apply


BLOCKS = {
  "dblock_first_down": _scores.ImageBlock(6, True, True),
  "dblock_first_same": _scores.ImageBlock(6, True, False),
  "dblock_down": _scores.ImageBlock(12, False, True),
  "dblock_same": _scores.ImageBlock(6, False, False),
  "dblock_widen": _scores.ImageBlock(12, False, False),
  "trunk": _scores.Trunk((6, 6, 6, 6), 2),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_recorded_images(recorded, case):
  grads, out = check(
    recorded, case, applied(BLOCKS[case]), [recorded[f"in/{case}/x"]]
  )
  np.testing.assert_allclose(grads[0], out["grad_x"], rtol=1e-8, atol=1e-8)


def test_recorded_scores(recorded, monkeypatch):
  case = "joint_scores"

  def layer(key):
    parts = key.split(".")
    if parts[0] in "HJ":
      return [f"{parts[0]}_block_{parts[2]}", *parts[3:]]
    return parts

  monkeypatch.setattr(biggan_keys, "layer", layer)
  module = _scores.Scores(8, 3)
  grads, out = check(
    recorded,
    case,
    applied(module, lambda s: jnp.stack([s["x"], s["z"], s["xz"]], axis=-1)),
    [recorded[f"in/{case}/{name}"] for name in ("f", "z")],
  )
  for name, gradient in zip(("f", "z"), grads, strict=True):
    np.testing.assert_allclose(
      gradient, out[f"grad_{name}"], rtol=1e-8, atol=1e-9
    )


def test_recorded_head(recorded, monkeypatch):
  case = "latent_head"

  def layer(key):
    parts = key.split(".")
    if parts[0] == "blocks":
      return [f"block_{parts[1]}", *parts[2:]]
    return parts

  monkeypatch.setattr(biggan_keys, "layer", layer)
  module = _scores.LatentHead(3, 12)
  with jax.enable_x64(True):
    state = biggan_keys.part(recorded, f"state/{case}/")
    params = biggan_keys.read(state, np.float64)["params"]
    h, eps = (
      jnp.asarray(recorded[f"in/{case}/{name}"], jnp.float64)
      for name in ("h", "eps")
    )
    mean, stdev = module.apply({"params": params}, h)
    out = biggan_keys.part(recorded, f"out/{case}/")
    np.testing.assert_allclose(mean, out["mu"], rtol=1e-9)
    np.testing.assert_allclose(stdev, out["sigma"], rtol=1e-9)
    np.testing.assert_allclose(mean + stdev * eps, out["eval"], rtol=1e-9)

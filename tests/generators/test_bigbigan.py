"""BigBiGAN's generator against recorded outputs of the PyTorch port."""

import ast
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import _biggan, bigbigan
from genrep_jax.lib import errors, options as options_lib, plugins
from tests import fixture_files

ATOL = 1e-5
NAME = "blocks.2.0.conv1.weight"


def make(options):
  return plugins.make("generators", {"name": "bigbigan", **options})


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("bigbigan_ch8.npz")


@pytest.fixture(scope="module")
def arrays(recorded):
  return fixture_files.state(recorded)


@pytest.fixture(scope="module")
def run(arrays):
  _, options = bigbigan.convert(arrays, output_epsilon=1e-5)
  return jax.jit(
    lambda v, z: dict(bigbigan.activations(options, jnp.float32, v, z))
  )


def test_images_activations_and_a_zero_latent(arrays, recorded, run):
  assert json.loads(str(recorded["meta"]))["atol"] == ATOL
  variables, _ = bigbigan.convert(arrays)
  out = run(variables, recorded["in/z"])
  np.testing.assert_allclose(out["images"], recorded["out/images"], atol=ATOL)
  for mid, name in (
    ("linear", "stem"),
    ("block0", "block_0"),
    ("attention", "attention"),
  ):
    np.testing.assert_allclose(
      out[name][:1], recorded[f"mid/{mid}"], atol=ATOL, err_msg=mid
    )
  zero = run(variables, np.zeros((2, 120), np.float32))["images"][:1]
  np.testing.assert_allclose(zero, recorded["out/images_zero_z"], atol=ATOL)


def test_the_default_epsilon_is_the_originals(arrays, recorded):
  variables, options = bigbigan.convert(arrays)
  assert options["output_epsilon"] == 1e-4 and options["ch"] == 8
  generator = make(options)
  drawn = jax.eval_shape(generator.init, jax.random.key(0))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, drawn)
  images = jax.jit(generator.apply)(variables, recorded["in/z"], np.zeros(2))
  right = recorded["out/images_out_eps1e-4"]
  np.testing.assert_allclose(images, right, atol=ATOL)
  # The effect of this epsilon is small, and still six times the tolerance.
  assert np.abs(images - recorded["out/images"]).max() > 6 * ATOL


def test_the_latent_is_an_uncut_normal():
  generator = make({})
  z, y = jax.vmap(generator.sample)(jax.random.split(jax.random.key(0), 200))
  assert z.shape == (200, 120) and np.abs(z).max() > 3
  assert abs(np.std(z) - 1) < 0.02 and (y == 0).all()


def swap_condition(path, x):
  is_norm = path[-1] in ("gain_kernel", "bias_kernel")
  return np.roll(x, 20, axis=0) if is_norm else x


CONTROLS = {
  "concat order": swap_condition,
  "attention gamma": lambda path, x: 0 * x if path[-1] == "gamma" else x,
  "eps": lambda path, x: x - np.float32(9e-5) if path[-1] == "var" else x,
  "chunk of the stem": lambda path, x: (
    x[::-1] if path == ("stem", "kernel") else x
  ),
}


def error(run, recorded, variables):
  images = run(variables, recorded["in/z"])["images"]
  return np.abs(images - recorded["out/images"]).max()


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_convention_breaks_parity(arrays, recorded, run, control):
  variables, _ = bigbigan.convert(arrays)
  wrong = jax.tree_util.tree_map_with_path(
    lambda path, x: CONTROLS[control](tuple(key.key for key in path), x),
    variables,
  )
  # 1e-5 instead of 1e-4 in every norm moves these images by 8e-5 only.
  factor = 5 if control == "eps" else 10
  assert error(run, recorded, wrong) > factor * ATOL


@pytest.mark.parametrize("part", ["stem rows", "sigma", "statistics"])
def test_a_wrong_conversion_breaks_parity(
  arrays, recorded, run, monkeypatch, part
):
  arrays = dict(arrays)
  if part == "stem rows":
    monkeypatch.setattr(bigbigan, "_to_nhwc", lambda x: x)
  elif part == "sigma":
    step = _biggan.stepped_sigma
    monkeypatch.setattr(
      _biggan, "stepped_sigma", lambda w, u: step(w, u) if w.ndim == 2 else 1.0
    )
  else:
    mean = arrays["blocks.1.0.bn1.stored_mean"]
    arrays["blocks.1.0.bn1.stored_mean"] = mean[::-1]
  variables, _ = bigbigan.convert(arrays)
  assert error(run, recorded, variables) > 10 * ATOL


def test_dropping_the_plus_one_breaks_parity(arrays, recorded, monkeypatch):
  right = _biggan.modulation

  def wrong(*arguments):
    gain, bias = right(*arguments)
    return gain - 1, bias

  monkeypatch.setattr(_biggan, "modulation", wrong)
  variables, options = bigbigan.convert(arrays, output_epsilon=1e-5)
  apply = jax.jit(make(options).apply)
  images = apply(variables, recorded["in/z"], np.zeros(2))
  assert np.abs(images - recorded["out/images"]).max() > 10 * ATOL


def test_keys_of_the_real_model():
  lines = fixture_files.path("bigbigan_keys.txt").read_text().splitlines()
  listed = {k: ast.literal_eval(s) for k, s in (x.split("\t") for x in lines)}
  assert (
    bigbigan.expected_keys(options_lib.defaults(bigbigan.OPTIONS)) == listed
  )


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda a: a.pop(NAME), f"missing {NAME}"),
    (lambda a: a.update(other=a[NAME]), "unexpected other"),
    (
      lambda a: a.update({NAME + "_orig": a.pop(NAME)}),
      f"{NAME} (is it {NAME}_orig?)",
    ),
    (lambda a: a.update({NAME: a[NAME][1:]}), f"mis-shaped {NAME}"),
    (
      lambda a: a.update(
        {"shared.weight": a["shared.weight"] + np.eye(1000, 128)}
      ),
      "class-conditional BigGAN?",
    ),
  ],
)
def test_another_checkpoint_is_refused_by_name(arrays, change, words):
  arrays = dict(arrays)
  change(arrays)
  with pytest.raises(errors.UsageError) as refused:
    bigbigan.convert(arrays)
  assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
  "options", [{"ch": 6}, {"latent_dim": 121}, {"output_epsilon": 0.0}]
)
def test_bad_options_are_refused(options):
  with pytest.raises(errors.UsageError, match=next(iter(options))):
    make(options)

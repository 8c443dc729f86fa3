"""BigBiGAN's generator read under the names TensorFlow Hub gives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.generators import bigbigan, biggan_deep
from genrep_jax.generators.contrib import biggan_tf
from genrep_jax.lib import errors, options as options_lib
from tests import fixture_files

ATOL = 1e-5
from_tensorflow = bigbigan.CONVERTER.from_tensorflow
ROOT = "GenEncWrapper/Generator/"
CONV = f"{ROOT}GBlock_2/conv0/w/ema_0.9999"


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("bigbigan_ch8.npz")


@pytest.fixture(scope="module")
def port(recorded):
  return fixture_files.state(recorded)


@pytest.fixture(scope="module")
def run(port):
  _, options = bigbigan.convert(port, output_epsilon=1e-5)
  return jax.jit(
    lambda v, z: dict(bigbigan.activations(options, jnp.float32, v, z))
  )


def tensorflow_file(port, stem_is_nhwc=True, z_first=True):
  """Renames and turns the port's tensors by hand, the other way round."""
  file = {}
  rng = np.random.default_rng(0)

  def variable(name, x, averaged=True):
    if averaged:
      file[f"{ROOT}{name}/ema_0.9999"] = x
      x = rng.normal(size=x.shape).astype(np.float32)  # not the model
    file[ROOT + name] = x

  def stem(x):  # [..., 128 * 16], of (128, 4, 4)
    if stem_is_nhwc:
      parts = np.stack(np.split(x, 128, axis=-1), axis=-1)
      x = parts.reshape(*x.shape)
    return x

  def layer(name, key, bias=True, turn=lambda w: w.T):
    variable(f"{name}/w", turn(port[f"{key}.weight"]))
    variable(f"{name}/u0", port[f"{key}.u0"], averaged=False)
    variable(f"{name}/u1", port[f"{key}.sv0"], averaged=False)
    if bias:
      variable(f"{name}/b", port[f"{key}.bias"])

  def statistics(name, key):
    variable(f"{name}/accumulated_mean", port[f"{key}.stored_mean"], False)
    variable(f"{name}/accumulated_var", port[f"{key}.stored_var"], False)
    variable(f"{name}/accumulation_counter", np.float32(1), False)

  def hwio(w):
    return np.einsum("oihw->hwio", w)

  def condition(w):
    rows = w.T
    return np.vstack([rows[128:], rows[:128]]) if z_first else rows

  variable("linear/w", port["shared.weight"][:1])
  layer("GenZ/G_linear", "linear", turn=lambda w: stem(w.T))
  for leaf in ("b", "b/ema_0.9999", "u0"):
    name = f"{ROOT}GenZ/G_linear/{leaf}"
    file[name] = stem(file[name])
  for i in range(5):
    block, key = "GBlock" + (f"_{i}" if i else ""), f"blocks.{i}.0"
    layer(f"{block}/conv0", f"{key}.conv1", turn=hwio)
    layer(f"{block}/conv1", f"{key}.conv2", turn=hwio)
    layer(f"{block}/conv_sc", f"{key}.conv_sc", turn=hwio)
    for norm, bn in (("BatchNorm", "bn1"), ("BatchNorm_1", "bn2")):
      statistics(f"{block}/{norm}", f"{key}.{bn}")
      layer(f"{block}/{norm}/scale", f"{key}.{bn}.gain", False, condition)
      layer(f"{block}/{norm}/offset", f"{key}.{bn}.bias", False, condition)
  for name, key in zip(
    ("theta", "phi", "g", "o_conv"), ("theta", "phi", *"go")
  ):
    layer(f"attention/{name}", f"blocks.3.1.{key}", False, hwio)
  variable("attention/gamma", port["blocks.3.1.gamma"].reshape(1))
  statistics("BatchNorm", "output_layer.0")
  for name, key in (("scale", "gain"), ("offset", "bias")):
    x = port[f"output_layer.0.{key}"]
    variable(f"BatchNorm/{name}", x.reshape(1, 1, 1, -1))
  layer("conv_2d", "output_layer.2", turn=hwio)
  return file | {
    "GenEncWrapper/Encoder/conv/w": np.full(3, np.nan),
    "Discriminator/linear/w": np.zeros(2),
    "global_step": np.int64(1),
  }


def error(run, recorded, file, **options):
  arrays = from_tensorflow(file, **options)
  variables, _ = bigbigan.convert(arrays)
  images = run(variables, recorded["in/z"])["images"]
  return np.abs(images - recorded["out/images"]).max()


def test_the_images_are_the_recorded_ones(recorded, port, run):
  file = tensorflow_file(port)
  arrays = from_tensorflow(file)
  for key, x in port.items():
    if "sv0" not in key:  # the port only logs it
      want = x[:1] if key == "shared.weight" else x
      np.testing.assert_array_equal(arrays[key], want, err_msg=key)
  assert arrays.keys() == port.keys()
  assert error(run, recorded, file) < ATOL


@pytest.mark.parametrize("wrong", ["z_first", "stem_is_nhwc"])
def test_another_order_breaks_parity(recorded, port, run, wrong):
  file = tensorflow_file(port, **{wrong: False})
  assert error(run, recorded, file) > 10 * ATOL


def test_sums_of_statistics_are_divided_on_request(recorded, port, run):
  file = tensorflow_file(port)
  for name, x in file.items():
    if "accumula" in name:  # three batches, summed
      file[name] = 3 * x
  assert error(run, recorded, file, divide_by_counter=True) < ATOL
  assert error(run, recorded, file) > 10 * ATOL
  name = f"{ROOT}GBlock_1/BatchNorm_1/accumulation_counter"
  for counter in (0, np.ones(2)):
    file[name] = np.asarray(counter)
    with pytest.raises(errors.UsageError, match=f"{name} must hold a number"):
      from_tensorflow(file, divide_by_counter=True)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda f: f.pop(CONV), "missing GBlock_2/conv0/w/ema_0.9999"),
    (
      lambda f: f.update({f"{ROOT}GBlock_2/conv2/w": f[CONV]}),
      "unexpected GBlock_2/conv2/w",
    ),
    (
      lambda f: f.update({CONV: f[CONV].transpose(0, 1, 3, 2)}),
      "mis-shaped GBlock_2/conv0/w/ema_0.9999 (3, 3, 32, 64) instead of",
    ),
    (
      lambda f: f.update({f"{ROOT}conv2d/w": f.pop(f"{ROOT}conv_2d/w")}),
      "unexpected conv2d/w",
    ),
    (lambda f: f.update({CONV: f[CONV] * np.nan}), "not finite GBlock_2/conv0"),
    (
      lambda f: [f.pop(name) for name in list(f) if name.startswith(ROOT)],
      "none of 3 variables begins with GenEncWrapper/Generator/",
    ),
  ],
)
def test_another_file_is_refused_by_name(port, change, words):
  file = tensorflow_file(port)
  change(file)
  with pytest.raises(errors.UsageError) as refused:
    from_tensorflow(file)
  assert words in str(refused.value) and "\n" not in str(refused.value)


def test_the_table_names_every_key_of_the_release():
  keys = bigbigan.expected_keys(options_lib.defaults(bigbigan.OPTIONS))
  named = [biggan_tf._variable(key) for key in keys if ".sv0" not in key]
  assert len(set(named)) == len(named)
  # What the public converter spells out.
  assert "linear/w/ema_0.9999" in named
  assert "GBlock/BatchNorm_1/accumulated_mean" in named
  assert "BatchNorm/scale/ema_0.9999" in named


def test_biggan_deep_points_to_the_file_that_is_whole():
  with pytest.raises(errors.UsageError) as refused:
    biggan_deep.CONVERTER.from_tensorflow(
      {"Generator/GenZ/G_linear/w": np.zeros(1)}
    )
  line = str(refused.value)
  assert "batch statistics" in line and "pytorch_model.bin" in line
  assert "\n" not in line

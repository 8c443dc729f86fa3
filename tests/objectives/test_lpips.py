"""LPIPS: the package's own numbers, strict files, and its way into a run.

fixtures/lpips.npz: package lpips 0.1.4 in float64, net="vgg" over torchvision's
VGG-16 with other channels (`vgg.cfgs["D"]` replaced by 3, 4, M, 5, 4, M, 6, 5,
7, M, 8, 6, 7, M, 7, 9, 6, M; NetLinLayer made as wide), kernels and biases
normal, linear layers uniform in [0, 1]. "state/": its state dict. "out/": its
distances of two pairs of 18x23 pixels, "grad/": the gradients of
d_0 + 2 d_1 by both images; gray: their first channel, repeated.
"""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import run as run_lib
from genrep_jax.lib import (
  contracts,
  errors,
  execution,
  heads,
  mesh as mesh_lib,
  plugins,
  trees,
  weights,
)
from genrep_jax.objectives import _lpips, autoencoder
from genrep_jax.tools import convert_weights
from tests import fixture_files, support

_LIN = "lin2.model.1.weight"
_CONV = "net.slice3.12.weight"
_KEY = "objective.lpips_weights"

_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@pytest.fixture(scope="module")
def recorded():
  """The fixture, key -> array."""
  return fixture_files.arrays("lpips.npz")


@pytest.fixture(scope="module")
def state(recorded):
  """The package's state dict."""
  return fixture_files.state(recorded)


@pytest.fixture(scope="module")
def thin(state):
  """Its weights, as `distance` takes them."""
  return autoencoder.CONVERTER.convert(state)[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """The weights as the command converts them."""
  source = fixture_files.path("lpips.npz")
  out = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
  words = ["--arch", "objectives/autoencoder", "--subtree", "state"]
  convert_weights.main([*words, "--source", str(source), "--out", str(out)])
  return out


@_jit
def _slope(weights, a, b):
  """(Distances [2], gradient of d_0 + 2 d_1 by a)."""

  def total(a):
    d = _lpips.distance(weights, a, b)
    return d @ jnp.arange(1.0, 3.0), d

  grad, d = jax.grad(total, has_aux=True)(a)
  return d, grad


@pytest.fixture(scope="module")
def measured(recorded, thin):
  """{pair: (distances, gradient by its first image)}."""
  a, b = recorded["in/a"], recorded["in/b"]
  gray_a, gray_b = (np.repeat(x[..., :1], 3, axis=-1) for x in (a, b))
  pairs = {
    "rgb_a": (a, b),
    "rgb_b": (b, a),
    "gray_a": (gray_a, gray_b),
    "gray_b": (gray_b, gray_a),
    "equal": (a, a),
  }
  return {name: _slope(thin, *pair) for name, pair in pairs.items()}


@pytest.mark.parametrize("kind", ["rgb", "gray"])
def test_the_packages_values_and_gradients(recorded, measured, kind):
  for name in "ab":
    distances, grad = measured[f"{kind}_{name}"]
    want = recorded[f"out/{kind}"]
    np.testing.assert_allclose(distances, want, rtol=3e-6)
    if kind == "gray":
      grad = grad.sum(-1, keepdims=True)
    want = recorded[f"grad/{kind}_{name}"]
    assert np.abs(want).max() > 0.2
    np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-5)


def test_a_distance(recorded, thin, measured):
  np.testing.assert_array_equal(measured["rgb_a"][0], measured["rgb_b"][0])
  nothing, flat = measured["equal"]
  np.testing.assert_array_equal(nothing, 0)
  np.testing.assert_array_equal(flat, 0)
  gray = (recorded[f"in/{name}"][..., :1] for name in "ab")
  np.testing.assert_allclose(
    _jit(_lpips.distance)(thin, *gray), measured["gray_a"][0], rtol=1e-6
  )


def test_where_no_channel_is_alive_gradients_are_finite(recorded, thin):
  """A norm's slope is infinite there; ReLU lets none of it through."""
  dead = dict(thin)
  dead["conv3_1"] = {**thin["conv3_1"], "bias": np.full(6, -1e3, np.float32)}
  dead["conv3_2"] = {**thin["conv3_2"], "bias": np.full(5, -1.0, np.float32)}
  distances, grad = _slope(dead, recorded["in/a"], recorded["in/b"])
  assert np.isfinite(distances).all() and np.all(distances > 0)
  assert np.isfinite(grad).all() and np.any(grad != 0)


def test_epsilon_is_beside_the_norm(recorded, thin):
  """Features as short as it are far from unit vectors."""
  a, b = recorded["in/a"], recorded["in/b"]
  short = {name: 1e-11 * x for name, x in thin["conv5_3"].items()}
  weights = {**thin, "conv5_3": short}
  maps = [_jit(_lpips.features)(weights, x) for x in (a, b)]

  def by_hand(epsilon):
    total = 0
    for layer, pair in enumerate(zip(*maps, strict=True), 1):
      pair = [np.asarray(x, np.float64) for x in pair]
      norms = [np.sqrt((x**2).sum(-1, keepdims=True)) for x in pair]
      u, v = (x / (n + epsilon) for x, n in zip(pair, norms, strict=True))
      total += (thin[f"lin{layer}"] * (u - v) ** 2).sum(-1).mean((1, 2))
    return total

  distances, _ = _slope(weights, a, b)
  np.testing.assert_allclose(distances, by_hand(1e-10), rtol=1e-5)
  assert np.all(distances < 0.999 * by_hand(1e-30))


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda a: a.pop(_CONV), ["missing", _CONV]),
    (lambda a: a.pop("lins.2.model.1.weight"), ["missing lins.2.model"]),
    (lambda a: a.update(more=a[_LIN]), ["unexpected more"]),
    (lambda a: a.update({_LIN: a[_LIN][:, :2]}), ["mis-shaped", _LIN]),
    (lambda a: a.update({_CONV: a[_CONV] * np.nan}), ["not finite", _CONV]),
    (lambda a: a.update({_LIN: -a[_LIN]}), [_LIN, "negative"]),
    (lambda a: a.update({_LIN: 2 * a[_LIN]}), [_LIN, "lins.2", "differ"]),
    (
      lambda a: a.update({"scaling_layer.scale": 0 * a["scaling_layer.scale"]}),
      ["scaling_layer.scale", "0.458"],
    ),
  ],
)
def test_another_state_dict_is_refused(state, change, words):
  arrays = dict(state)
  change(arrays)
  with pytest.raises(errors.UsageError) as caught:
    autoencoder.CONVERTER.convert(arrays)
  line = str(caught.value)
  assert "\n" not in line
  for word in words:
    assert word in line, line


def test_the_keys_of_the_published_network(state):
  keys = _lpips.expected_keys()
  assert keys.keys() == state.keys() and len(keys) == 38
  assert keys["net.slice5.28.weight"] == (512, 512, 3, 3)
  assert keys["lin4.model.1.weight"] == (1, 512, 1, 1)
  convolutions = (k for k in keys if k.startswith("net."))
  assert sum(np.prod(keys[k]) for k in convolutions) == 14_714_688


def test_the_file_of_the_command(thin, file, tmp_path):
  digest = weights.sha256(file)
  got = _lpips.read(_KEY, str(file), digest)
  jax.tree.map(np.testing.assert_array_equal, got, thin)
  other, cut = tmp_path / "other.safetensors", tmp_path / "cut.safetensors"
  weights.save(other, {"x": np.zeros(3)}, {"generator": {"name": "small"}})
  weights.save(cut, {"x": np.zeros(3)}, weights.read_metadata(file))
  (tmp_path / "a.pth").write_bytes(pickle.dumps({"x": 1}))
  for path, sha256, words in (
    (tmp_path / "none", "", "no file"),
    (tmp_path / "a.pth", "", "a pickle"),
    (other, "", f"{_KEY}: given .*; allowed: LPIPS weights"),
    (cut, "", "conv1_1/bias: missing"),
    (file, "0" * 64, f"has sha256 {digest}, the config says 0000"),
    ("hf://me/it/f@main", "", "give the sha256"),
  ):
    with pytest.raises(errors.UsageError, match=words) as caught:
      _make(path, lpips_sha256=sha256)
    assert "\n" not in str(caught.value)


def _make(file, **changes):
  entry = {"name": "autoencoder", "latent_dim": 4, "lpips_weights": str(file)}
  return plugins.make("objectives", entry | changes, heads)


def test_bad_options(file, thin):
  for key, value in (("lpips_weight", -1.0), ("lpips_weight", np.inf)):
    for path in (file, ""):
      with pytest.raises(errors.UsageError, match=f"{key}: given {value}"):
        _make(path, **{key: value})
  zeros = {"latent_weight": 0.0, "pixel_weight": 0.0}
  _make(file, **zeros)
  with pytest.raises(errors.UsageError, match="allowed: a weight > 0"):
    _make("", **zeros)
  with pytest.raises(errors.UsageError, match="lpips_weight.*a weight > 0"):
    _make(file, lpips_weight=0.0, **zeros)
  for shape in ((1, 15, 16, 3), (1, 16, 15, 1), (1, 16, 16, 2)):
    images = jnp.zeros(shape)
    with pytest.raises(errors.UsageError, match="16x16 pixels of 1 or 3"):
      _lpips.distance(thin, images, images)


def test_small_images_are_refused_before_anything_runs(file):
  config = support.tiny(*support.NO_PIXEL_VIEW, "objective.name=autoencoder")

  def made(base_px, path):
    config.generator.base_px, config.objective.lpips_weights = base_px, path
    return run_lib.Run(config, support.mesh_of(1)).objective

  with pytest.raises(errors.UsageError) as caught:
    made(3, str(file))
  line = "images of 12x12 pixels; it needs at least 16x16"
  assert line in str(caught.value)
  assert made(4, str(file)).min_px == 16
  assert made(3, "").min_px == 0


@pytest.fixture(scope="module")
def shown():
  """(Features, a function of frozen weights to Views) of a linear generator."""
  rng = np.random.default_rng(0)
  basis = rng.normal(size=(4, 18, 23, 3)).astype(np.float32)
  z = rng.normal(size=(1, 2, 4)).astype(np.float32)

  def render(z):
    return jnp.tanh(jnp.tensordot(z, basis, 1))

  features = rng.normal(size=(1, 2, 5)).astype(np.float32)
  views = contracts.Views(None, z, rendered=render(z), render=render)
  return contracts.Features(features), lambda w: views._replace(frozen=w)


def _apply(objective, shown, state=None):
  """Returns a function of params and frozen weights: (loss, metrics)."""
  features, views = shown

  def run(params, frozen):
    arguments = features, views(frozen), None, state or {}, jax.random.key(0)
    return objective.apply(params, *arguments)[:2]

  return run


def _params(seed=1):
  kernel = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
  layer = {"kernel": kernel, "bias": np.zeros(4, np.float32)}
  return {"latent": {"linear_out": layer}}


def test_the_loss_is_the_sum_of_its_parts(file, thin, shown):
  """And so is its gradient, which reaches the head through the images."""
  options = {"latent_weight": 0.5, "pixel_weight": 3.0, "lpips_weight": 0.7}
  runs = []
  for path in (file, ""):
    objective = _make(path, **options)
    assert (objective.frozen is None) == (path == "")
    run = _jit(jax.value_and_grad(_apply(objective, shown), has_aux=True))
    runs.append(run(_params(), objective.frozen))
  ((total, metrics), grads), ((plain, others), slope) = runs
  features, views = shown
  views = views(None)
  kernel = _params()["latent"]["linear_out"]["kernel"]
  guess = features.pooled @ kernel
  made, pull = jax.vjp(lambda k: views.render(features.pooled @ k)[0], kernel)
  distances, by_image = _slope(thin, made, views.rendered[0])
  np.testing.assert_allclose(metrics["lpips"], np.mean(distances), rtol=1e-5)
  assert "lpips" not in others
  for name, value in others.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
  want = plain + 0.7 * np.mean(distances)
  np.testing.assert_allclose(total, want, rtol=1e-5)
  arrays = guess, views.latents, made[None], views.rendered
  value = autoencoder.loss(*arrays, perceptual=distances[None], **options)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  # Not finite differences: where a channel wakes up, LPIPS jumps.
  (by_head,) = pull(by_image * np.float32([0.5, 0.25])[:, None, None, None])
  assert np.abs(by_head).max() > 0.1
  np.testing.assert_allclose(
    grads["latent"]["linear_out"]["kernel"],
    slope["latent"]["linear_out"]["kernel"] + 0.7 * by_head,
    rtol=1e-3,
    atol=1e-3,
  )


def test_a_sum_gives_each_term_its_own(file, thin, shown, tmp_path):
  half = {
    name: 0.5 * x if name.startswith("lin") else x for name, x in thin.items()
  }
  other = tmp_path / "half.safetensors"
  weights.save(other, half, weights.read_metadata(file))
  options = {"name": "autoencoder", "latent_dim": 4}
  terms = {
    "whole": {**options, "lpips_weights": str(file)},
    "half": {**options, "lpips_weights": str(other)},
    "none": options,
  }

  def made(terms):
    entry = {"name": "weighted", "terms": terms}
    return plugins.make("objectives", entry, heads)

  objective = made(terms)
  assert set(objective.frozen) == {"whole", "half"}
  assert objective.min_px == 16
  params = {label: _params() for label in terms}
  run = _apply(objective, shown, {label: {} for label in params})
  _, metrics = _jit(run)(params, objective.frozen)
  np.testing.assert_allclose(
    metrics["half_lpips"], 0.5 * metrics["whole_lpips"], rtol=1e-6
  )
  assert "none_lpips" not in metrics and metrics["half_lpips"] > 0
  assert made({"none": options}).frozen is None


def test_a_run_is_given_the_weights(file, thin):
  """As arguments of the program, on every device, and in no checkpoint."""
  config = support.tiny(
    "objective.name=autoencoder",
    f"objective.lpips_weights={file}",
    f"objective.lpips_sha256={weights.sha256(file)}",
    *support.NO_PIXEL_VIEW,
    "views.num_views=1",
    "views.latent.name=none",
    "global_batch=4",
  )
  mesh = support.mesh_of(2)
  program = run_lib.Run(config, mesh).program
  frozen = execution.put_frozen(program)
  # Any state will do; to compile the initial one takes longer.
  state, _ = execution.abstract(program)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
  jax.tree.map(np.testing.assert_array_equal, program.frozen["objective"], thin)
  for leaf in jax.tree.leaves(frozen["objective"]):
    assert leaf.sharding.is_fully_replicated and len(leaf.devices()) == 2
  assert not [name for name in trees.named(state) if "conv5_3" in name]

  @_jit
  def losses(state, frozen):
    measured = program.step(state, frozen)[1].compute()
    return measured["lpips"], measured["loss"]

  blind = jax.tree.map(np.zeros_like, thin)
  blind = jax.device_put(blind, mesh_lib.replicated(mesh))
  found = losses(state, frozen)
  without = losses(state, {**frozen, "objective": blind})
  # Constants of the program would still be there.
  assert found[0] > 1e-3 and without[0] == 0
  np.testing.assert_allclose(found[1] - without[1], found[0], rtol=1e-4)

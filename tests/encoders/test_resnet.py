"""The ResNets: against the original's outputs, and batch norm over devices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from genrep_jax.encoders import resnet
from genrep_jax.lib import errors, heads, mesh, plugins, trees
from tests import fixture_files

_KEY = jax.random.key(0)


def _make(*, dtype=jnp.float32, **options):
  return plugins.make("encoders", {"name": "resnet", **options}, dtype=dtype)


def _thin(norm="batch", dtype=jnp.float32):
  """Two layers of one block each, 4 and 8 channels: quick to compile."""
  options = {"width": 4 / 64, "stem": "small", "norm": norm, "group_size": 2}
  return _make(depth=18, blocks=(1, 1), **options, dtype=dtype)


def _images(rows, size=12, seed=1):
  return jax.random.normal(jax.random.key(seed), (rows, size, size, 3))


@functools.cache
def _thin_variables(norm="batch"):
  return jax.jit(lambda key: _thin(norm).init(key, (12, 12, 3)))(_KEY)


# --- against the original -----------------------------------------------------


def _fixture(variant):
  with np.load(fixture_files.path("resnet.npz")) as file:
    meta = json.loads(str(file["meta"]))["variants"][variant]
    arrays = {
      kind: {
        key.removeprefix(f"{kind}/{variant}/"): file[key]
        for key in file.files
        if key.startswith(f"{kind}/{variant}/")
      }
      for kind in ("state", "in", "out")
    }
  options = {
    "depth": int(meta["arch"].removeprefix("resnet")),
    "blocks": (),
    "width": meta["width"] / 64,
    "stem": "small" if meta["img_size"] == 32 else "imagenet",
  }
  return options, arrays


_VARIANTS = ("resnet18_w8_s32", "resnet18_w8_s64", "resnet50_w4_s64")


@pytest.mark.parametrize("variant", _VARIANTS)
def test_outputs_of_the_original(variant):
  options, arrays = _fixture(variant)
  images = jnp.asarray(arrays["in"]["images"])
  encoder = _make(**options)
  network = resnet.ResNet(
    "batch", 1, jnp.float32, *resnet.layout(options), options["stem"]
  )
  variables, made = resnet.CONVERTER.convert(arrays["state"])  # drops the head
  assert made == {**options, "norm": "batch"}

  # The head's Linear weights are [out in] in PyTorch.
  linear = {k: arrays["state"][f"head.{k}.weight"].T for k in (0, 2)}
  bias = {k: arrays["state"][f"head.{k}.bias"] for k in (0, 2)}
  projection = heads.mlp([0], linear[2].shape[1])
  head_params = {
    "linear0": {"kernel": linear[0], "bias": bias[0]},
    "linear_out": {"kernel": linear[2], "bias": bias[2]},
  }

  @jax.jit
  def run(variables, images):
    with jax.default_matmul_precision("float32"):
      stages = network.apply(variables, images, train=False)
      features, batch_stats = encoder.apply(
        variables, images, train=False, local=True
      )
      head_variables = {"params": head_params, "batch_stats": {}}
      z, _ = projection.apply(head_variables, features.pooled, False)
      z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    got = {**stages, "feature": features.pooled, "projection": z}
    return got, features.local, batch_stats

  got, local, batch_stats = run(variables, images)
  compared = set(arrays["out"])
  assert {"layer2", "layer3", "layer4", "feature", "projection"} <= compared
  for name in compared:
    want = arrays["out"][name]
    np.testing.assert_allclose(
      got[name], want, rtol=0, atol=1e-5 * max(1, want.std()), err_msg=name
    )
  np.testing.assert_array_equal(local, got["layer4"])
  for new, old in zip(
    jax.tree.leaves(batch_stats),
    jax.tree.leaves(variables["batch_stats"]),
    strict=True,
  ):
    np.testing.assert_array_equal(new, old)


_CONVOLUTION = "encoder.layer2.0.conv1.weight"


def test_weights_return_to_torch_unchanged():
  options, arrays = _fixture("resnet50_w4_s64")
  variables, _ = resnet.CONVERTER.convert(arrays["state"])
  table = {row[0]: row[2] for row in _key_table(50)}
  want = {
    table[key]: value for key, value in arrays["state"].items() if key in table
  }
  for name in ("torchvision", "timm", "torch_module"):
    state = resnet.EXPORTERS[name].arrays(options, variables)
    # Strided views would be written as if they were whole.
    state = safetensors.numpy.load(safetensors.numpy.save(state))
    assert state.keys() == want.keys()
    for key, value in want.items():
      if "num_batches_tracked" not in key:
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    again, made = resnet.CONVERTER.convert(state)
    assert made == {**options, "norm": "batch"}
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def _key_table(depth):
  """Yields (reference key, shape, torchvision key) of the encoder."""
  text = fixture_files.path(f"resnet{depth}_keys.txt").read_text()
  for line in text.splitlines():
    if line.startswith("encoder."):
      key, shape, torchvision = line.split("\t")
      shape = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
      yield key, shape, torchvision


@functools.cache
def _full_size(depth):
  """Shapes of a full-size ResNet's variables, as numpy zeros."""
  encoder = _make(depth=depth)
  shapes = jax.eval_shape(lambda k: encoder.init(k, (64, 64, 3)), _KEY)
  return jax.tree.map(
    lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes
  )


@pytest.mark.parametrize("depth", (18, 50))
def test_key_lists_map_one_to_one(depth):
  table = list(_key_table(depth))
  want = {row[2]: row[1] for row in table}
  assert len(want) == len(table)
  got = resnet.EXPORTERS["torchvision"].arrays({}, _full_size(depth))
  assert {key: value.shape for key, value in got.items()} == want
  zeros = {row[0]: np.broadcast_to(np.float32(0), row[1]) for row in table}
  variables, made = resnet.CONVERTER.convert(zeros)
  assert (made["depth"], made["width"]) == (depth, 1)
  assert not trees.first_mismatches(_full_size(depth), variables)


def test_a_checkpoint_that_does_not_fit_is_refused():
  _, arrays = _fixture("resnet18_w8_s32")
  state, key = arrays["state"], _CONVOLUTION
  without = {k: v for k, v in state.items() if k != key}
  nan = {**state, key: state[key] * np.nan}
  for wrong, words in (
    (without, "unexpected encoder.layer2.0.bn1.weight"),
    ({**state, "more": state[key]}, "unexpected more"),
    ({**state, key: state[key][:-1]}, f"mis-shaped {key}"),
    (nan, f"not finite {key}"),
    ({}, "missing layer1.0.bn1.running_mean"),
  ):
    with pytest.raises(errors.UsageError, match=words):
      resnet.CONVERTER.convert(wrong)


@pytest.mark.parametrize(
  ("changes", "words"),
  (
    ({"norm": "group"}, "encoder.norm: given 'group'; allowed: batch in timm"),
    ({"width": 0.5}, "encoder.width: given 0.5; allowed: 1.0 in timm"),
    ({"blocks": (1, 1)}, r"encoder.blocks: given \(1, 1\)"),
  ),
)
def test_what_a_library_does_not_have_is_refused(changes, words):
  cfg = {**plugins.defaults("encoders", "resnet"), **changes}
  with pytest.raises(errors.UsageError, match=words):
    resnet.EXPORTERS["timm"].source(cfg, 3)


# --- shapes and initialization ------------------------------------------------


@pytest.mark.parametrize("depth", (18, 34, 50, 101))
def test_shapes(depth):
  features = 512 if depth < 50 else 2048
  stem, size, channels, side = (
    ("imagenet", 64, 3, 2) if depth != 34 else ("small", 28, 1, 4)
  )
  encoder = _make(depth=depth, stem=stem)
  shape = (size, size, channels)
  variables = jax.eval_shape(lambda k: encoder.init(k, shape), _KEY)
  images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  out, batch_stats = jax.eval_shape(
    lambda v, x: encoder.apply(v, x, train=True, local=True), variables, images
  )
  assert out.pooled.shape == (2, features)
  assert out.local.shape == (2, side, side, features)
  assert out.pooled.dtype == out.local.dtype == jnp.float32
  assert jax.tree.map(lambda leaf: leaf.shape, batch_stats) == jax.tree.map(
    lambda leaf: leaf.shape, variables["batch_stats"]
  )


def test_the_local_map_is_given_only_when_asked():
  out, _ = _thin().apply(_thin_variables(), _images(1), train=False)
  assert out.local is None


@pytest.mark.parametrize(
  ("depth", "count"), ((18, 11_176_512), (34, 21_284_672), (50, 23_508_032))
)
def test_parameter_counts(depth, count):
  # torchvision's counts less fc: 11,689,512 - 513,000 and so on.
  params = _full_size(depth)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_initialization():
  encoder = _make(depth=18, width=0.25, stem="small")
  variables = jax.jit(lambda k: encoder.init(k, (8, 8, 3)))(_KEY)
  kernels = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    name = path[-1].key
    if name == "kernel":
      height, width, _, out = leaf.shape
      normal = np.asarray(leaf).ravel() / (2 / (height * width * out)) ** 0.5
      kernels.append(normal)
      assert abs(normal.std() - 1) < 6 / (2 * normal.size) ** 0.5
      assert abs(normal.mean()) < 6 / normal.size**0.5
    else:  # also the last scale of each block is one
      np.testing.assert_array_equal(leaf, 1.0 if name == "scale" else 0.0)
  joined = np.concatenate(kernels)
  assert len(np.unique(joined)) > 0.95 * joined.size  # no draw is used twice
  assert np.abs(joined).max() > 3.5  # not truncated
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    variables["batch_stats"]
  ):
    np.testing.assert_array_equal(leaf, float(path[-1].key == "var"))


@pytest.mark.parametrize(
  ("options", "message"),
  (
    ({"depth": 20}, "encoder.depth: given 20; allowed: one of 18, 34, 50, 101"),
    ({"stem": "big"}, "encoder.stem: given 'big'; allowed: one of imagenet"),
    ({"norm": "layer"}, "encoder.norm: given 'layer'; allowed: one of batch"),
    ({"width": 0.0}, "encoder.width: given 0.0; allowed: a finite number"),
    ({"width": float("inf")}, "encoder.width: given inf"),
    ({"blocks": (1, 1, 1, 1, 1)}, "encoder.blocks: given"),
    ({"blocks": (1, 0)}, "encoder.blocks: given"),
    ({"norm": "group", "group_size": 48}, "given 48; allowed: a divisor of 64"),
    ({"norm": "group", "group_size": 0}, "encoder.group_size: given 0"),
  ),
)
def test_bad_options(options, message):
  with pytest.raises(errors.UsageError, match=message):
    _make(**options)


# --- norms --------------------------------------------------------------------


def _loss_and_gradients(encoder):
  """A jitted (variables, images) -> ((loss, batch_stats), gradients)."""

  def loss(params, batch_stats, images):
    variables = {"params": params, "batch_stats": batch_stats}
    features, batch_stats = encoder.apply(variables, images, train=True)
    weights = jnp.cos(jnp.arange(features.pooled.size))
    loss = (features.pooled.ravel() * weights).mean()
    return loss + (features.pooled**2).mean(), batch_stats

  grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
  return lambda v, images: grad(v["params"], v["batch_stats"], images)


def test_batch_norm_over_8_devices_equals_1_device():
  run = _loss_and_gradients(_thin())
  variables = _thin_variables()
  # Every device gets images of its own scale: local statistics would differ.
  scale = jnp.repeat(jnp.linspace(0.2, 3.0, 8), 2)[:, None, None, None]
  images = _images(16) * scale
  results = []
  for count in (1, 8):
    devices = mesh.make_mesh(jax.devices()[:count])
    assert devices.size == count
    results.append(
      run(
        jax.device_put(variables, mesh.replicated(devices)),
        jax.device_put(images, mesh.batch(devices)),
      )
    )
  (one, one_gradients), (eight, eight_gradients) = results
  assert abs(float(one[0]) - float(eight[0])) < 1e-6 * abs(float(one[0]))
  for a, b in zip(
    jax.tree.leaves((one[1], one_gradients)),
    jax.tree.leaves((eight[1], eight_gradients)),
    strict=True,
  ):
    a, b = np.asarray(a), np.asarray(b)
    assert np.abs(a).max() > 0 and np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


def test_train_uses_the_batch_and_eval_the_stored_statistics():
  encoder, variables = _thin(), _thin_variables()
  apply = jax.jit(encoder.apply, static_argnames=("train", "local"))
  images = 2.0 + _images(8)
  trained, batch_stats = apply(variables, images, train=True)
  first, _ = apply(variables, images[:4], train=True)
  assert np.abs(first.pooled - trained.pooled[:4]).max() > 1e-2
  # Stem: the running mean moves by a tenth of the batch's mean.
  out = jax.lax.conv_general_dilated(
    images,
    variables["params"]["stem"]["conv"]["kernel"],
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(
    batch_stats["stem"]["norm"]["mean"],
    0.1 * out.mean(axis=(0, 1, 2)),
    rtol=1e-3,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    batch_stats["stem"]["norm"]["var"],
    0.9 + 0.1 * out.var(axis=(0, 1, 2)),
    rtol=1e-3,
  )
  # Repeated updates on one batch make evaluation agree with training.
  for _ in range(60):
    _, batch_stats = apply(
      {**variables, "batch_stats": batch_stats}, images, train=True
    )
  evaluated, same = apply(
    {**variables, "batch_stats": batch_stats}, images, train=False
  )
  np.testing.assert_allclose(evaluated.pooled, trained.pooled, atol=2e-2)
  assert jax.tree.all(jax.tree.map(np.array_equal, same, batch_stats))
  part, _ = apply(
    {**variables, "batch_stats": batch_stats}, images[:3], train=False
  )
  np.testing.assert_allclose(part.pooled, evaluated.pooled[:3], atol=1e-5)


def test_group_norm_keeps_images_apart():
  encoder, variables = _thin("group"), _thin_variables("group")
  assert variables["batch_stats"] == {}
  apply = jax.jit(encoder.apply, static_argnames=("train",))
  images = _images(4)
  all_rows, batch_stats = apply(variables, images, train=True)
  assert batch_stats == {}
  other = images.at[1:].set(_images(3, seed=2))
  first, _ = apply(variables, other, train=True)
  np.testing.assert_allclose(first.pooled[0], all_rows.pooled[0], atol=1e-5)
  assert np.abs(first.pooled[1:] - all_rows.pooled[1:]).max() > 1e-2
  evaluated, _ = apply(variables, images, train=False)
  np.testing.assert_allclose(evaluated.pooled, all_rows.pooled, atol=1e-6)


def test_bfloat16_is_close_and_keeps_float32_outside():
  variables = _thin_variables()
  half = _thin(dtype=jnp.bfloat16)
  fresh = jax.eval_shape(lambda k: half.init(k, (12, 12, 3)), _KEY)
  images = _images(16)
  exact, exact_stats = jax.jit(
    functools.partial(_thin().apply, train=True, local=True)
  )(variables, images)
  run = jax.jit(functools.partial(half.apply, train=True, local=True))
  close, close_stats = run(variables, images)
  for tree in (fresh, close, close_stats):
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
  error = np.abs(close.pooled - exact.pooled).max()
  assert 0 < error < 0.05 * np.abs(exact.pooled).max()
  for a, b in zip(
    jax.tree.leaves(exact_stats), jax.tree.leaves(close_stats), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=0.02)
  assert "bf16" in run.lower(variables, images).as_text()

"""The StyleGAN2 port computes what the two PyTorch networks compute.

Fixtures: a thin 32 px network with random weights in NVIDIA's and in
rosinality's layout, outputs computed in float64; and the names and shapes of
the released 512 px models.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.generators import (
  _stylegan2_ops as ops,
  _stylegan2_source as source,
  stylegan2,
)
from genrep_jax.lib import errors, options as options_lib, plugins
from tests import fixture_files

convert = stylegan2.CONVERTER.convert
DEFAULTS = options_lib.defaults(stylegan2.OPTIONS)
TOLERANCE = 1e-4  # times the standard deviation of the expected array
THIN = {
  "resolution": 16,
  "z_dim": 8,
  "w_dim": 12,
  "mapping_layers": 2,
  "channel_base": 64,
  "channel_max": 8,
}
CASES = {  # name of the output -> what makes it
  "psi1.0_const": {},
  "psi1.0_none": {"noise": "none"},
  "psi0.7_const": {"truncation_psi": 0.7},
  "psi0.7_none": {"truncation_psi": 0.7, "noise": "none"},
  "psi0.7_const_cutoff4": {"truncation_psi": 0.7, "truncation_cutoff": 4},
}


def config(**options):
  """A complete entry."""
  entry = plugins.defaults("generators", "stylegan2") | options
  return ml_collections.ConfigDict(entry)


def make(**options):
  return plugins.make("generators", {"name": "stylegan2", **options})


def draw(variables, z, **options):
  """The raw network's images."""
  cfg = config(**options)
  y = jnp.zeros((len(z),), jnp.int32)
  return np.asarray(
    jax.jit(lambda v, z: stylegan2.raw(v, z, y, cfg=cfg))(variables, z)
  )


def state(file):
  """A checkpoint: {key: array}, latent_avg beside rosinality's."""
  arrays = fixture_files.state(file)
  if "extra/latent_avg" in file:
    arrays["latent_avg"] = file["extra/latent_avg"]
  return arrays


@pytest.fixture(scope="module", params=source.LAYOUTS)
def case(request):
  """(layout, file, variables, options) of one fixture."""
  file = fixture_files.arrays(f"stylegan2_32_{request.param}.npz")
  return request.param, file, *convert(state(file))


@pytest.fixture(scope="module")
def nvidia():
  """(variables, options, z, the images at psi 1 with stored noise)."""
  file = fixture_files.arrays("stylegan2_32_nvidia.npz")
  variables, options = convert(state(file))
  return variables, options, file["in/z"], file["out/psi1.0_const"]


def error(got, expected):
  """Largest difference over the standard deviation."""
  assert got.shape == expected.shape
  return np.abs(got - expected).max() / expected.std()


def test_parity(case):
  _, file, variables, options = case
  names = [k[4:] for k in file if k.startswith("out/psi")]
  assert len(names) >= 4 and set(names) <= set(CASES)
  for name in names:
    got = draw(variables, file["in/z"], **{**options, **CASES[name]})
    assert error(got, file[f"out/{name}"]) < TOLERANCE, name


def test_mapping_parity(case):
  _, file, variables, options = case
  if "out/w" not in file:
    pytest.skip("this fixture has no w")
  w = stylegan2.mapping(
    variables, file["in/z"], jnp.zeros((2,), int), cfg=config(**options)
  )
  assert error(np.asarray(w), file["out/w"]) < TOLERANCE


def test_both_layouts_convert_to_one_network():
  trees = []
  for layout in source.LAYOUTS:
    file = fixture_files.arrays(f"stylegan2_32_{layout}.npz")
    variables, options = convert(state(file))
    for side in (4, 8, 16, 32):  # the only factor that differs
      for layer in ("conv0", "conv1"):
        if layer in variables["params"]["synthesis"][f"b{side}"]:
          block = variables["params"]["synthesis"][f"b{side}"][layer]
          fan_in = np.prod(block["kernel"].shape[:3])
          if layout == "rosinality":
            block["kernel"] = block["kernel"] * np.sqrt(fan_in)
    trees.append((variables, options))
  assert trees[0][1] == trees[1][1]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    trees[0][0],
    trees[1][0],
  )


def flip(monkeypatch):
  true = ops.transposed_conv
  monkeypatch.setattr(
    ops, "transposed_conv", lambda x, k: true(x, k[::-1, ::-1])
  )


def no_noise(monkeypatch):
  monkeypatch.setattr(stylegan2, "_noise", lambda *arguments: 0.0)


def no_gain(monkeypatch):
  monkeypatch.setattr(ops, "leaky_relu", lambda x: jnp.where(x > 0, x, x / 5))


def no_demodulation(monkeypatch):
  true = ops.demodulation
  monkeypatch.setattr(
    ops, "demodulation", lambda k, s: true(k, jnp.ones_like(s))
  )


def unscaled_rgb(monkeypatch):
  true = stylegan2._to_rgb

  def to_rgb(layer, *rest):
    kernel = layer["kernel"] * layer["kernel"].shape[2] ** 0.5
    return true({**layer, "kernel": kernel}, *rest)

  monkeypatch.setattr(stylegan2, "_to_rgb", to_rgb)


def no_latent_norm(monkeypatch):
  monkeypatch.setattr(ops, "pixel_norm", lambda x: x)


def unsmoothed(monkeypatch):
  monkeypatch.setattr(
    ops, "upsample", lambda x: x.repeat(2, axis=1).repeat(2, axis=2)
  )


@pytest.mark.parametrize(
  "damage",
  [
    flip,
    no_noise,
    no_gain,
    no_demodulation,
    unscaled_rgb,
    no_latent_norm,
    unsmoothed,
  ],
)
def test_every_trap_is_seen_by_the_parity_test(nvidia, damage, monkeypatch):
  variables, options, z, expected = nvidia
  damage(monkeypatch)
  assert error(draw(variables, z, **options), expected) > 100 * TOLERANCE


def test_to_rgb_reads_the_row_of_the_next_layer(nvidia):
  # Rows differ only past the cutoff, so an index too low by one is seen.
  variables, options, z, _ = nvidia
  cfg = config(**options)
  w = stylegan2.mapping(variables, z, jnp.zeros((2,), int), cfg=cfg)
  rows = stylegan2.truncate(variables, w, cfg=cfg)
  moved = rows.at[:, -1].add(1.0)
  run = jax.jit(lambda r: stylegan2.synthesis(variables, r, None, cfg=cfg))
  change = run(moved) - run(rows)
  # Only the last ToRGB reads the last row: the image moves by what it adds.
  last = variables["params"]["synthesis"]["b32"]["torgb"]
  assert np.abs(change).max() > 0.1 and last["kernel"].shape[-1] == 3
  assert run(rows.at[:, 1].add(1.0)).shape == change.shape
  # Row 1 is read by ToRGB at 4 px and by the first layer at 8 px.
  without = jax.tree.map(np.array, variables)
  without["params"]["synthesis"]["b8"]["conv0"]["affine"]["kernel"] *= 0
  still = jax.jit(lambda r: stylegan2.synthesis(without, r, None, cfg=cfg))
  assert np.abs(still(rows.at[:, 1].add(1.0)) - still(rows)).max() > 0.01


@pytest.mark.parametrize("layout", source.LAYOUTS)
def test_expected_keys_are_those_of_the_released_models(layout):
  lines = (
    fixture_files.path(f"stylegan2_512_{layout}_keys.txt")
    .read_text()
    .splitlines()
  )
  listed = {}
  for line in lines:
    key, shape = line.split("\t")
    listed[key] = tuple(int(n) for n in re.findall(r"\d+", shape))
  options = {**DEFAULTS, "resolution": 512}
  options["w_average"] = layout == "nvidia"
  assert source.expected_keys(options, layout) == listed
  # The options are found again from nothing but the shapes.
  arrays = {k: np.broadcast_to(np.float32(0), s) for k, s in listed.items()}
  found = source._options(arrays, layout)
  assert found == {key: options[key] for key in found}


def rename(arrays, old, new):
  arrays[new] = arrays.pop(old)


@pytest.mark.parametrize(
  ("damage", "named"),
  [
    (lambda a: a.pop("synthesis.b16.conv1.bias"), "b16.conv1.bias"),
    (lambda a: a.pop("mapping.w_avg"), "mapping.w_avg"),
    (lambda a: a.update(other=np.zeros(2)), "unexpected other"),
    (
      lambda a: rename(a, "synthesis.b8.conv0.bias", "synthesis.b8.conv0.b"),
      r"synthesis.b8.conv0.bias \(is it synthesis.b8.conv0.b\?\)",
    ),
    (
      lambda a: a.update({"synthesis.b8.torgb.bias": np.zeros((1, 3))}),
      r"synthesis.b8.torgb.bias \(1, 3\) instead of \(3,\)",
    ),
    (
      lambda a: a.update(
        {"synthesis.b8.resample_filter": np.full((4, 4), 1 / 16)}
      ),
      "synthesis.b8.resample_filter is not the filter",
    ),
    (lambda a: a.pop("synthesis.b4.const"), "neither synthesis.b4.const"),
    (lambda a: a.pop("mapping.fc0.weight"), "missing mapping.fc0.weight"),
  ],
)
def test_another_checkpoint_is_refused_by_name(damage, named):
  arrays = state(fixture_files.arrays("stylegan2_32_nvidia.npz"))
  damage(arrays)
  with pytest.raises(errors.UsageError, match=named) as raised:
    convert(arrays)
  assert "\n" not in str(raised.value)


def test_rosinality_without_an_average_is_only_for_psi_1():
  arrays = state(fixture_files.arrays("stylegan2_32_rosinality.npz"))
  del arrays["latent_avg"]
  with pytest.raises(errors.UsageError, match="latent_avg"):
    convert(arrays, truncation_psi=0.7)
  variables, options = convert(arrays)
  assert "w_avg" not in variables["params"]["mapping"]
  with pytest.raises(errors.UsageError, match="w_average=False"):
    make(**{**options, "truncation_psi": 0.7})
  generator = make(**options)
  shapes = jax.eval_shape(generator.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)


def test_converted_variables_are_of_the_initial_shapes(case):
  _, _, variables, options = case
  generator = make(**options)
  shapes = jax.eval_shape(generator.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))


def test_the_contract_clips_and_crops(nvidia):
  variables, options, z, expected = nvidia
  y = jnp.zeros((2,), jnp.int32)
  cropped = make(**options, crop_rows=(4, 28))
  assert cropped.resolution == (24, 32)
  np.testing.assert_allclose(
    jax.jit(cropped.apply)(variables, z, y),
    np.clip(expected[:, 4:28], -1, 1),
    atol=TOLERANCE,
  )
  images = jax.jit(make(**options).raw)(variables, z, y)
  assert np.abs(images).max() > 2 and error(images, expected) < TOLERANCE


def unclipped(**options):
  generator = make(**options)
  return dataclasses.replace(generator, apply=generator.raw)


def thin(**options):
  """(generator, variables with every leaf away from its initial value)."""
  generator = unclipped(**{**THIN, **options})
  random = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda x: np.float32(x + 0.3 * random.normal(size=x.shape)),
    jax.jit(generator.init)(jax.random.key(0)),
  )
  return generator, variables


def test_random_noise_belongs_to_the_latent():
  generator, variables = thin(noise="random")
  apply = jax.jit(generator.apply)
  z = np.float32(np.random.default_rng(0).normal(size=(3, 8)))
  y = np.zeros((3,), np.int32)
  images = apply(variables, z, y)
  np.testing.assert_allclose(
    apply(variables, z[::-1], y)[::-1], images, atol=1e-5
  )
  keys = jax.random.key_data(stylegan2.latent_keys(z, y))
  assert len(np.unique(np.asarray(keys), axis=0)) == 3
  near = np.nextafter(z, np.float32(9))  # the last bit decides
  others = jax.random.key_data(stylegan2.latent_keys(near, y))
  assert not np.any(np.all(keys == others, axis=-1))
  assert np.abs(apply(variables, near, y) - images).max() > 0.1
  constant = unclipped(**THIN)
  steady = jax.jit(constant.apply)
  difference = steady(variables, near, y) - steady(variables, z, y)
  assert np.abs(difference).max() < 1e-3
  # Two latents' noise does not correlate, and it is standard normal.
  layer = {"noise_strength": np.float32(1)}
  drawn = stylegan2._noise(
    layer, 64, stylegan2.latent_keys(z, y), 2, config(noise="random")
  ).reshape(3, -1)
  np.testing.assert_allclose(np.cov(drawn), np.eye(3), atol=0.08)


def test_a_conditional_network_converts_and_obeys_its_class():
  generator, variables = thin(num_classes=3)
  z = np.ones((3, 8), np.float32)
  images = np.asarray(jax.jit(generator.apply)(variables, z, jnp.arange(3)))
  for a, b in ((0, 1), (0, 2), (1, 2)):
    assert np.abs(images[a] - images[b]).max() > 0.1
  # A checkpoint of that network: options, then the embedding, come back.
  options = {
    **DEFAULTS,
    **THIN,
    "num_classes": 3,
  }
  random = np.random.default_rng(2)
  arrays = {
    key: np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    if key.endswith("resample_filter")
    else np.float32(random.normal(size=shape))
    for key, shape in source.expected_keys(options, "nvidia").items()
  }
  converted, found = convert(arrays)
  assert {k: found[k] for k in THIN} == THIN and found["num_classes"] == 3
  assert jax.tree.map(jnp.shape, converted) == jax.tree.map(
    jnp.shape, variables
  )
  # Slow twin of the conditional mapping, from the checkpoint's own arrays.
  label = arrays["mapping.embed.weight"][:, 2] / np.sqrt(3)
  label = label + arrays["mapping.embed.bias"]
  x = np.concatenate([v / np.sqrt(np.mean(v**2)) for v in (z[0], label)])
  for i in range(2):
    weight = arrays[f"mapping.fc{i}.weight"] * 0.01 / np.sqrt(len(x))
    x = weight @ x + 0.01 * arrays[f"mapping.fc{i}.bias"]
    x = np.sqrt(2) * np.where(x > 0, x, 0.2 * x)
  w = stylegan2.mapping(converted, z[:1], jnp.array([2]), cfg=config(**found))
  np.testing.assert_allclose(w[0], x, rtol=1e-4, atol=1e-7)


def test_the_clamp_bounds_the_maps():
  generator, variables = thin(conv_clamp=0.01)
  z = np.ones((1, 8), np.float32)
  images = jax.jit(generator.apply)(variables, z, jnp.zeros((1,), int))
  # Three clamped shares; the filter adds up to one.
  assert 0 < np.abs(images).max() <= 0.03 + 1e-6


@pytest.fixture(scope="module")
def tiny():
  """(function: options -> 8 px generator with four rows of w, variables)."""
  sizes = {"resolution": 8, "num_classes": 3, "truncation_psi": 0.7}
  _, variables = thin(**sizes)

  def make(**options):
    return unclipped(**{**THIN, **sizes, **options})

  return make, variables


@pytest.mark.parametrize(
  "options",
  [{"latent": "w"}, {"latent": "w+"}, {"latent": "w+", "truncation_cutoff": 3}],
  ids=("w", "w+", "w+ with a cutoff"),
)
def test_the_w_of_a_drawn_z_renders_as_z_does(options, tiny):
  make, variables = tiny
  in_z, in_w = make(**{**options, "latent": "z"}), make(**options)
  assert in_z.encode_latent is None and in_z.latent_dim == 8
  assert in_w.sample_dim == 8
  assert in_w.latent_dim == (12 if options["latent"] == "w" else 4 * 12)
  keys = jax.random.split(jax.random.key(3), 4)

  @jax.jit
  def both(variables):
    z, y = jax.vmap(in_w.sample)(keys)
    latents = in_w.encode_latent(variables, z, y)
    images = [in_z.apply(variables, z, y), in_w.apply(variables, latents, y)]
    return z, jax.vmap(in_z.sample)(keys)[0], latents, images

  z, same, latents, (expected, images) = both(variables)
  np.testing.assert_array_equal(z, same)
  assert latents.shape == (4, in_w.latent_dim) and latents.dtype == jnp.float32
  np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)
  assert np.abs(images[1:] - images[0]).max() > 0.1


def test_moving_fine_layers_leaves_the_coarse_ones_alone(tiny, monkeypatch):
  make, variables = tiny
  generator = make(latent="w+")
  # 2 and 3 of four: what follows the first map of 8 px.
  cfg = {"name": "groups", "num_groups": 4, "groups": (2, 3)}
  cfg["sigma"] = (0.5, 0.8)
  view = plugins.make("views/latent", cfg, generator)
  true, shares = stylegan2._to_rgb, []

  def spy(*arguments):
    shares.append(true(*arguments))
    return shares[-1]

  monkeypatch.setattr(stylegan2, "_to_rgb", spy)

  @jax.jit
  def rendered(variables):
    z, y = generator.sample(jax.random.key(3))
    anchor = generator.encode_latent(variables, z[None], y[None])
    moved = view(jax.random.key(4), anchor[0], y)[None]
    pair = jnp.concatenate([anchor, moved])
    return pair, generator.apply(variables, pair, y[None].repeat(2)), shares

  (anchor, moved), images, (of_4_px, of_8_px) = rendered(variables)
  changed = np.any((anchor != moved).reshape(4, 12), axis=1)
  assert changed.tolist() == [False, False, True, True]
  # Equal up to rounding: XLA may split the rows of a batch unevenly.
  np.testing.assert_allclose(of_4_px[0], of_4_px[1], rtol=1e-5, atol=1e-6)
  assert np.abs(of_8_px[0] - of_8_px[1]).max() > 0.01
  assert np.abs(images[0] - images[1]).max() > 0.01


@pytest.mark.parametrize(
  ("options", "named"),
  [
    ({"resolution": 24}, "resolution: given 24"),
    ({"channels": 2}, "channels: given 2"),
    ({"w_dim": 0}, "w_dim: given 0"),
    ({"channel_base": 8}, "channel_base: given 8"),
    ({"num_classes": -1}, "num_classes: given -1"),
    ({"truncation_psi": float("nan")}, "truncation_psi: given nan"),
    ({"truncation": float("inf")}, "truncation: given inf"),
    ({"truncation_cutoff": 7}, "truncation_cutoff: given 7; allowed: <= 6"),
    ({"noise": "loud"}, "const, random, none"),
    ({"crop_rows": (4, 17)}, r"crop_rows: given \(4, 17\)"),
    ({"crop_rows": (4,)}, r"crop_rows: given \(4,\)"),
    ({"latent": "s"}, "latent: given 's'; allowed: one of z, w, w+"),
    ({"latent": "w+", "noise": "random"}, "given 'random'; allowed: const or"),
    (
      {"latent": "w", "truncation_cutoff": 2, "truncation_psi": 0.7},
      "truncation_cutoff: given 2; .* needs more than one w",
    ),
  ],
)
def test_bad_options_are_refused(options, named):
  with pytest.raises(errors.UsageError, match=named) as raised:
    make(**{**THIN, **options})
  assert "\n" not in str(raised.value)

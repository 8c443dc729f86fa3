"""Weights meet their options: a file runs with what it was made with."""

import json
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from genrep_jax.lib import errors, frozen, plugins, trees, weights

SIZES = {"widths": [4], "extra_convs": [0], "latent_dim": 5}


def write(path, name, **options):
  """Saves zeros as weights of a generator; returns its options."""
  options = plugins.defaults("generators", name) | options
  generator = plugins.make("generators", options)
  shapes = jax.eval_shape(generator.init, jax.random.key(0))
  tree = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  digest = weights.save(path, tree, {"generator": options})
  return digest, options


def entry(path, options, **changes):
  more = {"weights": str(path), "sha256": ""}
  return ml_collections.ConfigDict(options | more | changes)


def test_a_file_says_all_that_is_needed(tmp_path):
  digest, _ = write(tmp_path / "w", "small", num_classes=3, **SIZES)
  made = frozen.from_file(tmp_path / "w")
  assert (made.name, made.sha256) == ("small", digest)
  assert made.generator.num_classes == 3 and made.generator.latent_dim == 5
  assert made.metadata["generator"]["num_classes"] == 3
  assert made.generator.sha256 == digest


def test_free_options_may_differ_and_others_not(tmp_path):
  path = tmp_path / "w"
  _, options = write(path, "small", **SIZES)
  # The file says lists where a config has tuples.
  same = entry(path, options, widths=(4,), extra_convs=(0,), truncation=1.0)
  assert frozen.from_config(same).sha256
  with pytest.raises(
    errors.UsageError, match="latent_dim: given 6; allowed: 5"
  ):
    frozen.from_config(entry(path, options, latent_dim=6))
  with pytest.raises(errors.UsageError, match="generator.psi: unknown option"):
    frozen.from_file(path, options={"psi": 1})


def test_biggans_statistics_belong_to_one_truncation(tmp_path):
  path = tmp_path / "w"
  sizes = {"ch": 4, "num_classes": 2, "truncation": 0.4}
  _, options = write(path, "biggan_deep", **sizes)
  assert frozen.from_config(entry(path, options)).sha256
  with pytest.raises(errors.UsageError, match="given 1.0; allowed: 0.4"):
    frozen.from_config(entry(path, options, truncation=1.0))


def test_weights_of_another_generator_are_named(tmp_path):
  path = tmp_path / "w"
  write(path, "small", **SIZES)
  options = plugins.defaults("generators", "biggan_deep") | {"ch": 4}
  with pytest.raises(errors.UsageError, match="of generator 'small', not"):
    frozen.from_config(entry(path, options))


def test_a_file_that_says_nothing(tmp_path):
  path = tmp_path / "w"
  _, options = write(path, "small", **SIZES)
  arrays = frozen.from_file(path).variables
  weights.save(path, arrays)
  with pytest.raises(errors.UsageError, match="does not name its generator"):
    frozen.from_file(path)
  assert frozen.from_config(entry(path, options)).metadata == {}


@pytest.mark.parametrize("metadata", [7, [], "text", {"generator": [1]}])
def test_metadata_of_another_form(tmp_path, metadata):
  path = tmp_path / "w"
  text = json.dumps({"genrep_jax": json.dumps(metadata)})
  header = f'{{"__metadata__": {text}}}'.encode()
  path.write_bytes(len(header).to_bytes(8, "little") + header)
  with pytest.raises(errors.UsageError, match="metadata") as refused:
    frozen.from_file(path)
  assert "\n" not in str(refused.value)


# Converted anew by every step: demodulation squares the kernels in float32.
SQUARED = {"stylegan2": r"conv\d/kernel"}
TINY = {
  "small": {"num_classes": 3, "widths": (8, 4), "latent_dim": 5},
  "biggan_deep": {"ch": 4, "num_classes": 3},
  "dcgan": {"widths": (8, 4), "resolution": 16, "num_classes": 3},
  "stylegan2": {"resolution": 8, "channel_max": 8, "latent": "w"},
}


def converted(images, variables):
  """Names the weights that a program converts."""
  text = images.lower(variables).as_text()
  main = text[text.index("@main") :].partition("\n  }\n")[0]
  leaves = list(trees.named(variables))
  return {
    leaves[int(i)] for i in re.findall(r"stablehlo.convert %arg(\d+) ", main)
  }


@pytest.mark.parametrize("name", TINY)
def test_weights_are_placed_in_the_type_they_are_used_in(name, optimized):
  """A step at bfloat16 converts no frozen weight, and gives the same bits."""
  del optimized
  entry = {"name": name, **TINY[name]}
  full = frozen.from_config(entry)
  half = frozen.from_config(entry, dtype=jnp.bfloat16)
  generator = half.generator
  keys = jax.random.split(jax.random.key(1), 3)

  def draw(variables):
    z, y = jax.vmap(generator.sample)(keys)
    latents = generator.latents(variables, z, y)
    return generator.apply(variables, latents, y)

  images = jax.jit(draw, keep_unused=True)
  np.testing.assert_array_equal(images(full.variables), images(half.variables))
  placed = {
    leaf
    for leaf, x in trees.named(half.variables).items()
    if x.dtype == jnp.bfloat16
  }
  rest = converted(images, half.variables)
  assert placed and converted(images, full.variables) == placed | rest
  assert all(re.search(SQUARED.get(name, "^$"), leaf) for leaf in rest)

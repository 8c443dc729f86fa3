"""Weights meet their options: a file runs with what it was made with."""

import jax
import ml_collections
import numpy as np
import pytest

from genrep_jax.generators import biggan_deep, small
from genrep_jax.lib import errors, frozen, weights

SIZES = {"widths": [4], "extra_convs": [0], "latent_dim": 5}


def write(path, module, **options):
  """Saves zeros as weights of a generator; returns its options."""
  options = module.default_config() | options
  generator = module.make(ml_collections.ConfigDict(options))
  shapes = jax.eval_shape(generator.init, jax.random.key(0))
  tree = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  digest = weights.save(path, tree, {"generator": options})
  return digest, options


def entry(path, options, **changes):
  more = {"weights": str(path), "sha256": ""}
  return ml_collections.ConfigDict(options | more | changes)


def test_a_file_says_all_that_is_needed(tmp_path):
  digest, _ = write(tmp_path / "w", small, num_classes=3, **SIZES)
  made = frozen.from_file(tmp_path / "w")
  assert (made.name, made.sha256) == ("small", digest)
  assert made.generator.num_classes == 3 and made.generator.latent_dim == 5
  assert made.metadata["generator"]["num_classes"] == 3


def test_free_options_may_differ_and_others_not(tmp_path):
  path = tmp_path / "w"
  _, options = write(path, small, **SIZES)
  # The file says lists where a config has tuples.
  same = entry(path, options, widths=(4,), extra_convs=(0,), truncation=1.0)
  assert frozen.from_config(same).sha256
  with pytest.raises(errors.UsageError, match="latent_dim is 6, but .* 5"):
    frozen.from_config(entry(path, options, latent_dim=6))
  with pytest.raises(errors.UsageError, match="no option 'psi'"):
    frozen.from_file(path, options={"psi": 1})


def test_biggans_statistics_belong_to_one_truncation(tmp_path):
  path = tmp_path / "w"
  sizes = {"ch": 4, "num_classes": 2, "truncation": 0.4}
  _, options = write(path, biggan_deep, **sizes)
  assert frozen.from_config(entry(path, options)).sha256
  with pytest.raises(errors.UsageError, match="truncation is 1.0, but .* 0.4"):
    frozen.from_config(entry(path, options, truncation=1.0))


def test_weights_of_another_generator_are_named(tmp_path):
  path = tmp_path / "w"
  write(path, small, **SIZES)
  options = biggan_deep.default_config() | {"ch": 4}
  with pytest.raises(errors.UsageError, match="of generator 'small', not"):
    frozen.from_config(entry(path, options))


def test_a_file_that_says_nothing(tmp_path):
  path = tmp_path / "w"
  _, options = write(path, small, **SIZES)
  arrays = frozen.from_file(path).variables
  weights.save(path, arrays)
  with pytest.raises(errors.UsageError, match="does not name its generator"):
    frozen.from_file(path)
  assert frozen.from_config(entry(path, options)).metadata == {}

"""Files are whole or absent; bytes and floats of images agree."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import files, images


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
  path = tmp_path / "a.txt"
  files.write_text(path, "old")
  with pytest.raises(RuntimeError), files.atomic(path) as partial:
    partial.write_text("half")
    raise RuntimeError("power cut")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]
  files.write_json(path, {"a": tmp_path})
  assert json.loads(path.read_text()) == {"a": str(tmp_path)}
  assert list(tmp_path.iterdir()) == [path]


def test_every_byte_survives_the_way_through_floats():
  every = np.arange(256, dtype=np.uint8)
  for array in every, jnp.asarray(every):
    floats = images.from_uint8(array)
    assert floats.dtype == np.float32 and floats.min() == -1 == -floats.max()
    np.testing.assert_array_equal(images.to_uint8(floats), every)
  np.testing.assert_array_equal(
    jax.jit(images.to_uint8)(jnp.asarray([-3.0, 3.0])), [0, 255]
  )

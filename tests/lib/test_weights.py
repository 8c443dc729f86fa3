"""Weights files: what is loaded, and what is refused in which words."""

import io
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from genrep_jax.lib import errors, weights


def _tree(dtype="float32"):
  random = np.random.RandomState(0)
  return {
    "params": {
      "Dense_0": {
        "kernel": jnp.asarray(random.randn(3, 4), dtype),
        "bias": jnp.asarray(random.randn(4), dtype),
      },
      "scale": jnp.asarray(2.5, dtype),
    },
    "batch_stats": {"mean": jnp.asarray(random.randn(4), dtype)},
  }


def _abstract(tree):
  return jax.eval_shape(lambda: tree)


def _refusal(path, sha256=None, expected=None):
  expected = _abstract(_tree()) if expected is None else expected
  with pytest.raises(errors.UsageError) as caught:
    weights.load(path, sha256, expected)
  message = str(caught.value)
  assert "\n" not in message and message.startswith("weights: ")
  return message


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "generator.safetensors"
  weights.save(path, _tree(), {"steps": 3})
  return path


def test_round_trip(path):
  digest = weights.sha256(path)
  loaded = weights.load(path, digest.upper(), _abstract(_tree()))
  assert jax.tree.structure(loaded) == jax.tree.structure(_tree())
  jax.tree.map(np.testing.assert_array_equal, loaded, _tree())
  assert all(
    type(leaf) is np.ndarray and leaf.flags.writeable
    for leaf in jax.tree.leaves(loaded)
  )
  assert weights.read_metadata(path) == {"steps": 3}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_storage_is_cast_to_float32(tmp_path, dtype):
  tree = _tree(dtype)
  weights.save(tmp_path / "short", tree)
  loaded = weights.load(tmp_path / "short", None, _abstract(_tree()))
  for leaf, stored in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree)):
    assert leaf.dtype == np.float32
    np.testing.assert_array_equal(leaf, np.asarray(stored, np.float32))


def test_integers_keep_their_dtype(tmp_path):
  tree = {"index": jnp.arange(3, dtype=jnp.int32), "x": jnp.ones(2)}
  weights.save(tmp_path / "mixed", tree)
  loaded = weights.load(tmp_path / "mixed", None, _abstract(tree))
  assert loaded["index"].dtype == np.int32
  expected = {**tree, "x": jnp.ones(2, jnp.int32)}
  message = _refusal(tmp_path / "mixed", None, _abstract(expected))
  assert "x: float[2], wanted int32[2]" in message


def test_same_tree_same_bytes(tmp_path):
  metadata = {f"key{i}": i for i in range(20)}
  backwards = dict(reversed(metadata.items()))
  a = weights.save(tmp_path / "a", _tree(), metadata)
  b = weights.save(tmp_path / "b", _tree(), backwards)
  assert a == b == weights.sha256(tmp_path / "a")
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
  # Any safetensors reader can open it.
  arrays = safetensors.numpy.load_file(tmp_path / "a")
  np.testing.assert_array_equal(
    arrays["params/Dense_0/kernel"], _tree()["params"]["Dense_0"]["kernel"]
  )


def test_views_are_saved_as_they_look(tmp_path):
  x = np.arange(12, dtype=np.float32).reshape(3, 4)
  weights.save(tmp_path / "t", {"x": x.T, "y": x[:, ::2]})
  expected = {"x": jnp.zeros((4, 3)), "y": jnp.zeros((3, 2))}
  loaded = weights.load(tmp_path / "t", None, _abstract(expected))
  np.testing.assert_array_equal(loaded["x"], x.T)
  np.testing.assert_array_equal(loaded["y"], x[:, ::2])


def test_failed_save_leaves_the_old_file(path, monkeypatch):
  before = path.read_bytes()

  def fail(*_):
    raise OSError("No space left on device")

  monkeypatch.setattr(weights.os, "fsync", fail)
  with pytest.raises(OSError, match="No space"):
    weights.save(path, {"x": jnp.zeros(3)})
  assert path.read_bytes() == before
  assert list(path.parent.iterdir()) == [path]


def test_missing_file(tmp_path):
  message = _refusal(tmp_path / "absent.safetensors")
  assert "absent.safetensors" in message and "asset:NAME" in message


def test_assets(tmp_path, monkeypatch):
  monkeypatch.setattr(weights, "ASSETS", tmp_path)
  weights.save(tmp_path / "one.safetensors", _tree())
  loaded = weights.load("asset:one.safetensors", None, _abstract(_tree()))
  jax.tree.map(np.testing.assert_array_equal, loaded, _tree())
  message = _refusal("asset:two.safetensors")
  assert "'two.safetensors'" in message and "one.safetensors" in message
  (tmp_path.parent / "secret.safetensors").write_bytes(b"")
  assert "no asset" in _refusal("asset:../secret.safetensors")


def test_pickles_are_refused_unopened(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (open, (str(tmp_path / "exploded"), "w"))

  for protocol in (2, 3, 4, 5):
    data = pickle.dumps(Bomb(), protocol=protocol)
    (tmp_path / "weights.pt").write_bytes(data)
    assert "weights.pt is a pickle" in _refusal(tmp_path / "weights.pt")
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("model/data.pkl", data)
  (tmp_path / "model.pth").write_bytes(buffer.getvalue())
  assert "model.pth is a PyTorch file (a pickle" in _refusal(
    tmp_path / "model.pth"
  )
  np.savez(tmp_path / "x.npz", x=np.zeros(3))
  assert "x.npz is a zip archive" in _refusal(tmp_path / "x.npz")
  assert not (tmp_path / "exploded").exists()


def test_header_that_looks_like_a_pickle_is_read(tmp_path):
  # Header lengths 0x0280, 0x0380, ... start with a pickle's magic bytes.
  seen = set()
  for padding in range(400, 700, 4):
    text = {"pad": "x" * padding}
    weights.save(tmp_path / "w", {"x": jnp.ones(3)}, text)
    if (tmp_path / "w").read_bytes()[:2] in (b"\x80\x02", b"\x80\x03"):
      seen.add(padding)
      weights.load(tmp_path / "w", None, {"x": jnp.ones(3)})
  assert seen


def test_git_lfs_pointer(tmp_path):
  (tmp_path / "w").write_text("version https://git-lfs.github.com/spec/v1\n")
  assert "git lfs pull" in _refusal(tmp_path / "w")


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated(path, keep):
  whole = path.read_bytes()
  path.write_bytes(whole[:keep])
  # Truncation is named before the digest, which would only say "different".
  message = _refusal(path, "0" * 64)
  assert f"({len(whole[:keep])} bytes) is truncated" in message


def test_wrong_sha256(path):
  good = weights.sha256(path)
  raw = bytearray(path.read_bytes())
  raw[-1] ^= 1
  path.write_bytes(bytes(raw))
  # The digest is compared before names and shapes.
  message = _refusal(path, good, _abstract({"other": jnp.zeros(3)}))
  assert f"sha256 {weights.sha256(path)}" in message
  assert f"says {good}" in message


def test_mismatches_are_counted_and_three_named(path):
  expected = _tree()
  expected["params"]["Dense_0"]["kernel"] = jnp.zeros((3, 5))
  expected["params"]["new"] = jnp.zeros(2)
  expected["batch_stats"] = {"variance": jnp.zeros(4)}
  message = _refusal(path, None, _abstract(expected))
  assert "4 mismatches: " in message and message.count(";") == 2
  assert "batch_stats/variance: missing, wanted float[4]" in message
  assert "params/Dense_0/kernel: float[3, 4], wanted float[3, 5]" in message
  assert "params/new: missing, wanted float[2]" in message
  fewer = {"params": _tree()["params"]}
  message = _refusal(path, None, _abstract(fewer))
  assert "1 mismatches: batch_stats/mean: unexpected [4]" in message

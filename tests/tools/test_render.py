"""render: arrays, pictures, and GenRep's folders."""

import json
import pickle
import types

import jax
import numpy as np
import pytest
from PIL import Image

from genrep_jax import run as run_lib
from genrep_jax.lib import (
  frozen,
  mesh as mesh_lib,
  plugins,
  rendering,
  weights,
)
from genrep_jax.tools import render
from tests import support

OPTIONS = {"widths": [4, 4], "extra_convs": [0, 0], "latent_dim": 6}


def save_random(path, name, **options):
  """Saves weights of a generator; drawn by numpy, as compiling takes longer."""
  options = plugins.defaults("generators", name) | options
  generator = plugins.make("generators", options)
  random = np.random.RandomState(0)
  variables = jax.tree.map(
    lambda x: np.float32(np.abs(random.standard_normal(x.shape))),
    jax.eval_shape(generator.init, jax.random.key(0)),
  )
  weights.save(path, variables, {"generator": options})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Weights of two tiny generators: {"plain", "classes": path}."""
  folder = tmp_path_factory.mktemp("weights")
  paths = {}
  for name, classes in (("plain", 0), ("classes", 3)):
    paths[name] = folder / f"{name}.safetensors"
    save_random(paths[name], "small", num_classes=classes, **OPTIONS)
  return paths


@pytest.fixture
def refused(capsys, monkeypatch):
  def run(*words):
    return support.refused(render.main, words, capsys, monkeypatch)

  return run


def words_of(files, name, out, *more):
  return ["--weights", str(files[name]), "--out", str(out), *map(str, more)]


def test_an_array_of_given_latents(files, tmp_path):
  made = frozen.from_file(files["classes"])
  z = np.random.RandomState(0).randn(11, 6)  # neither full calls nor devices
  y = np.arange(11) % 3
  np.savez(tmp_path / "in.npz", z=z, y=y)
  out = tmp_path / "new" / "out.npz"
  words = ("--latents", tmp_path / "in.npz", "--batch", 1)
  render.main(words_of(files, "classes", out, *words))
  expected = jax.jit(made.generator.apply)(
    made.variables, np.float32(z), np.int32(y)
  )
  with np.load(out) as file:
    assert file["images"].dtype == np.float32
    np.testing.assert_allclose(file["images"], expected, atol=1e-6)
    np.testing.assert_array_equal(file["y"], y)


def test_a_seed_draws_what_training_draws(files, tmp_path):
  render.main(words_of(files, "plain", tmp_path / "o.npz", "--num", 16))
  config = support.tiny(
    f"generator.weights={files['plain']}",
    "generator.widths=(4, 4)",
    "generator.latent_dim=6",
  )
  program = run_lib.Run(config, mesh_lib.make_mesh()).program
  state = types.SimpleNamespace(step=np.uint32(0), views={})
  views = jax.jit(lambda frozen: program.preview(state, frozen))(program.frozen)
  with np.load(tmp_path / "o.npz") as file:
    np.testing.assert_allclose(
      file["images"][:12], views["views_before_pixel"][0], atol=1e-5
    )


def test_a_grid(files, tmp_path):
  out = tmp_path / "grid.png"
  render.main(words_of(files, "plain", out, "--num", 5))
  with Image.open(out) as image:
    pixels = np.asarray(image)
  # 28 px, twice, three columns and two rows with a gap of two.
  assert pixels.shape == (2 * 56 + 2, 3 * 56 + 4, 3)
  assert (pixels[58:, 116:] == 255).all() and pixels[:56, :56].std() > 0


def read_folder(root):
  """Returns {folder/name: bytes} of everything below a folder."""
  return {
    str(path.relative_to(root)): path.read_bytes()
    for path in sorted(root.rglob("*"))
    if path.is_file()
  }


FOLDER = ("--per_folder", 3, "--neighbors", 2, "--set", "view.sigma=0.5")


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory, optimized_module):
  del optimized_module  # latents are compared in bits
  out = tmp_path_factory.mktemp("whole") / "set"
  render.main(words_of(files, "classes", out, "--num", 8, *FOLDER))
  return out


def test_folders_in_the_layout_of_genrep(files, whole):
  assert sorted(p.name for p in whole.iterdir() if p.is_dir()) == [
    "0000",
    "0001",
    "0002",
  ]
  names = sorted(p.name for p in (whole / "0002").iterdir())
  assert names == [
    f"seed0000_sample{i:05d}_{end}.png"
    for i in (0, 1)
    for end in ("1.0_0", "1.0_1", "anchor")
  ] + ["z_dataset.pkl"]
  # Every picture can be rendered again from what the pickle says of it.
  made = frozen.from_file(files["classes"])
  latents = pickle.loads((whole / "0001" / "z_dataset.pkl").read_bytes())
  assert len(latents) == 9
  z = np.stack([z for z, _ in latents.values()])
  y = np.array([label for _, label in latents.values()], np.int32)
  assert (y == 1).all()
  images = np.asarray(jax.jit(made.generator.apply)(made.variables, z, y))
  for name, image in zip(latents, images, strict=True):
    with Image.open(whole / "0001" / name) as file:
      pixels = np.asarray(file)
    expected = np.clip(128.0 * (image + 1), 0, 255).astype(np.uint8)
    assert np.abs(np.int32(pixels) - expected).max() <= 1
  # Anchors are the seed's own; neighbors lie within 2 sigma of theirs.
  anchors, _ = rendering.draw(made.generator, 0, 3, first=3)
  np.testing.assert_array_equal(z[::3], anchors)
  moves = np.abs(z.reshape(3, 3, -1)[:, 1:] - anchors[:, None])
  assert 0 < moves.max() <= 1.0 + 1e-6


def test_restarts_and_shards_change_nothing(files, whole, tmp_path):
  words = words_of(files, "classes", tmp_path / "set", *FOLDER)
  render.main([*words, "--num", "4", "--shard", "1/2"])
  lost = tmp_path / "set" / "0001" / "seed0000_sample00000_anchor.png"
  lost.unlink()
  before = {
    path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.png")
  }
  for shard in ("0/2", "1/2"):
    render.main([*words, "--num", "8", "--shard", shard])
  assert read_folder(tmp_path / "set") == read_folder(whole)
  assert all(path.stat().st_mtime_ns == t for path, t in before.items())


def test_another_data_set_in_the_way(files, whole, tmp_path, refused):
  before = read_folder(whole)
  words = ["--num", 8, *FOLDER, "--seed", 1]
  line = refused(*words_of(files, "classes", whole, *words))
  assert "other options" in line and read_folder(whole) == before
  (tmp_path / "thesis").write_text("precious")
  line = refused(*words_of(files, "classes", tmp_path, "--num", 1))
  assert "something else" in line
  assert json.loads((whole / "render.json").read_text())["seed"] == 0


def test_options_reach_the_generator(tmp_path):
  path = tmp_path / "w.safetensors"
  sizes = {"resolution": 8, "channel_max": 4, "w_dim": 4, "z_dim": 4}
  save_random(path, "stylegan2", mapping_layers=1, **sizes)
  words = ["--weights", str(path), "--num", "2", "--out"]
  render.main([*words, str(tmp_path / "a.npz")])
  rows = ("--set", "crop_rows=2,6")
  render.main([*words, str(tmp_path / "b.npz"), *rows])
  with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
    np.testing.assert_allclose(b["images"], a["images"][:, 2:6], rtol=1e-5)
    assert np.abs(a["images"]).max() > 1.0  # the network's own range


def test_bad_words_are_refused(files, tmp_path, refused):
  z = np.zeros((2, 6), np.float32)

  def latents(**arrays):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
    np.savez(path, **arrays)
    return "--latents", path

  bad = z.copy()
  bad[1, 2] = np.nan
  (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
  for name, given, words in (
    ("plain", (), ["--latents", "--num"]),
    ("plain", ("--num", 0), ["--num", "0"]),
    ("plain", ("--num", 1, "--batch", 0), ["--batch", "0"]),
    ("plain", ("--num", 1, "--precision", "half"), ["half", "bfloat16"]),
    ("plain", ("--num", 1, "--generator", "smal"), ["smal", "small"]),
    ("plain", ("--num", 1, "--generator", "bigbigan"), ["small", "bigbigan"]),
    ("plain", ("--num", 1, "--sha256", "0" * 64), ["sha256", "0" * 64]),
    ("plain", ("--num", 1, "--set", "psi=1"), ["psi", "truncation"]),
    ("plain", ("--num", 1, "--set", "base_px=8"), ["base_px: given 8", "7"]),
    (
      "plain",
      ("--num", 1, "--set", "base_px=x"),
      ["base_px: given 'x'", "integer"],
    ),
    ("plain", ("--num", 1, "--set", "truncation=-1"), ["truncation", "-1"]),
    ("plain", ("--num", 1, "--set", "view.sigma=1"), ["view.", "folder"]),
    ("plain", ("--latents", tmp_path / "no.npz"), ["no file", "no.npz"]),
    ("plain", ("--latents", tmp_path / "cut.npz"), ["no readable .npz"]),
    ("plain", latents(x=z), ["no array 'z'"]),
    ("plain", latents(z=z[:, 1:]), ["[2, 5]", "[n 6]"]),
    ("plain", latents(z=np.int32(z)), ["int32", "floating"]),
    ("plain", latents(z=bad), ["NaN"]),
    ("classes", latents(z=z), ["'y'", "0..2"]),
    ("classes", latents(z=z, y=np.array([0, 3])), ["class 3", "0..2"]),
    ("classes", latents(z=z, y=np.array([0.0, 1])), ["float64[2]", "whole"]),
  ):
    line = refused(*words_of(files, name, tmp_path / "o.npz", *given))
    for word in words:
      assert word in line, line
  assert not (tmp_path / "o.npz").exists()
  folder = tmp_path / "set"
  for given, words in (
    (("--num", 3, "--shard", "2/2"), ["2/2"]),
    (("--num", 3, "--neighbors", -1), ["--neighbors", "-1"]),
    (("--num", 4, "--per_folder", 1), ["4 folders", "3 classes"]),
    (("--num", 3, "--view", "gauss"), ["gauss", "gaussian"]),
    (("--num", 3, "--set", "view.sigm=1"), ["sigm", "nearest: 'sigma'"]),
    (latents(z=z, y=[0, 0]), ["--latents", "anchors are drawn"]),
  ):
    line = refused(*words_of(files, "classes", folder, *given))
    for word in words:
      assert word in line, line
  assert not folder.exists()
  _, path = latents(z=z)
  line = refused("--num", 1, "--weights", path, "--out", tmp_path / "o.npz")
  assert "is a zip archive" in line

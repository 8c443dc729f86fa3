"""convert_weights: parity through the command, strictness, same bytes."""

import ast
import pickle

import numpy as np
import pytest
import safetensors.numpy

from genrep_jax.lib import contracts, foreign, options, weights
from genrep_jax.tools import convert_weights, render
from tests import fixture_files, support
from tests.generators import test_biggan_tf
from tests.lib import test_tensor_bundle

NAME = "generator.layers.3.conv_1.weight_orig"


@pytest.fixture
def refused(capsys, monkeypatch):
  """Returns a function: words -> the line that refuses them."""

  def run(*words):
    return support.refused(convert_weights.main, words, capsys, monkeypatch)

  return run


# fixture, architecture, converter's words, generator's --set, recorded output
PARITY = [
  (
    "biggan_deep_128_ch4.npz",
    "biggan_deep",
    ["--truncation", "0.4"],
    [],
    ("in/z_t0.4", "out/images_t0.4"),
  ),
  ("bigbigan_ch8.npz", "bigbigan", [], [], ("in/z", "out/images_out_eps1e-4")),
  ("dcgan_32.npz", "dcgan", [], [], ("in/z", "out/images")),
  (
    "dcgan_32_classes.npz",
    "dcgan",
    ["--set", "num_classes=5"],
    [],
    ("in/z", "out/images"),
  ),
  (
    "stylegan2_32_nvidia.npz",
    "stylegan2",
    [],
    ["truncation_psi=0.7", "truncation_cutoff=4", "noise=const"],
    ("in/z", "out/psi0.7_const_cutoff4"),
  ),
  (
    "stylegan2_32_rosinality.npz",
    "stylegan2",
    ["--subtree", "state", "--subtree", "extra"],
    ["truncation_psi=0.7", "noise=none"],
    ("in/z", "out/psi0.7_none"),
  ),
]


@pytest.mark.parametrize("name, arch, words, options, keys", PARITY)
def test_from_original_keys_to_images(
  tmp_path, capsys, name, arch, words, options, keys
):
  out, latents = tmp_path / "x.safetensors", tmp_path / "in.npz"
  convert_weights.main(
    [
      "--arch",
      arch,
      "--source",
      str(fixture_files.path(name)),
      "--out",
      str(out),
      *words,
    ]
  )
  said = capsys.readouterr().out
  assert weights.sha256(out) in said and "parameters" in said
  with np.load(fixture_files.path(name)) as file:
    arrays = {"z": file[keys[0]], "expected": file[keys[1]]}
    for key in ("in/class_id", "in/y"):
      if key in file.files:
        arrays["y"] = file[key]
  np.savez(latents, **arrays)
  images = tmp_path / "out.npz"
  render.main(
    [
      *("--generator", arch, "--weights", str(out), "--out", str(images)),
      *("--latents", str(latents)),
      *[word for option in options for word in ("--set", option)],
    ]
  )
  with np.load(images) as file:
    got, expected = file["images"], arrays["expected"]
    np.testing.assert_array_equal(file["z"], arrays["z"])
  scale = 1e-4 * expected.std() if arch == "stylegan2" else 1e-5
  assert got.dtype == np.float32 and got.shape == expected.shape
  assert np.abs(got - expected).max() < scale


@pytest.fixture(scope="module")
def thin():
  """BigGAN-deep's thin checkpoint, original key -> array."""
  return fixture_files.state(fixture_files.arrays("biggan_deep_128_ch4.npz"))


def test_formats_agree_and_bytes_repeat(thin, tmp_path):
  np.savez(tmp_path / "a.npz", **thin)
  safetensors.numpy.save_file(thin, tmp_path / "a.safetensors")
  digests = []
  for source in ("a.npz", "a.safetensors", "a.npz"):
    out = tmp_path / "out.safetensors"
    words = ["--arch", "biggan_deep", "--source", str(tmp_path / source)]
    convert_weights.main([*words, "--out", str(out), "--overwrite"])
    digests.append(weights.sha256(out))
    metadata = weights.read_metadata(out)
    assert metadata["source"]["sha256"] == weights.sha256(tmp_path / source)
    assert metadata["generator"]["name"] == "biggan_deep"
    assert metadata["generator"]["num_classes"] == 10
  # The format is named in the metadata, so only equal sources give equal bytes.
  assert digests[0] == digests[2] != digests[1]


def test_pytorch_files(thin, tmp_path, refused):
  torch = pytest.importorskip("torch")
  tensors = {key: torch.from_numpy(x) for key, x in thin.items()}
  wrapped = {"g_ema": tensors, "optimizer": {"step": torch.ones(3)}, "n": 7}
  torch.save(wrapped, tmp_path / "a.pt")
  arrays, kind = foreign.read(tmp_path / "a.pt")
  assert kind == "torch" and "optimizer/step" in arrays
  chosen = foreign.select(arrays)
  assert set(chosen) == set(thin)
  np.testing.assert_array_equal(chosen[NAME], thin[NAME])

  class Evil:
    def __reduce__(self):
      return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

  torch.save({"g_ema": Evil()}, tmp_path / "evil.pt")
  (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
  for name in ("evil.pt", "evil.pkl"):
    words = ("--arch", "biggan_deep", "--source", tmp_path / name)
    assert "would run code" in refused(*words, "--out", tmp_path / "o")
  assert not (tmp_path / "ran").exists()


def test_a_pytorch_file_without_torch(tmp_path, refused, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": 1}))
  line = refused("--list", "--source", tmp_path / "a.pkl")
  assert "needs torch" in line and "pip install" in line


def test_a_tensorflow_folder(tmp_path, refused, capsys):
  recorded = fixture_files.path("bigbigan_ch8.npz")
  folder = tmp_path / "module" / "variables"
  folder.mkdir(parents=True)
  port = fixture_files.state(fixture_files.arrays(recorded.name))
  variables = test_biggan_tf.tensorflow_file(port)
  test_tensor_bundle.write(folder / "variables", variables)
  outs = tmp_path / "tf.safetensors", tmp_path / "port.safetensors"
  base = ["--arch", "bigbigan", "--source"]
  for source, out in zip((folder.parent, recorded), outs, strict=True):
    convert_weights.main([*base, str(source), "--out", str(out)])
  one, other = (safetensors.numpy.load_file(out) for out in outs)
  assert set(one) == set(other)
  for name, array in one.items():
    np.testing.assert_allclose(array, other[name], rtol=1e-5, atol=1e-7)
  capsys.readouterr()
  convert_weights.main(["--list", "--source", str(folder.parent)])
  assert "GenEncWrapper/Generator/conv_2d/w" in capsys.readouterr().out
  words = ("--source", folder.parent, "--out", tmp_path / "o")
  assert "statistics" in refused("--arch", "biggan_deep", *words)
  assert "ada-pytorch" in refused("--arch", "stylegan2", *words)
  data = next(folder.glob("*.data-00001*"))
  data.write_bytes(data.read_bytes()[:-1])
  assert data.name in refused("--arch", "bigbigan", *words)


# list of keys, architecture, parameters as published
RELEASED = [
  ("biggan_deep_128_keys.txt", "biggan_deep", "50,388,609"),
  ("biggan_deep_256_keys.txt", "biggan_deep", "55,880,833"),
  ("biggan_deep_512_keys.txt", "biggan_deep", "56,163,905"),
  ("bigbigan_keys.txt", "bigbigan", "70,306,116"),  # the constant once
  ("stylegan2_512_nvidia_keys.txt", "stylegan2", "30,276,583"),
  ("stylegan2_512_rosinality_keys.txt", "stylegan2", "30,276,583"),
]


def invented(key, shape, random):
  """A released tensor's name and shape, with values of no meaning."""
  if key.endswith((".kernel", "resample_filter")):
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
    return taps if key.endswith("filter") else 4 * taps
  if key == "shared.weight":
    return np.tile(random.standard_normal(shape[1:], np.float32), (1000, 1))
  return np.abs(random.standard_normal(shape, np.float32)) + np.float32(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name, arch, count", RELEASED)
def test_the_released_models_keys_at_full_size(
  tmp_path, capsys, name, arch, count
):
  """Every tensor of the real files, through the command, to one image."""
  random = np.random.default_rng(0)
  lines = fixture_files.path(name).read_text().splitlines()
  arrays = {
    key: invented(key, ast.literal_eval(shape), random)
    for key, shape in (line.split("\t") for line in lines)
  }
  source, out = tmp_path / "source.npz", tmp_path / "out.safetensors"
  np.savez(source, **arrays)
  words = ["--arch", arch, "--source", str(source), "--out", str(out)]
  convert_weights.main(words)
  assert f"parameters   {count} (as published)" in capsys.readouterr().out
  words = ["--weights", str(out), "--num", "1", "--out"]
  render.main([*words, str(tmp_path / "image.npz")])
  with np.load(tmp_path / "image.npz") as file:
    assert np.isfinite(file["images"]).all()


def test_list_names_every_tensor(thin, tmp_path, capsys):
  np.savez(tmp_path / "a.npz", **thin)
  convert_weights.main(["--list", "--source", str(tmp_path / "a.npz")])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(thin) + 1
  assert f"{NAME}\t{thin[NAME].shape}\tfloat32" in lines


def test_a_subtree_is_chosen_or_named(tmp_path):
  arrays = {"g_ema/a": 1, "d/a": 2, "latent_avg": 3}
  assert foreign.select(arrays) == {"a": 1, "latent_avg": 3}
  assert foreign.select(arrays, ["d"]) == {"a": 2}
  for wanted, words in ((["e"], "d, g_ema"), (["d", "g_ema"], "in two")):
    with pytest.raises(ValueError, match=words):
      foreign.select(arrays, wanted)
  assert foreign.select({"x/a": 1, "y": 2}) == {"x/a": 1, "y": 2}
  assert foreign.select({"state/g_ema/a": 1, "state/n": 2}) == {"a": 1}
  assert foreign.select({"s/t/a": 1}, ["s/t"]) == {"a": 1}


def test_every_generator_but_our_own_can_be_converted():
  known = convert_weights.architectures()
  assert {"biggan_deep", "bigbigan", "stylegan2"} <= set(known)
  for arch in known:
    _, _, converter = convert_weights.resolve(arch)
    assert isinstance(converter, contracts.Converter)
    if converter.truncation:
      assert converter.truncation in converter.options
    for name, option in converter.options.items():
      options.check(name, option, option.default)


def _nan(thin):
  return thin | {NAME: np.full_like(thin[NAME], np.nan)}


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda a: {k: x for k, x in a.items() if k != NAME}, ["missing", NAME]),
    (lambda a: a | {"more": a[NAME]}, ["unexpected", "more"]),
    (lambda a: a | {NAME: a[NAME][..., :2]}, ["mis-shaped", NAME]),
    (_nan, ["not finite", NAME]),
    (lambda a: {"w": a[NAME]}, ["not biggan_deep", "missing", "unexpected w"]),
  ],
  ids=["missing", "unexpected", "mis-shaped", "nan", "foreign"],
)
def test_a_wrong_checkpoint_is_refused(thin, tmp_path, refused, change, words):
  np.savez(tmp_path / "a.npz", **change(thin))
  line = refused(
    *("--arch", "biggan_deep", "--source", tmp_path / "a.npz"),
    *("--out", tmp_path / "made" / "o.safetensors"),
  )
  for word in words:
    assert word in line, line
  assert not (tmp_path / "made").exists()


def test_bad_words_are_refused(thin, tmp_path, refused):
  whole = fixture_files.path("biggan_deep_128_ch4.npz")
  out = tmp_path / "o.safetensors"
  (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:5000])
  (tmp_path / "text").write_text("no weights, but long enough to be read")
  (tmp_path / "there").write_text("precious")
  base = {"--arch": "biggan_deep", "--source": whole, "--out": out}
  for change, words in (
    ({"--arch": "biggan"}, ["biggan", "biggan_deep", "stylegan2"]),
    ({"--arch": "small"}, ["small", "biggan_deep"]),
    ({"--arch": "bigbigan"}, ["not bigbigan", "missing"]),
    ({"--source": tmp_path / "none.npz"}, ["no file", "none.npz"]),
    ({"--source": tmp_path / "cut.npz"}, ["5000 bytes", "truncated"]),
    ({"--source": tmp_path / "text"}, ["no known format", "safetensors"]),
    ({"--source": "hf://me/it/f.bin"}, ["hf://me/it/f.bin", "sha256"]),
    ({"--sha256": "0" * 64}, ["has sha256", "0" * 64]),
    ({"--truncation": "0"}, ["--truncation", "> 0 and <= 1"]),
    ({"--truncation": "1.5"}, ["1.5", "> 0 and <= 1"]),
    ({"--set": "hf_compact=true"}, ["hf_compact", "nearest: 'hf_compat'"]),
    ({"--set": "hf_compat=maybe"}, ["hf_compat", "maybe"]),
    ({"--subtree": "g_ema"}, ["g_ema", "there are: in, mid, out, state"]),
    ({"--out": tmp_path / "there"}, ["exists", "--overwrite"]),
    ({"--out": tmp_path}, ["is a folder"]),
    ({"--out": tmp_path / "there" / "o"}, ["there", "not a folder"]),
  ):
    pairs = base | change
    line = refused(*[word for pair in pairs.items() for word in pair])
    for word in words:
      assert word in line, line
  assert not out.exists()
  assert (tmp_path / "there").read_text() == "precious"

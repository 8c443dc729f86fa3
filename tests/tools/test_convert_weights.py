"""convert_weights: parity through the command, strictness, same bytes."""

import ast
import pickle
import shlex
import subprocess
import sys
import warnings

import numpy as np
import pytest
import safetensors.numpy

from genrep_jax.lib import contracts, foreign, options, weights
from genrep_jax.tools import convert_weights, render
from tests import fixture_files, support, torch_files
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
  arrays, kind, _ = foreign.read(tmp_path / "a.pt")
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


@pytest.fixture(scope="module")
def rosinality():
  """StyleGAN2's g_ema, original key -> array, and its latent_avg."""
  recorded = fixture_files.arrays("stylegan2_32_rosinality.npz")
  return fixture_files.state(recorded), recorded["extra/latent_avg"]


def convert(source, arch="stylegan2", *words):
  """Converts a file; returns the result's arrays."""
  out = source.with_name(source.name + ".made")
  words = ["--arch", arch, "--source", str(source), "--out", str(out), *words]
  convert_weights.main([*words, "--overwrite"])
  return safetensors.numpy.load_file(out)


def moved(state):
  """Another network of the same kind; the filter of all is the same."""
  return {k: x if "kernel" in k else x + 1 for k, x in state.items()}


def same(one, other):
  assert set(one) == set(other)
  for name, array in one.items():
    np.testing.assert_array_equal(array, other[name], strict=True)


def test_a_training_checkpoint_needs_neither_torch_nor_its_classes(
  rosinality, tmp_path, monkeypatch, capsys
):
  """Rosinality's: g, d, g_ema and optimizers beside an argparse.Namespace."""
  monkeypatch.setitem(sys.modules, "torch", None)
  g_ema, average = rosinality
  adam = {"state": {0: {"step": 7, "exp_avg": average}}, "param_groups": [{}]}
  tree = {
    "g": moved(g_ema),
    "d": {"convs.0.weight": average},
    "g_ema": g_ema,
    "g_optim": adam,
    "args": torch_files.Instance(
      "argparse.Namespace", {"size": 32, "path": "/data", "betas": (0.0, 0.99)}
    ),
    "ada_aug_p": 0.1,
    "latent_avg": average,
  }
  np.savez(tmp_path / "plain.npz", **g_ema, latent_avg=average)
  plain = convert(tmp_path / "plain.npz")
  for write in (torch_files.write, torch_files.write_old):
    capsys.readouterr()
    same(convert(write(tmp_path / "a.pt", tree)), plain)
    said = capsys.readouterr().out
    assert "left out     args (an object of argparse.Namespace)" in said


def test_torch_reads_what_is_written_here_and_the_reverse(tmp_path):
  torch = pytest.importorskip("torch")
  base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5) / 7
  state = torch.nn.BatchNorm2d(3).state_dict()
  tree = {
    "state": state,
    "views": [base[1:, ::2].transpose(0, 2), base[0], base.expand(2, 3, 4, 5)],
    "parameter": torch.nn.Parameter(base),
    "half": base.half(),
    "brain": base.bfloat16(),
    "empty": base[:0],
    "flag": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "long": torch.tensor([-(2**40)]),
    "optimizer": torch.optim.Adam([torch.nn.Parameter(base)]).state_dict(),
  }
  for how in ({}, {"_use_new_zipfile_serialization": False}):
    torch.save(tree, tmp_path / "a.pt", **how)
    arrays, kind, left_out = foreign.read(tmp_path / "a.pt")
    assert kind == "torch" and not left_out
    for key, want in {
      **{f"state/{name}": x for name, x in state.items()},
      **{f"views/{i}": x for i, x in enumerate(tree["views"])},
      **{k: x for k, x in tree.items() if isinstance(x, torch.Tensor)},
      "brain": base.bfloat16().float(),
    }.items():
      want = want.detach().numpy()
      np.testing.assert_array_equal(arrays[key], want, strict=True)
  arrays = {"a": np.ones((2, 3), np.float32), "b": np.arange(4)}
  for write in (torch_files.write, torch_files.write_old):
    got = torch.load(write(tmp_path / "b.pt", arrays), weights_only=True)
    for key, want in arrays.items():
      np.testing.assert_array_equal(got[key].numpy(), want, strict=True)


@pytest.mark.parametrize(
  "kind", ["complex", "sparse", "quantized", "nested", "meta", "float8"]
)
def test_tensors_that_are_no_arrays_of_numbers_are_named(
  tmp_path, kind, refused
):
  torch = pytest.importorskip("torch")
  strange = {
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "nested": lambda x: torch.nested.nested_tensor([x, x[:1]]),
    "meta": lambda x: x.to("meta"),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
  }
  with warnings.catch_warnings():  # PyTorch's own
    warnings.simplefilter("ignore")
    tensors = {
      "main.0.weight": strange[kind](torch.ones(2, 3)),
      "a": torch.ones(1),
    }
  torch.save(tensors, tmp_path / "a.pt")
  arrays, _, left_out = foreign.read(tmp_path / "a.pt")
  assert set(arrays) == {"a"} and "tensor" in left_out["main.0.weight"]
  words = ("--arch", "dcgan", "--source", tmp_path / "a.pt", "--out", "o")
  line = refused(*words)
  assert "left out of the file: main.0.weight (a tensor" in line


def test_the_command_that_a_refusal_gives_extracts_the_tensors(
  thin, tmp_path, refused
):
  """A whole module, pickled: code that only its owner may run."""
  torch = pytest.importorskip("torch")
  module = torch.nn.Linear(2, 3)
  torch.save({"g_ema": module}, tmp_path / "a b.pt")
  words = ("--arch", "biggan_deep", "--source", tmp_path / "a b.pt")
  line = refused(*words, "--out", tmp_path / "o")
  assert "g_ema (an object of torch.nn.modules.linear.Linear)" in line
  command = line[line.index("python -c") : line.index(" (docs/")]
  command = command.replace("python", shlex.quote(sys.executable), 1)
  subprocess.run(command, shell=True, check=True)
  with np.load(tmp_path / "a b.pt.npz") as file:
    for name, tensor in module.state_dict().items():
      np.testing.assert_array_equal(file[name], tensor.numpy())


# fixture, architecture, converter's words
FAMILIES = [
  ("biggan_deep_128_ch4.npz", "biggan_deep", ()),
  ("bigbigan_ch8.npz", "bigbigan", ()),
  ("dcgan_32.npz", "dcgan", ()),
  ("stylegan2_32_nvidia.npz", "stylegan2", ()),
  ("stylegan2_32_rosinality.npz", "stylegan2", ()),
]


@pytest.mark.parametrize("name, arch, words", FAMILIES)
def test_every_family_is_found_where_trainers_keep_it(
  tmp_path, name, arch, words
):
  state = fixture_files.state(fixture_files.arrays(name))
  state = {key.removeprefix("netG_state_dict/"): x for key, x in state.items()}
  np.savez(tmp_path / "plain.npz", **state)
  plain = convert(tmp_path / "plain.npz", arch, *words)
  other = {"opt/step": np.zeros(1), "state_dict/discriminator.a": np.ones(2)}
  for prefix, more in (
    ("_orig_mod.", {}),
    ("module._orig_mod.", {}),
    ("g_ema/module.", other),
    ("state_dict/generator.", other),
    ("state_dict/decoder.", other | {"state_dict/encoder.a": np.ones(1)}),
    ("state_dict/g_ema.", {f"state_dict/g.{k}": x for k, x in state.items()}),
    ("model/netG._orig_mod.", other),
  ):
    wrapped = {prefix + key: x for key, x in state.items()} | more
    safetensors.numpy.save_file(wrapped, tmp_path / "a.safetensors")
    same(convert(tmp_path / "a.safetensors", arch, *words), plain)


def test_several_networks_that_fit_are_named(rosinality, tmp_path, refused):
  state, average = rosinality
  one = {f"state_dict/generator.{key}": x for key, x in state.items()}
  two = moved(state)
  two = {f"state_dict/generator_b.{key}": x for key, x in two.items()}
  source = tmp_path / "a.npz"
  np.savez(source, **one, **two, latent_avg=average)
  words = ("--arch", "stylegan2", "--source", source, "--out", tmp_path / "o")
  line = refused(*words)
  assert "2 dictionaries of the file fit" in line
  for name in ("state_dict/generator", "state_dict/generator_b"):
    assert f"--subtree {name}" in line
  made = convert(source, "stylegan2", "--subtree", "state_dict/generator_b")
  assert "params/mapping/w_avg" not in made  # of the dictionary alone
  # One that does not fit is told of, with where else was looked.
  np.savez(source, **dict(list(one.items())[1:]), **{"state_dict/d.a": average})
  line = refused(*words)
  assert "not a StyleGAN2" in line and "state_dict/generator" in line


def test_psp_keeps_an_average_for_every_layer(rosinality, tmp_path):
  state, average = rosinality
  np.savez(tmp_path / "plain.npz", **state, latent_avg=average)
  tree = {
    "state_dict": {f"decoder.{key}": x for key, x in state.items()}
    | {"encoder.input_layer.0.weight": np.ones((2, 2), np.float32)},
    "latent_avg": np.tile(average, (8, 1)),
    "opts": {"device": "cuda:0"},
  }
  source = torch_files.write(tmp_path / "psp.pt", tree)
  same(convert(source), convert(tmp_path / "plain.npz"))


def test_noise_that_a_file_lacks_is_drawn_from_a_stated_seed(
  rosinality, tmp_path, refused
):
  state, average = rosinality
  source, out = tmp_path / "old.npz", tmp_path / "old.npz.made"
  state = {k: x for k, x in state.items() if not k.startswith("noises.")}
  np.savez(source, **state, latent_avg=average)
  made = convert(source)
  digest = weights.sha256(out)
  assert weights.read_metadata(out)["source"]["options"]["noise_seed"] == 0
  maps = {name: x for name, x in made.items() if name.endswith("noise_const")}
  assert len(maps) == 7 and all(x.std() > 0.6 for x in maps.values())
  convert(source)
  assert weights.sha256(out) == digest
  other = convert(source, "stylegan2", "--set", "noise_seed=1")
  changed = {name for name, x in made.items() if (x != other[name]).any()}
  assert changed == set(maps)
  # Some of the maps are no older file: it is damaged.
  np.savez(source, **state, **{"noises.noise_0": np.ones((1, 1, 4, 4))})
  words = ("--arch", "stylegan2", "--source", source, "--out", tmp_path / "o")
  assert "missing noises.noise_1" in refused(*words)


def test_an_array_of_objects_is_left_out_or_missed(
  thin, tmp_path, refused, capsys
):
  source = tmp_path / "a.npz"
  np.savez(source, **thin)
  plain = convert(source, "biggan_deep")
  np.savez(source, **thin, config=np.array([{"a": 1}, None], object))
  capsys.readouterr()
  same(convert(source, "biggan_deep"), plain)
  assert "left out     config (an array of objects" in capsys.readouterr().out
  strange = np.array([{"a": 1}], object)
  np.savez(
    source, **{k: x for k, x in thin.items() if k != NAME}, **{NAME: strange}
  )
  words = ("--arch", "biggan_deep", "--source", source, "--out", tmp_path / "o")
  line = refused(*words)
  assert f"missing {NAME}" in line and f"left out of the file: {NAME}" in line


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

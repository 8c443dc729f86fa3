"""Exported encoders: read by others, compared, refused, whole or not at all."""

import functools
import json
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import genrep_jax
from genrep_jax.lib import errors, export, plugins, trees
from genrep_jax.tools import export_encoder

_SMALL = {"name": "small", "width": 0.25}
_THIN = {"name": "resnet", "depth": 50, "blocks": (1, 1), "width": 0.125}
_GRAY = {
  "height": 28,
  "width": 28,
  "channels": 1,
  "mean": (0.3,),
  "std": (0.2,),
}
_COLOR = {
  "height": 32,
  "width": 32,
  "channels": 3,
  "mean": (0.485, 0.456, 0.406),
  "std": (0.229, 0.224, 0.225),
}


@functools.cache
def _tree(entry, shape):
  """Weights in which no norm is the identity."""
  encoder = plugins.make("encoders", dict(entry))
  shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), shape))
  rng = np.random.default_rng(0)

  def draw(name, x):
    if name.endswith("kernel"):
      inputs = np.prod(x.shape[:-1])
      return np.float32(rng.normal(size=x.shape) * (2 / inputs) ** 0.5)
    return np.float32(rng.uniform(0.5, 1.5, x.shape))

  return trees.map_named(draw, shapes)


def _run(tmp_path, entry, target, *words, image=_GRAY):
  """Exports an encoder; returns (the encoder, the folder that was made)."""
  shape = image["height"], image["width"], image["channels"]
  metadata = export.encoder_metadata(
    encoder=entry,
    image=image,
    generator={"name": "small"},
    config={"title": "A title"},
    seed=0,
    steps=1,
  )
  path = tmp_path / "encoder.safetensors"
  tree = _tree(tuple(sorted(entry.items())), shape)
  export.save(path, tree, metadata, {"knn/knn20_accuracy": 0.5})
  out = tmp_path / "out"
  code = export_encoder.main(
    ["--weights", str(path), "--to", target, "--out", str(out), *words]
  )
  assert code == 0
  left = sorted(one.name for one in tmp_path.iterdir())
  assert left == ["encoder.safetensors", "out"]
  return genrep_jax.load_encoder(path), out


def _loaded(out):
  """Runs the exported module; returns images -> features."""
  torch = pytest.importorskip("torch")
  module = {"__file__": str(out / "encoder.py"), "__name__": "encoder"}
  text = (out / "encoder.py").read_text()
  assert "genrep" not in text.lower().replace("genrep_jax, ", "")
  exec(compile(text, module["__file__"], "exec"), module)
  net = module["load"]()

  def run(images):
    with torch.no_grad():
      return net(module["preprocess"](images)).numpy()

  return run


def _images(shape, rows=3):
  return np.random.default_rng(1).integers(0, 256, (rows, *shape), np.uint8)


@pytest.mark.parametrize(
  ("entry", "image"),
  [
    (_SMALL, _GRAY),
    ({**_SMALL, "feature_norm": "layer", "norm": "none"}, _COLOR),
    (
      {**_SMALL, "feature_norm": "none", "norm": "group", "group_size": 4},
      {**_GRAY, "height": 52, "width": 41},
    ),
    (_THIN, _COLOR),
    ({**_THIN, "depth": 18, "stem": "small"}, _GRAY),
    ({**_THIN, "norm": "group", "group_size": 4, "stem": "small"}, _COLOR),
  ],
)
def test_the_torch_module_is_the_encoder(tmp_path, capsys, entry, image):
  pytest.importorskip("torch")
  encoder, out = _run(tmp_path, entry, "torch_module", image=image)
  printed = capsys.readouterr().out
  assert (
    printed.count("difference ") == 3 and "compared by  encoder.py" in printed
  )
  images = _images((20, 50, encoder.image_shape[2]))
  want = encoder.encode(images)
  np.testing.assert_allclose(
    _loaded(out)(images), want, atol=2e-5 * np.abs(want).max()
  )


def test_torchvision_s_and_timm_s_resnet_is_the_encoder(tmp_path, capsys):
  pytest.importorskip("torch")
  entry = {"name": "resnet", "depth": 18, "stem": "small"}
  _, out = _run(tmp_path, entry, "torchvision", image=_COLOR)
  assert "compared by" in capsys.readouterr().out
  state = safetensors.numpy.load_file(out / "model.safetensors")
  assert len(state) == 120 and state["conv1.weight"].shape == (64, 3, 3, 3)
  exporters = plugins.resolve("encoders", "resnet").EXPORTERS
  cfg = {**plugins.defaults("encoders", "resnet"), **entry}
  assert exporters["torchvision"].arrays is exporters["timm"].arrays
  theirs = {
    "torchvision": (out / "encoder.py").read_text(),
    "timm": exporters["timm"].source(cfg, 3),
  }
  networks = {
    "torchvision": "torchvision.models.resnet18()",
    "timm": 'timm.create_model("resnet18", num_classes=0)',
  }
  for name, text in theirs.items():
    assert f"import {name}\n" in text and f"net = {networks[name]}" in text
    assert "net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)" in text
    assert "net.maxpool = nn.Identity()" in text
  text = exporters["timm"].source({**cfg, "stem": "imagenet"}, 1)
  assert "net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)" in text
  text = exporters["timm"].source({**cfg, "stem": "imagenet"}, 3)
  assert "conv1" not in text and "maxpool" not in text


def test_the_hub_s_folder_is_loaded_as_a_run_is(tmp_path):
  encoder, out = _run(tmp_path, _SMALL, "hf")
  again = genrep_jax.load_encoder(out)
  images = _images((28, 28, 1))
  np.testing.assert_array_equal(again.encode(images), encoder.encode(images))
  assert again.metadata == encoder.metadata
  config = json.loads((out / "config.json").read_text())
  assert config["encoder"] == _SMALL and config["feature_dim"] == 128
  card = (out / "README.md").read_text()
  assert card.startswith("---\nlibrary_name: genrep_jax\n")
  assert "| knn/knn20_accuracy | 0.5 |" in card and "sha256=" in card


def test_stablehlo_holds_everything_for_any_number_of_images(tmp_path):
  pytest.importorskip("flatbuffers")
  import jax.export

  words = ("--platforms", "cpu,cuda,tpu")
  encoder, out = _run(tmp_path, _SMALL, "stablehlo", *words)
  data = (out / "encoder.stablehlo").read_bytes()
  exported = jax.export.deserialize(bytearray(data))
  assert exported.platforms == ("cpu", "cuda", "tpu")
  for rows in (1, 5):
    images = _images((28, 28, 1), rows)
    got = exported.call(np.float32(images) / 127.5 - 1)
    np.testing.assert_allclose(got, encoder.encode(images), atol=1e-4)


@pytest.mark.parametrize(
  ("entry", "words", "message"),
  [
    (_SMALL, ("--to", "timm"), "--to: given 'timm'; allowed: torch_module, hf"),
    (_SMALL, ("--to", "onnx"), "--to: given 'onnx'; allowed: torch_module"),
    (
      _THIN,
      ("--to", "timm"),
      "width: given 0.125; allowed: 1.0 in timm",
    ),
    (
      {"name": "bigbigan", "width": 0.0625, "blocks": (1, 1, 1, 1)},
      ("--to", "torch_module"),
      "allowed: hf, stablehlo",
    ),
    (
      _SMALL,
      ("--to", "stablehlo", "--platforms", "tpu"),
      "--platforms: given 'tpu'; allowed: some of cpu,cuda,rocm,tpu, cpu among",
    ),
    (
      _SMALL,
      ("--to", "stablehlo", "--platforms", "cpu,abacus"),
      "--platforms: given 'cpu,abacus'",
    ),
    (_SMALL, ("--to", "hf", "--sha256", "0" * 64), "has sha256"),
    (_SMALL, ("--to", "hf", "--plugin", "none"), "--plugin: given 'none'"),
    (_SMALL, ("--to", "hf", "--config.a=1"), "takes no --config"),
  ],
)
def test_a_target_that_cannot_be_is_refused(tmp_path, entry, words, message):
  image = _COLOR if entry["name"] != "small" else _GRAY
  with pytest.raises(errors.UsageError) as refused:
    _run(tmp_path, entry, *words[1:], image=image)
  assert message in str(refused.value) and "\n" not in str(refused.value)
  assert [one.name for one in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_what_exists_is_not_touched(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  for _ in range(2):  # a folder, then a file
    with pytest.raises(errors.UsageError, match=f"--out: {out} exists"):
      _run(tmp_path, _SMALL, "hf")
    if out.is_dir():
      out.rmdir()
      out.write_text("")
  out.unlink()
  with pytest.raises(errors.UsageError, match="no file"):
    export_encoder.main(["--weights", "x", "--to", "hf", "--out", str(out)])


@pytest.mark.parametrize(
  ("package", "target", "extra"),
  [("torch", "torch_module", "torch"), ("flatbuffers", "stablehlo", "export")],
)
def test_an_absent_package_is_named_before_anything_is_written(
  tmp_path, monkeypatch, package, target, extra
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(errors.UsageError) as refused:
    _run(tmp_path, _SMALL, target)
  assert str(refused.value) == (
    f"--to {target}: needs {package}: pip install -e '.[{extra}]'"
  )
  assert [one.name for one in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_another_network_is_not_left_behind(tmp_path, monkeypatch):
  pytest.importorskip("torch")
  module = plugins.resolve("encoders", "small")
  exporter = module.EXPORTERS["torch_module"]

  def scaled(cfg, variables):
    arrays = exporter.arrays(cfg, variables)
    return {**arrays, "conv1.weight": arrays["conv1.weight"] * 1.1}

  wrong = exporter.__class__(scaled, exporter.source)
  monkeypatch.setitem(module.EXPORTERS, "torch_module", wrong)
  with pytest.raises(RuntimeError, match="another one"):
    _run(tmp_path, _SMALL, "torch_module")
  assert [one.name for one in tmp_path.iterdir()] == ["encoder.safetensors"]

"""Writes a trained encoder as other libraries load it, and compares the two.

  python -m genrep_jax.tools.export_encoder --weights runs/X --to torchvision \
      --out exported

torchvision, timm: a ResNet under their names; torch_module: PyTorch code of its
own beside the weights; hf: a folder for the Hugging Face hub; stablehlo: one
program, weights included, for CPUs, GPUs and TPUs. What was written is read
again and encodes random and real images as genrep_jax does; the largest
difference is printed. The folder appears whole or not at all.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import tempfile

from genrep_jax.lib import errors, files, options, plugins
from genrep_jax.tools import _cli

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_ROWS = 8  # images of each kind that are compared
_TOLERANCE = 5e-3  # of the largest feature: more is another network


def main(argv) -> int:
  """Exports what the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.export_encoder", __doc__)
  add = arguments.add_argument
  add("--weights", required=True, help="encoder.safetensors, or a run's folder")
  add("--sha256", default="", help="that the file must have")
  add("--to", required=True, help="torchvision|timm|torch_module|hf|stablehlo")
  add("--out", required=True, metavar="DIR", help="a folder, made here")
  add("--platforms", default="cpu,cuda,tpu", help="of stablehlo")
  add("--plugin", help="module to import first, of an encoder of your own")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("export_encoder: takes no --config")
  out = pathlib.Path(flags.out)
  if out.exists() or out.is_symlink():
    raise errors.UsageError(f"--out: {flags.out} exists")
  _cli.check_writable(out.absolute().parent)
  if flags.plugin:
    plugins.resolve("encoders", flags.plugin, "--plugin")
  from genrep_jax.lib import environment, export

  environment.prepare()
  encoder = export.load_encoder(
    flags.weights, sha256=flags.sha256, precision="float32"
  )
  write = _writer(flags.to, encoder, flags.platforms)
  out.parent.mkdir(parents=True, exist_ok=True)
  partial = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
  )
  try:
    said, run = write(partial)
    _compare(encoder, run)
    os.chmod(partial, 0o755)  # mkdtemp makes it private
    partial.rename(out)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  for path in sorted(out.iterdir()):
    print(f"written      {path} ({path.stat().st_size:,} bytes)")
  print(f"compared by  {said}")
  return errors.EXIT_OK


def _writer(target: str, encoder, platforms: str):
  """Returns a function: folder -> (who reads it again, images -> features).

  Raises:
    UsageError: a target that this encoder, or this machine, cannot have.
  """
  name = encoder.metadata["encoder"]["name"]
  module = plugins.resolve("encoders", name)
  exporters = plugins.hook("encoders", module, "EXPORTERS") or {}
  if target == "hf":
    return lambda folder: _write_hf(folder, encoder)
  if target == "stablehlo":
    _need("flatbuffers", target, "export")
    names = tuple(platforms.split(","))
    return _stablehlo_writer(encoder, names)
  if target not in exporters:
    allowed = ", ".join([*exporters, "hf", "stablehlo"])
    options.refuse("--to", target, f"{allowed} (of an encoder {name})")
  return _torch_writer(encoder, exporters, target)


def _need(package: str, target: str, extra: str) -> None:
  if not _installed(package):
    raise errors.UsageError(
      f"--to {target}: needs {package}: pip install -e '.[{extra}]'"
    )


def _installed(package: str) -> bool:
  return importlib.util.find_spec(package) is not None


def _compare(encoder, run) -> None:
  """Prints how far two encoders are apart, on three kinds of images."""
  import jax
  import numpy as np

  from genrep_jax import data

  height, width, channels = encoder.image_shape
  rng = np.random.default_rng(0)

  def random(*size):
    return rng.integers(0, 256, (_ROWS, *size, channels), dtype=np.uint8)

  real = data.load({"name": "fashion_mnist_mini"}).test.images[:_ROWS]
  kinds = {
    "random": random(height, width),
    "of another size": random(height + height // 2, width + 7),
    "real (Fashion-MNIST)": real.repeat(channels, axis=-1),
  }
  for kind, images in kinds.items():
    with jax.default_matmul_precision("float32"):
      want = encoder.encode(images, batch=_ROWS)
    got = np.asarray(run(images))
    if got.shape != want.shape:
      raise RuntimeError(f"features are {got.shape}, not {want.shape}")
    largest = np.abs(want).max()
    difference = np.abs(got - want).max()
    print(
      f"difference   {difference:.2e} at most, {_ROWS} images {kind}; "
      f"features up to {largest:.3g}"
    )
    if not difference <= _TOLERANCE * largest:
      raise RuntimeError("the exported encoder is another one")


# --- PyTorch ------------------------------------------------------------------


def _torch_writer(encoder, exporters, target):
  entry, channels = encoder.metadata["encoder"], encoder.image_shape[2]
  cfg = {**plugins.defaults("encoders", entry["name"]), **entry}
  exporter = exporters[target]
  text = _torch_text(encoder, exporter.source(cfg, channels))  # may refuse
  _need("torch", target, "torch")

  def write(folder):
    import safetensors.numpy

    safetensors.numpy.save_file(
      exporter.arrays(cfg, encoder.variables),
      folder / "model.safetensors",
      metadata={"format": "pt"},
    )
    files.write_text(folder / "encoder.py", text)
    readme = _TORCH_README.format(target=target)
    files.write_text(folder / "README.md", readme)
    read, said = (folder / "encoder.py").read_text("utf-8"), exporter.package
    if said and not _installed(said):
      said = f"our own network of these names ({said} is not installed)"
      source = exporters["torch_module"].source(cfg, channels)
      read = _torch_text(encoder, source)
    return said or "encoder.py", _torch_run(folder, read)

  return write


def _torch_run(folder, text):
  """Runs the text of a module that lies in a folder; returns its encoder."""
  import torch

  module = {"__file__": str(folder / "encoder.py"), "__name__": "encoder"}
  exec(compile(text, module["__file__"], "exec"), module)
  net = module["load"]()

  def run(images):
    with torch.no_grad():
      return net(module["preprocess"](images))

  return run


def _torch_text(encoder, source: str) -> str:
  image = encoder.metadata["image"]
  return _TORCH.format(
    size=(image["height"], image["width"]),
    mean=list(image["mean"]),
    std=list(image["std"]),
    source=source,
  )


_TORCH = '''"""An image encoder in PyTorch; needs torch and safetensors only.

  from encoder import load, preprocess
  features = load()(preprocess(images))  # uint8 [n h w c] -> float32 [n f]
"""

import pathlib

import safetensors.torch
import torch
from torch import nn

SIZE = {size}  # of the images it was trained on
MEAN = {mean}  # of pixels in [0, 1]
STD = {std}


def load(path=pathlib.Path(__file__).with_name("model.safetensors")):
  """Loads the network, ready to encode normalized images [n c h w]."""
  net = Encoder()
  net.load_state_dict(safetensors.torch.load_file(path))
  return net.eval()


def preprocess(images):
  """Resizes, crops and normalizes uint8 [n h w c] to float32 [n c h w]."""
  x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
  scale = max(want / have for want, have in zip(SIZE, x.shape[2:]))
  size = [max(n, round(old * scale)) for n, old in zip(SIZE, x.shape[2:])]
  if size != list(x.shape[2:]):
    x = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
  top, left = [(have - want) // 2 for have, want in zip(size, SIZE)]
  x = x[:, :, top : top + SIZE[0], left : left + SIZE[1]]
  mean, std = [torch.tensor(one)[:, None, None] for one in (MEAN, STD)]
  return (x - mean) / std


{source}'''
_TORCH_README = """# An image encoder for {target}

`model.safetensors` is its state_dict. In this folder:

```python
from encoder import load, preprocess
encoder = load()
features = encoder(preprocess(images))  # images: uint8 [n h w c]
```

`encoder.py` says how the network is built and how images are normalized.
Written by genrep_jax.
"""


# --- Hugging Face -------------------------------------------------------------


def _write_hf(folder, encoder):
  from genrep_jax.lib import export, weights

  metadata, file = dict(encoder.metadata), "model.safetensors"
  digest = weights.save(folder / file, encoder.variables, metadata)
  keys = ("format", "encoder", "image", "precision", "generator")
  config = {key: metadata.get(key) for key in keys}
  config |= {"library_name": "genrep_jax", "feature_dim": encoder.feature_dim}
  text = json.dumps(config, indent=1, sort_keys=True)
  files.write_text(folder / "config.json", text + "\n")
  card = export.model_card(metadata, file)
  files.write_text(
    folder / "README.md", _HF_HEAD + card + _HF_TAIL.format(digest)
  )
  again = export.load_encoder(folder, sha256=digest, precision="float32")
  return "genrep_jax.load_encoder", lambda images: again.encode(images)


_HF_HEAD = """---
library_name: genrep_jax
pipeline_tag: image-feature-extraction
---
"""
_HF_TAIL = """
sha256 of `model.safetensors`: `{}`. From the hub, give it to
`load_encoder("hf://OWNER/REPOSITORY/model.safetensors@REVISION", sha256=...)`.
"""


# --- StableHLO ----------------------------------------------------------------


def _stablehlo_writer(encoder, platforms):
  import jax
  import jax.export
  import jax.numpy as jnp
  import numpy as np

  from genrep_jax.lib import images as images_lib

  here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
  if not set(platforms) <= set(_PLATFORMS) or here not in platforms:
    options.refuse(
      "--platforms",
      ",".join(platforms),
      f"some of {','.join(_PLATFORMS)}, {here} among them, where the file is "
      "compared",
    )
  height, width, channels = encoder.image_shape
  file = "encoder.stablehlo"

  def write(folder):
    def encode(images):
      return encoder.apply(encoder.variables, images)

    shape = jax.export.symbolic_shape(f"n, {height}, {width}, {channels}")
    exported = jax.export.export(jax.jit(encode), platforms=platforms)(
      jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    with files.atomic(folder / file) as partial:
      partial.write_bytes(exported.serialize())
    readme = _STABLEHLO.format(
      platforms=", ".join(platforms), shape=list(encoder.image_shape), file=file
    )
    files.write_text(folder / "README.md", readme)
    again = jax.export.deserialize(bytearray((folder / file).read_bytes()))

    def run(images):
      x = jnp.asarray(images_lib.from_uint8(images))
      if x.shape[1:3] != (height, width):
        x = images_lib.resize_and_crop(x, (height, width))
      with jax.default_matmul_precision("float32"):
        return np.asarray(again.call(x))

    return f"jax.export on {here}", run

  return write


_STABLEHLO = """# An image encoder as StableHLO

For {platforms}; any number of images {shape}. In this folder:

```python
import jax.export, pathlib
encoder = jax.export.deserialize(pathlib.Path("{file}").read_bytes())
features = encoder.call(images)  # float32 [n h w c] in [-1, 1]
```

Weights and normalization are inside. Written by genrep_jax.
"""


if __name__ == "__main__":
  _cli.run(main)

"""Encoders that leave the house: one file that says all about itself.

A finished run leaves `encoder.safetensors`, weights and how they came to be,
and `model_card.md`, the same for people.

  encoder = genrep_jax.load_encoder("runs/quickstart")
  features = encoder.encode(images)
"""

import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genrep_jax.lib import (
  contracts,
  errors,
  files,
  images as images_lib,
  mesh as mesh_lib,
  options,
  plugins,
  trees,
  versions,
  weights,
)

FORMAT = 1
FILES = ("encoder.safetensors", "model.safetensors")  # in a folder
_PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_numbers = functools.partial(options.several, lengths=(1, 3))
_METADATA = {
  "format": options.one_of(None, (FORMAT,)),
  "precision": options.choice("float32", tuple(_PRECISIONS)),
  "image": {
    "height": options.integer(low=1, high=16384),
    "width": options.integer(low=1, high=16384),
    "channels": options.one_of(None, (1, 3)),
    "mean": _numbers((0.5,), options.number()),
    "std": _numbers((0.5,), options.number(above=0)),
  },
}


# --- what a run leaves --------------------------------------------------------


def encoder_metadata(
  *,
  encoder: Mapping,
  image: Mapping,
  generator: Mapping,
  config: Mapping,
  seed: int,
  steps: int,
) -> dict[str, Any]:
  """Says what an encoder's file holds, but for what only its job knows.

  Args:
    encoder: {"name": ..., option: value}.
    image: {"height", "width", "channels", "mean", "std"}: of images before T_x,
      and T_x's normalization.
    generator: {"name", "weights", "sha256"}, and "license" if it says one; {}:
      real images.
    config: the whole experiment, as JSON has it.
    seed: of the run.
    steps: that it was trained for.
  """
  shared = contracts.ROOMS["encoders"].shared
  return {
    "format": FORMAT,
    "encoder": {k: v for k, v in encoder.items() if k not in shared},
    "image": dict(image),
    "precision": config.get("precision", "float32"),
    "generator": dict(generator),
    "config": dict(config),
    "seed": int(seed),
    "steps": int(steps),
  }


def save(path, tree, metadata: Mapping, results: Mapping) -> str:
  """Writes a file that a finished run leaves.

  Args:
    path: of the file.
    tree: pytree of arrays; an encoder's {"params": ..., "batch_stats": ...}.
    metadata: what it holds: of an encoder from `encoder_metadata`.
    results: {metric: value}.

  Returns:
    The sha256 of the file.
  """
  return weights.save(path, tree, _finished(metadata, results))


def write_model_card(workdir, metadata: Mapping, results: Mapping) -> None:
  """Writes `model_card.md` into a run's folder; arguments: `save`."""
  text = model_card(_finished(metadata, results))
  files.write_text(pathlib.Path(workdir) / "model_card.md", text)


def _finished(metadata, results) -> dict[str, Any]:
  return {
    **metadata,
    "results": {name: float(value) for name, value in results.items()},
    "commit": versions.git_commit() or "unknown",
    "versions": versions.packages(),
  }


def model_card(metadata: Mapping[str, Any], file: str = FILES[0]) -> str:
  """Describes an encoder to people, in Markdown.

  Args:
    metadata: of its file.
    file: what the file is called.
  """
  image, generator = metadata["image"], metadata.get("generator") or {}
  config = metadata.get("config", {})
  encoder = dict(metadata["encoder"])
  name = encoder.pop("name")
  rows = {
    "encoder": f"`{name}`: {_words(encoder)}",
    "images": f"{image['height']} x {image['width']} x {image['channels']}, "
    f"normalized by mean {_words(image['mean'])}, std {_words(image['std'])}",
    "objective": _named(config, "objective"),
    "trained on": f"images of the generator `{generator['name']}`"
    if generator
    else "real images",
    "its weights": generator.get("weights") or "",
    "their sha256": generator.get("sha256") or "",
    "their license": generator.get("license") or "",
    "steps, seed": f"{metadata.get('steps')}, {metadata.get('seed')}",
    "code": f"genrep_jax at commit {metadata.get('commit', 'unknown')}",
    "versions": _words(metadata.get("versions", {})),
  }
  table = "".join(f"| {key} | {x} |\n" for key, x in rows.items() if x)
  results = "".join(
    f"| {key} | {value:.6g} |\n"
    for key, value in metadata.get("results", {}).items()
  )
  return _CARD.format(
    title=config.get("title") or name,
    file=file,
    table=table,
    results=results or "| not evaluated | |\n",
    limits=_LIMITS if generator else _LIMITS[_LIMITS.index("Its quality") :],
    license="" if rows["their license"] or not generator else _UNSAID,
    config=json.dumps(config, indent=1, sort_keys=True),
  )


_CARD = """# {title}

An image encoder, trained with genrep_jax: image in, feature vector out.

```python
import genrep_jax
encoder = genrep_jax.load_encoder("{file}")
features = encoder.encode(images)  # uint8 or float in [-1, 1], [n h w c]
```

| | |
| --- | --- |
{table}
## Results

| metric | value |
| --- | ---: |
{results}
## How to repeat

The file holds the whole config. At the commit above, save this as `again.py`
and run `python -m genrep_jax.main --config again.py --workdir again`:

```python
import ml_collections
from genrep_jax.lib import weights

def get_config():
  metadata = weights.read_metadata("{file}")
  return ml_collections.ConfigDict(metadata["config"])
```

## Limits

{limits}{license}
<details><summary>The config</summary>

```json
{config}
```

</details>
"""
_LIMITS = """It has seen a generator's images, with that generator's gaps and
biases. Its quality beyond the results above was not measured. Images of another
size are resized to the one above.
"""
_UNSAID = """
The file of the generator's weights names no license: look where they came from.
"""


def _words(value) -> str:
  if isinstance(value, Mapping):
    return ", ".join(f"{key} {_words(one)}" for key, one in value.items())
  return str(list(value) if isinstance(value, tuple) else value)


def _named(config, part) -> str:
  entry = config.get(part)
  return f"`{entry.get('name')}`" if isinstance(entry, Mapping) else ""


# --- what others load ---------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A trained encoder, ready to encode.

  Attributes:
    variables: {"params": ..., "batch_stats": ...}, numpy arrays.
    apply: (variables, images float32 [n h w c] in [-1, 1], of `image_shape`) ->
      features float32 [n f]; pure, to be jitted or exported.
    metadata: of its file: how it was made, and its results.
    image_shape: (h, w, c) that it was trained on.
    feature_dim: f.
  """

  variables: contracts.Tree
  apply: Callable[[contracts.Tree, jax.Array], jax.Array]
  metadata: Mapping[str, Any]
  image_shape: tuple[int, int, int]
  feature_dim: int
  _placed: dict = dataclasses.field(default_factory=dict, repr=False)

  def encode(self, images, *, batch: int = 256, device=None) -> np.ndarray:
    """Encodes images, each by itself.

    Args:
      images: uint8, or floats in [-1, 1], [n h w c]. Those of another size than
        `image_shape` are resized (bilinear, with antialiasing) to cover it, and
        their center is cut out.
      batch: images per call, rounded up to a multiple of the devices. Fewer
        images are padded to a power of two. It compiles once per size and
        batch.
      device: a device, several, or a sharding, over whose devices a batch is
        spread; None: JAX's default device.

    Returns:
      Features float32 [n f], numpy.

    Raises:
      UsageError: images of another rank, number of channels or type, floats
        beyond [-1, 1], or none.
    """
    options.check("batch", options.integer(low=1, high=2**20), batch)
    images = self._checked(images)
    mesh = mesh_lib.make_mesh(_devices(device))
    batch = min(batch, 1 << (len(images) - 1).bit_length())
    batch = -(-batch // mesh.size) * mesh.size
    if mesh not in self._placed:
      everywhere = mesh_lib.replicated(mesh)
      self._placed.clear()
      self._placed[mesh] = jax.device_put(self.variables, everywhere)
    program = _program(self.apply, mesh, self.image_shape[:2])
    pieces, pending = [], None
    for start in range(0, len(images), batch):
      rows = images[start : start + batch]
      padded = np.zeros((batch, *rows.shape[1:]), rows.dtype)
      padded[: len(rows)] = rows
      placed = jax.device_put(padded, mesh_lib.batch(mesh))
      result = program(self._placed[mesh], placed), len(rows)
      if pending is not None:  # fetched while the device works on the next
        pieces.append(jax.device_get(pending[0])[: pending[1]])
      pending = result
    pieces.append(jax.device_get(pending[0])[: pending[1]])
    return np.concatenate(pieces)

  def _checked(self, images) -> np.ndarray:
    images = np.asarray(images)
    channels, given = self.image_shape[2], f"{images.dtype}{list(images.shape)}"
    floats = jnp.issubdtype(images.dtype, jnp.floating)
    right = images.ndim == 4 and images.size and images.shape[3] == channels
    if right and floats:
      low, high = float(images.min()), float(images.max())
      right = low >= -1 and high <= 1
      given += f" in {low:g}..{high:g}"
    if not (right and (floats or images.dtype == np.uint8)):
      raise errors.UsageError(
        f"images: given {given}; allowed: uint8, or floats in -1..1, "
        f"[n h w {channels}], n >= 1"
      )
    return images.astype(np.float32) if floats else images


def load_encoder(
  path: str | os.PathLike, *, sha256: str = "", precision: str | None = None
) -> Encoder:
  """Loads an encoder.

  Args:
    path: `encoder.safetensors`, the folder of a finished run or of an export,
      or "hf://OWNER/REPOSITORY/FILE@REVISION".
    sha256: that the file must have; "" pins nothing, which a file from the
      network does not allow.
    precision: "float32" or "bfloat16", what it computes in; None: as it was
      trained and evaluated.

  Returns:
    An Encoder.

  Raises:
    UsageError: no such file, one that holds no encoder, or one whose weights do
      not fit its architecture or are not finite.
  """
  weights.check_pinned(path, sha256)
  file = path if weights.is_remote(path) else _find(path)
  metadata = weights.read_metadata(file)
  entry, fields = _described(file, metadata)
  precision = precision or fields["precision"]
  options.check("precision", _METADATA["precision"], precision)
  where = f"{file}: encoder"
  made = plugins.make(
    "encoders", entry, path=where, dtype=_PRECISIONS[precision]
  )
  image = fields["image"]
  shape = image["height"], image["width"], image["channels"]
  mean, std = (np.asarray(image[key], np.float32) for key in ("mean", "std"))

  def apply(variables, images):
    images = images_lib.normalize(images, mean, std)
    features, _ = made.apply(variables, images, train=False)
    return features.pooled.astype(jnp.float32)

  with plugins.guard(plugins.label_of("encoders", entry["name"]), "init"):
    expected = jax.eval_shape(lambda: made.init(jax.random.key(0), shape))
    one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    features = jax.eval_shape(apply, expected, one)
  variables = weights.load(file, sha256, expected)
  strange = [
    name
    for name, x in trees.named(variables).items()
    if not np.all(np.isfinite(x))
  ]
  if strange:
    raise errors.UsageError(
      f"{file}: {len(strange)} arrays are not finite: {', '.join(strange[:3])}"
    )
  return Encoder(variables, apply, metadata, shape, features.shape[1])


def _find(path) -> pathlib.Path:
  """Finds the file in a folder; else the path is the file's."""
  path = os.path.expanduser(os.fspath(path))
  folder = pathlib.Path(path)
  if not folder.is_dir():
    return weights.resolve(path)
  for name in FILES:
    if (folder / name).is_file():
      return folder / name
  raise errors.UsageError(
    f"{path}: no {FILES[0]} in it; a finished run leaves one"
  )


def _described(file, metadata) -> tuple[dict, dict]:
  """Returns (encoder entry, checked fields) of a file's metadata."""
  wanted = ("format", "encoder", "image")
  if not isinstance(metadata, Mapping) or not all(
    key in metadata for key in wanted
  ):
    raise errors.UsageError(
      f"{file}: no encoder of a finished run: its metadata lacks "
      f"{' or '.join(wanted)}"
    )
  for key in ("encoder", "image"):
    if not isinstance(metadata[key], Mapping):
      options.refuse(f"{file}: {key}", metadata[key], "a dictionary")
  fields = {key: metadata[key] for key in _METADATA if key in metadata}
  try:
    entry = ml_collections.ConfigDict(metadata["encoder"])
    fields = ml_collections.ConfigDict(fields)
  except (TypeError, ValueError) as error:  # keys with dots, for one
    raise errors.UsageError(f"{file}: metadata: {error}") from error
  plugins.fill(fields, _METADATA, f"{file}: metadata")
  image = fields.image
  for key in ("mean", "std"):
    if len(image[key]) not in (1, image.channels):
      options.refuse(
        f"{file}: metadata.image.{key}",
        image[key],
        "one number, or one of each channel",
      )
  name = str(entry.get("name"))
  outside = "." in name and name.replace(".", "").isidentifier()
  if outside and name not in sys.modules:
    raise errors.UsageError(
      f"{file}: encoder {name!r} is no plug-in of genrep_jax: import that "
      "module first, if you trust it"
    )
  return entry.to_dict(), fields.to_dict()


def _devices(device) -> list:
  """Returns the devices that a caller means."""
  if device is None:
    return list(jnp.zeros(()).devices())
  if isinstance(device, jax.sharding.Sharding):
    return sorted(device.device_set, key=lambda one: one.id)
  return [device] if isinstance(device, jax.Device) else list(device)


@functools.lru_cache(maxsize=16)
def _program(apply, mesh, size):
  """Compiles uint8 or float32 [b h w c] -> features [b f]."""

  def program(variables, images):
    x = images
    if x.dtype == jnp.uint8:
      x = images_lib.from_uint8(x)
    if x.shape[1:3] != size:
      x = images_lib.resize_and_crop(x, size)
    return apply(variables, x)

  return jax.jit(program, out_shardings=mesh_lib.replicated(mesh))

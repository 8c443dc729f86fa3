r"""Renders images of a generator: an array, a picture, or a data set on disk.

  python -m genrep_jax.tools.render --generator biggan_deep \
      --weights biggan128.safetensors --seed 0 --num 16 --out grid.png

--out decides what is written. X.npz: `images` [n h w c], float32 in the
generator's own range, with their z and y. X.png: a grid. Any other name: a
folder in GenRep's layout on disk, an anchor and its neighbors under T_z, for
PyTorch code that reads folders; the same command goes on where it stopped, and
--shard 2/8 writes the third of eight parts. Anchor i of --seed S is the one
that a training run of seed S draws as its i-th.
"""

import math
import pathlib

from genrep_jax.lib import errors, plugins
from genrep_jax.tools import _cli

_VIEW = "view."


def main(argv) -> int:
  """Renders what the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.render", __doc__)
  add = arguments.add_argument
  add("--generator", help="default: the one that the weights name")
  add(
    "--weights",
    default="",
    help="safetensors file, asset:NAME or hf://...; none: random weights",
  )
  add("--sha256", default="", help="that the weights must have")
  add("--latents", help=".npz with z [n d] and, for a class each, y [n]")
  add("--seed", type=int, default=0, help="of the anchors")
  add("--num", type=int, help="anchors to draw")
  add("--out", required=True, help="X.npz, X.png, or a folder")
  add("--batch", type=int, default=16, help="images per device and call")
  add("--precision", default="float32", help="float32 or bfloat16")
  _cli.add_set(
    arguments, f"an option of the generator, or of T_z as {_VIEW}sigma=0.2"
  )
  add("--view", default="gaussian", help="folder: T_z of the neighbors")
  add("--neighbors", type=int, default=1, help="folder: per anchor")
  add(
    "--per_folder",
    type=int,
    default=1300,
    help="folder: anchors per class, or per pseudo-class if there are none",
  )
  add("--shard", default="0/1", help="folder: K/N, part K of N, from 0")
  _cli.add_overwrite(arguments)
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("render: takes no --config")
  _check(flags)
  suffix = pathlib.Path(flags.out).suffix
  view = [w.removeprefix(_VIEW) for w in flags.set if w.startswith(_VIEW)]
  if suffix not in (".npz", ".png"):
    from genrep_jax.tools import _render_folder

    return _render_folder.write(flags, _make(flags), view)
  from genrep_jax.lib import latents, rendering

  out = _cli.output(flags.out, flags.overwrite)
  if view:
    raise errors.UsageError(f"--set: {_VIEW}... is for a folder only")
  made = _make(flags)
  generator = made.generator
  if flags.latents:
    z, y = latents.read("--latents", flags.latents, generator, made.name)
  else:
    z, y = rendering.draw(generator, flags.seed, flags.num)
  renderer = rendering.Renderer(
    generator, made.variables, flags.batch, len(z), drawn=True, raw=True
  )
  images = renderer(z, y, say=_cli.progress)
  out.parent.mkdir(parents=True, exist_ok=True)
  if suffix == ".npz":
    _save_npz(out, images=images, z=z, y=y)
  else:
    _save_grid(out, images)
  print(f"{len(images)} images {images.shape[1:]} written to {out}")
  return errors.EXIT_OK


def _check(flags):
  """Refuses what is wrong before jax is imported."""
  if (flags.latents is None) == (flags.num is None):
    raise errors.UsageError("give either --latents FILE or --num N (--seed S)")
  for name in ("num", "batch", "per_folder"):
    value = getattr(flags, name)
    if value is not None and value < 1:
      raise errors.UsageError(f"--{name}: {value} is not >= 1")
  if flags.neighbors < 0:
    raise errors.UsageError(f"--neighbors: {flags.neighbors} is negative")
  if flags.precision not in ("float32", "bfloat16"):
    raise errors.UsageError(
      f"--precision: {flags.precision!r} is not float32 or bfloat16"
    )
  if not flags.generator and not flags.weights:
    raise errors.UsageError("give --generator NAME, --weights FILE, or both")


def _make(flags):
  """Makes the generator; returns a lib.frozen.Frozen."""
  import jax
  import jax.numpy as jnp

  from genrep_jax.lib import environment, frozen, rng

  environment.prepare()
  # TPUs and GPUs round the factors of float32 products unless told not to.
  jax.config.update("jax_default_matmul_precision", "highest")
  name = flags.generator or frozen.made_with(flags.weights, "generators").get(
    "name"
  )
  if not name:
    raise errors.UsageError(
      f"--generator: not given, and {flags.weights} does not name one"
    )
  module = plugins.resolve("generators", name, "--generator")
  words = [word for word in flags.set if not word.startswith(_VIEW)]
  declared = plugins.declared("generators", module)
  return frozen.from_file(
    flags.weights,
    name=name,
    options=_cli.read_set(words, declared, "generator"),
    sha256=flags.sha256,
    dtype=jnp.dtype(flags.precision),
    key=rng.stream(flags.seed, "generator"),
  )


def _save_npz(path, **arrays):
  """Writes an .npz, whole or not at all."""
  import numpy as np

  from genrep_jax.lib import files

  with files.atomic(path) as partial, open(partial, "wb") as file:
    np.savez(file, **arrays)


def _save_grid(path, images):
  """Lays the images out in a picture as square as they allow."""
  import numpy as np

  from genrep_jax.lib import pictures

  columns = math.ceil(math.sqrt(len(images)))
  rows = math.ceil(len(images) / columns)
  blank = np.ones((rows * columns - len(images), *images.shape[1:]))
  images = np.concatenate([images, blank]).reshape(
    rows, columns, *images.shape[1:]
  )
  scale = max(1, 64 // images.shape[2])
  pictures.save_png(path, pictures.grid(images, scale=scale))


if __name__ == "__main__":
  _cli.run(main)

r"""Renders images of a generator: an array, a picture, or a data set on disk.

  python -m genrep_jax.tools.render --generator biggan_deep \
      --weights biggan128.safetensors --seed 0 --num 16 --out grid.png

--out decides what is written. X.npz: `images` [n h w c], float32 in the
generator's own range, with their z and y. X.png: a grid. Any other name: a
folder in GenRep's layout on disk, an anchor and its neighbours under T_z, for
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
  add("--view", default="gaussian", help="folder: T_z of the neighbours")
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
  if suffix not in (".npz", ".png"):
    from genrep_jax.tools import _render_folder

    return _render_folder.write(flags, _make(flags, kept(flags, "")))
  from genrep_jax.lib import latents

  out = _cli.output(flags.out, flags.overwrite)
  if kept(flags, _VIEW):
    raise errors.UsageError(f"--set: {_VIEW}... is for a folder only")
  made = _make(flags, kept(flags, ""))
  if flags.latents:
    z, y = latents.read("--latents", flags.latents, made.generator, made.name)
  else:
    z, y = draw(made.generator, flags.seed, flags.num)
  renderer = Renderer(made, flags.batch, len(z), drawn=True)
  images = renderer(z, y, say=progress)
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


def kept(flags, prefix: str) -> list[str]:
  """Returns the words of --set for T_z (prefix "view.") or the generator."""
  return [
    word.removeprefix(prefix)
    for word in flags.set
    if word.startswith(_VIEW) == bool(prefix)
  ]


def _make(flags, words):
  """Makes the generator, in its own range of values."""
  import jax
  import jax.numpy as jnp

  from genrep_jax.lib import frozen, rng, weights

  # TPUs and GPUs round the factors of float32 products unless told not to.
  jax.config.update("jax_default_matmul_precision", "highest")
  name = flags.generator
  if not name:
    made = weights.read_metadata(flags.weights).get("generator", {})
    name = made.get("name") or ""
  if not name:
    raise errors.UsageError(
      f"--generator: not given, and {flags.weights} does not name one"
    )
  module = plugins.resolve("generators", name)
  defaults = {k: v for k, v in module.default_config().items() if k != "name"}
  options = getattr(module, "NATIVE_OPTIONS", {}) | _cli.typed(
    words, defaults, name
  )
  return frozen.from_file(
    flags.weights,
    name=name,
    options=options,
    sha256=flags.sha256,
    dtype=jnp.dtype(flags.precision),
    key=rng.stream(flags.seed, "generator"),
  )


def draw(generator, seed: int, count: int, first: int = 0):
  """Draws the anchors first, first + 1, ... of a seed, as training does.

  Returns:
    (z float32 [count sample_dim], y int32 [count]), numpy.
  """
  import jax

  keys = anchor_keys(seed, "sample", first, count)
  return jax.device_get(jax.jit(jax.vmap(generator.sample))(keys))


def anchor_keys(seed: int, stream: str, first: int, count: int):
  """Returns keys [count] of one of training's streams, from anchor first on."""
  import jax.numpy as jnp

  from genrep_jax.lib import rng

  indices = jnp.uint32(first) + jnp.arange(count, dtype=jnp.uint32)
  return rng.per_index(rng.stream(seed, stream), indices)


class Renderer:
  """Renders any number of latents in calls of one size, on all devices."""

  def __init__(self, made, batch: int, most: int, *, drawn: bool):
    """Puts the weights on the devices.

    Args:
      made: lib.frozen.Frozen.
      batch: images per device and call.
      most: latents of the largest request; no call need hold more.
      drawn: it is given z as `sample` draws them, not latents.
    """
    import jax

    from genrep_jax.lib import mesh as mesh_lib

    mesh = mesh_lib.make_mesh(jax.local_devices())
    devices = mesh.devices.size
    self.batch = min(batch, math.ceil(most / devices)) * devices
    self._split = mesh_lib.batch(mesh)
    whole = mesh_lib.replicated(mesh)
    self.variables = jax.device_put(made.variables, whole)
    generator = made.generator

    def render(variables, z, y):
      latents = generator.latents(variables, z, y) if drawn else z
      return generator.apply(variables, latents, y)

    self._render = jax.jit(
      render,
      in_shardings=(whole, self._split, self._split),
      out_shardings=self._split,
    )

  def __call__(self, z, y, say=None):
    """Renders z [n d], y int32 [n] -> float32 [n h w c], numpy."""
    import jax
    import numpy as np

    parts, count = [], len(z)
    for first in range(0, count, self.batch):
      rows = [x[first : first + self.batch] for x in (z, y)]
      size = len(rows[0])
      # The last call is filled up, so that one program serves all.
      filled = [
        np.concatenate([x, np.repeat(x[:1], self.batch - size, 0)])
        for x in rows
      ]
      images = self._render(
        self.variables, *jax.device_put(filled, self._split)
      )
      parts.append(np.asarray(images, np.float32)[:size])
      if say:
        say(first + size, count)
    return np.concatenate(parts)


def progress(done: int, total: int) -> None:
  """Shows a bar on stderr where that is a terminal."""
  import sys

  if not sys.stderr.isatty():
    return
  width = 40
  full = width * done // total
  bar = "#" * full + "." * (width - full)
  end = "\n" if done == total else ""
  print(f"\r{bar} {done}/{total}", end=end, file=sys.stderr, flush=True)


def _save_npz(path, **arrays):
  """Writes an .npz, whole or not at all."""
  import numpy as np

  partial = path.with_name(path.name + ".partial")
  with open(partial, "wb") as file:
    np.savez(file, **arrays)
  partial.rename(path)


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

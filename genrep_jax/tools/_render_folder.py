"""Writes generated images in the layout of GenRep's own data sets.

One folder per class, or per pseudo-class of an unconditional generator, holds

  seed0000_sample00000_anchor.png      the anchor
  seed0000_sample00000_1.0_0.png       its neighbor 0 under Gaussian T_z
  seed0000_sample00000_neighbor_0.png  its neighbor 0 under any other T_z
  z_dataset.pkl                        {file name: [z, class]}

as github.com/ali-design/GenRep reads them; the "1.0" is a word of the format,
not sigma. As there, uint8 = clip(128 (x + 1), 0, 255), rounded towards zero.

A picture is written whole or not at all and never twice, so the same command
goes on where it stopped. Every number is a function of (seed, index): shards
and restarts change nothing.
"""

import json
import pathlib
import pickle

from genrep_jax.lib import errors, files
from genrep_jax.tools import _cli

_MANIFEST = "render.json"


def write(flags, made, words) -> int:
  """Writes this process's part of the folders; returns the exit code.

  Args:
    flags: of tools.render.
    made: lib.frozen.Frozen.
    words: of --set, for T_z.

  Raises:
    UsageError: bad --shard, more anchors than the classes hold, --latents, or
      a folder that holds something else.
  """
  from genrep_jax.lib import plugins, rendering

  if flags.latents:
    raise errors.UsageError(
      "--latents: writes X.npz or X.png; a folder's anchors are drawn (--num)"
    )
  shard, shards = _shard(flags.shard)
  classes = made.generator.num_classes
  folders = -(-flags.num // flags.per_folder)
  if classes and folders > classes:
    raise errors.UsageError(
      f"--num: {flags.num} anchors fill {folders} folders of "
      f"{flags.per_folder}, but {made.name} has {classes} classes; raise "
      "--per_folder"
    )
  room = "views/latent"
  declared = plugins.declared(room, plugins.resolve(room, flags.view, "--view"))
  options = plugins.defaults(room, flags.view)
  options |= _cli.read_set(words, declared, "view")
  view = plugins.make(room, options, made.generator, path="view")
  root = pathlib.Path(flags.out)
  _open(root, _manifest(flags, made, options), flags.overwrite)
  per_anchor = 1 + flags.neighbors
  most = per_anchor * min(flags.num, flags.per_folder)
  renderer = rendering.Renderer(
    made.generator, made.variables, flags.batch, most, drawn=False, raw=True
  )
  latents = _latents(flags, made.generator, renderer.variables, view)
  mine = range(shard, folders, shards)
  total = sum(_anchors(flags, folder) for folder in mine)
  done = written = 0
  for folder in mine:
    z, y = latents(folder)
    for count, new in _folder(flags, z, y, renderer, root, folder):
      done, written = done + count, written + new
      _cli.progress(done, total)
  print(
    f"{total} anchors with {flags.neighbors} neighbors each in {len(mine)} "
    f"folders of {root} ({written} pictures new)"
  )
  return errors.EXIT_OK


def _shard(text: str) -> tuple[int, int]:
  try:
    shard, shards = map(int, text.split("/"))
    if not 0 <= shard < shards:
      raise ValueError
  except ValueError as error:
    raise errors.UsageError(
      f"--shard: {text!r} is not K/N with 0 <= K < N"
    ) from error
  return shard, shards


def _anchors(flags, folder: int) -> int:
  """Returns how many anchors a folder gets."""
  return min(flags.per_folder, flags.num - folder * flags.per_folder)


def _manifest(flags, made, view) -> str:
  """Everything that decides what the pictures show, but not how many."""
  options = {k: v for k, v in made.options.items() if k != "weights"}
  facts = {
    "generator": options,
    "weights_sha256": made.sha256,
    "seed": flags.seed,
    "per_folder": flags.per_folder,
    "precision": flags.precision,
    "view": view,
  }
  return json.dumps(facts, indent=1, sort_keys=True, default=list) + "\n"


def _open(root: pathlib.Path, manifest: str, overwrite: bool) -> None:
  """Makes the folder, or checks that it is this very data set's."""
  if root.exists() and not root.is_dir():
    raise errors.UsageError(f"--out: {root} is not a folder")
  _cli.check_writable(root)
  path = root / _MANIFEST
  if path.exists() and path.read_text("utf-8") == manifest:
    return
  if root.exists() and any(root.iterdir()):
    if not overwrite:
      what = "other options" if path.exists() else "something else"
      raise errors.UsageError(
        f"--out: {root} holds {what} (compare {_MANIFEST}; --overwrite "
        "replaces the pictures of the same name)"
      )
    for old in root.glob("*/seed*_sample*.png"):
      old.unlink()
  root.mkdir(parents=True, exist_ok=True)
  files.write_text(path, manifest)


def _names(flags, folder: int, number: int) -> list[str]:
  """Returns the file names of an anchor and its neighbors."""
  start = f"seed{flags.seed:04d}_sample{number:05d}"
  kind = "1.0" if flags.view == "gaussian" else "neighbor"
  return [
    f"{start}_anchor.png",
    *[f"{start}_{kind}_{i}.png" for i in range(flags.neighbors)],
  ]


def _latents(flags, generator, variables, view):
  """Returns a function: folder -> (z [count 1+neighbors d], y [count])."""
  import jax
  import numpy as np

  from genrep_jax.lib import rendering

  # Always a whole folder's, so that one program serves all.
  size = min(flags.num, flags.per_folder)
  # View 0 is the anchor, as in a training run of the same seed.
  views = 1 + np.arange(flags.neighbors, dtype=np.uint32)

  def one(key, z, y):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, views)
    moved = jax.vmap(view, (0, None, None))(keys, z, y)
    return jax.numpy.concatenate([z[None], moved])

  @jax.jit
  def draw(variables, sample_keys, view_keys, folder):
    z, y = jax.vmap(generator.sample)(sample_keys)
    if generator.num_classes:
      y = jax.numpy.full_like(y, folder)
    z = generator.latents(variables, z, y)
    return (jax.vmap(one)(view_keys, z, y) if len(views) else z[:, None]), y

  def latents(folder):
    first, count = folder * flags.per_folder, _anchors(flags, folder)
    keys = [
      rendering.anchor_keys(flags.seed, stream, first, size)
      for stream in ("sample", "latent_view")
    ]
    z, y = jax.device_get(draw(variables, *keys, folder))
    return z[:count], y[:count]

  return latents


def _folder(flags, z, y, renderer, root, folder):
  """Fills one folder; yields (anchors done, pictures written) as it goes."""
  import numpy as np

  count, views = z.shape[:2]
  place = root / f"{folder:04d}"
  place.mkdir(exist_ok=True)
  names = [_names(flags, folder, number) for number in range(count)]
  _write_latents(place, names, z, folder)
  per_call = max(1, renderer.batch // views)
  for start in range(0, count, per_call):
    rows = range(start, min(count, start + per_call))
    missing = [
      (row, number)
      for row in rows
      for number in range(views)
      if not (place / names[row][number]).exists()
    ]
    if missing:
      index = tuple(np.array(missing).T)
      images = renderer(z[index], y[index[0]])
      for (row, number), image in zip(missing, images, strict=True):
        _save(place / names[row][number], image)
    yield len(rows), len(missing)


def _write_latents(place, names, latents, label):
  """Writes z_dataset.pkl: plain numpy arrays and numbers by file name."""
  entries = {
    name: [latents[row, view], label]
    for row, row_names in enumerate(names)
    for view, name in enumerate(row_names)
  }
  with files.atomic(place / "z_dataset.pkl") as partial:
    partial.write_bytes(pickle.dumps(entries, protocol=4))


def _save(path, image):
  """Writes one picture in GenRep's rounding."""
  import numpy as np

  from genrep_jax.lib import pictures

  pixels = np.clip(128.0 * (image + 1.0), 0, 255).astype(np.uint8)
  pictures.save_png(path, np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

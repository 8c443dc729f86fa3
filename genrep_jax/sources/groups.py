"""Positives that lie on disk: each anchor is a group of images of one content.

What another sampler wrote, one that cannot be run here among them, trains as
if it were rendered: GenRep's own data sets (`tools.render --out DIR` writes
them), or a folder for each anchor, such as several images of one caption
(StableRep, Tian et al. 2023). The host decodes and feeds them.

Layouts:
  genrep: DIR/<class>/seed0000_sample00000_anchor.png and its neighbors,
    ..._1.0_0.png or ..._neighbor_0.png: rendering 0 is the anchor, the others
    are drawn of its neighbors without replacement at every visit.
  folders: DIR/<anchor>/<any image>: all renderings are drawn of the folder's
    images without replacement.

A run on the rendered folder of an online run (`order=in_order`, of the same
seed) sees its images in the first epoch, up to the rounding to bytes: 2 / 255
of the range.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, decoding, errors, options, rng
from genrep_jax.sources import _draws, _fed

_ANCHOR = re.compile(r"(?P<group>.+)_anchor\.\w+")
_NEIGHBOR = re.compile(r"(?P<group>.+?)_(?:1\.0|neighbor)_(?P<number>\d+)\.\w+")

OPTIONS = {
  "data_dir": options.text("", "folder of the groups"),
  "layout": options.choice(
    "genrep", ("genrep", "folders"), "how groups lie in it"
  ),
  "labels": options.flag(
    False, "genrep's class folders are classes, not mere shares of the set"
  ),
  "channels": options.one_of(3, (1, 3), "of the decoded images"),
  "image_px": options.integer(
    0,
    "side to resize and center-crop to; 0: all have one size already",
    low=0,
    high=4096,
    unit="px",
  ),
  "order": options.choice(
    "shuffled", ("shuffled", "in_order"), "of the groups, anew in every epoch"
  ),
  "prefetch": _fed.PREFETCH,
}


def make(cfg, given: contracts.Given) -> contracts.Source:
  """Makes the source; the program reads one image for each rendering.

  Raises:
    UsageError: no such folder, no groups, groups of too few images, images of
      several sizes with image_px = 0, or none that can be read.
  """
  try:
    names, groups, labels = _LAYOUTS[cfg.layout](_folder(cfg))
  except OSError as error:
    raise errors.UsageError(f"source.data_dir: {error}") from error
  if not groups:
    options.refuse(
      "source.data_dir", cfg.data_dir, f"a folder of groups, as {cfg.layout!r}"
    )
  anchored = int(cfg.layout == "genrep")
  wanted = given.renderings
  for name, files in zip(names, groups, strict=True):
    if len(files) < wanted:
      raise errors.UsageError(
        f"source.data_dir: {name} has {len(files)} image(s); allowed: at least "
        f"{wanted}, one for each rendering (views.num_views, "
        "views.rendering_of)"
      )
  read_one = functools.partial(
    decoding.decode, channels=cfg.channels, image_px=cfg.image_px
  )
  shape = read_one(groups[0][0]).shape
  size = len(groups)
  _draws.check_size(given, size, f"groups in {cfg.data_dir}")
  pools = np.array([len(files) - anchored for files in groups])

  def order(index):
    if cfg.order == "in_order":
      return (index % jnp.uint32(size)).astype(jnp.int32)
    return _draws.row_of(given, index, size)

  @jax.jit
  def rows(number):
    return order(rng.indices(number, given.batch))

  @functools.cache
  def picks(pool):
    """Compiles: number of a batch -> images [b r] of a group of this size."""

    @jax.jit
    def draw(number):
      keys = rng.per_index(
        rng.stream(given.seed, "neighbor"), rng.indices(number, given.batch)
      )
      drawn = functools.partial(
        rng.neighbors, pool=pool, count=wanted - anchored
      )
      drawn = jax.vmap(drawn)(keys)
      anchor = jnp.zeros((given.batch, anchored), jnp.uint32)
      return jnp.concatenate([anchor, drawn - (1 - anchored)], axis=1)

    return draw

  def read(number, positions):
    row = _fed.on_host(rows, number)[positions]
    chosen = np.empty((len(row), wanted), np.int64)
    for pool in np.unique(pools[row]):
      at = pools[row] == pool
      drawn = _fed.on_host(picks(int(pool)), number)
      chosen[at] = drawn[positions][at]
    paths = [
      groups[group][image]
      for group, images in zip(row, chosen, strict=True)
      for image in images
    ]
    images = np.stack(list(decoding.pool().map(read_checked, paths)))
    return {"images": images.reshape(len(row), wanted, *shape)}

  def read_checked(path):
    image = read_one(path)
    if image.shape != shape:
      raise errors.UsageError(
        f"source.data_dir: {path} is {image.shape}, but {groups[0][0]} is "
        f"{shape}; set source.image_px"
      )
    return image

  def draw(step, frozen):
    draws = _draws.index(given, step)
    row = given.split(order(draws["index"]))
    return draws | {"row": row, "labels": frozen["labels"][row]}

  def show(draws, latents, frozen):
    del latents
    return _draws.real(draws, frozen)

  images = sum(map(len, groups))
  return contracts.Source(
    image_shape=shape,
    num_classes=int(max(labels)) + 1 if cfg.labels else 0,
    epoch_size=size,
    frozen={"labels": np.asarray(labels, np.int32)},
    draw=draw,
    show=show,
    facts={"groups": f"{size} of {images} images in {cfg.data_dir}"},
    feed=_fed.feed(given, (wanted, *shape), read, cfg.prefetch),
    own_images=True,
  )


def _folder(cfg) -> pathlib.Path:
  root = pathlib.Path(cfg.data_dir).expanduser()
  if not cfg.data_dir or not root.is_dir():
    options.refuse("source.data_dir", cfg.data_dir, "a folder")
  return root


def _folders(root):
  """Returns the folders of a folder, by name."""
  return sorted(
    x for x in root.iterdir() if x.is_dir() and not x.name.startswith(".")
  )


def _images(folder):
  """Returns the images of a folder, by name."""
  return sorted(x for x in folder.iterdir() if decoding.is_image(x.name))


def _of_folders(root):
  """A group for each folder."""
  folders = _folders(root)
  groups = [tuple(_images(folder)) for folder in folders]
  return [folder.name for folder in folders], groups, [0] * len(groups)


def _of_genrep(root):
  """A group for each anchor, its neighbors by their number."""
  names, groups, labels = [], [], []
  for label, folder in enumerate(_folders(root)):
    anchors, neighbors = {}, {}
    for path in _images(folder):
      if match := _ANCHOR.fullmatch(path.name):
        anchors[match["group"]] = path
      elif match := _NEIGHBOR.fullmatch(path.name):
        number = int(match["number"])
        neighbors.setdefault(match["group"], []).append((number, path))
    for name in sorted(anchors):
      names.append(f"{folder.name}/{anchors[name].name}")
      others = [path for _, path in sorted(neighbors.get(name, []))]
      groups.append((anchors[name], *others))
      labels.append(label)
  return names, groups, labels


_LAYOUTS = {"genrep": _of_genrep, "folders": _of_folders}

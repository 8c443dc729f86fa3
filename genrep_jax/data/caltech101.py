"""Caltech-101 (Fei-Fei, Fergus & Perona 2004): 30 training images a class.

A folder for each of 101 classes and one of background images, as
101_ObjectCategories unpacks. So many training images of every class are drawn
by a seed (those whose sha256 of "seed/path" is least, without replacement), all
others are test images. Report the mean over classes.
"""

from genrep_jax.data import _files
from genrep_jax.lib import contracts, errors, options

BACKGROUND = "BACKGROUND_Google"

OPTIONS = {
  "data_dir": options.text(
    "", "101_ObjectCategories, or a folder that holds it (in caltech101)"
  ),
  "per_class": options.integer(30, "training images of every class", low=1),
  "split_seed": options.integer(0, "draws them", low=0),
  "background": options.flag(
    True,
    "the background is a class: 102, as in Kornblith et al. 2019; False: 101",
  ),
  **_files.options_of(image_px=224),
}


def make(cfg) -> contracts.Dataset:
  """Finds and indexes the images.

  Args:
    cfg: `OPTIONS`.

  Raises:
    UsageError: a class with no more than `per_class` images; see `data.folder`.
  """
  root = _files.root(cfg.data_dir, "caltech101", "101_ObjectCategories")
  classes = _files.class_folders(root)
  if not cfg.background:
    classes = [name for name in classes if name != BACKGROUND]
  if len(classes) < 2:
    raise errors.UsageError(
      f"data: {root}: {len(classes)} class folder(s); allowed: those of "
      "101_ObjectCategories"
    )
  found, others = _files.images_of(root, classes)

  def count(members):
    if members <= cfg.per_class:
      options.refuse(
        "data.per_class",
        cfg.per_class,
        f"less than the {members} images of the smallest class in {root}",
      )
    return cfg.per_class

  test, train = _files.parted(found, count, cfg.split_seed)
  return _files.load(
    cfg,
    root,
    {
      name: tuple(zip(*pairs, strict=True))
      for name, pairs in (("train", train), ("test", test))
    },
    name=f"Caltech-{len(classes)}",
    class_names=classes,
    others=others,
  )

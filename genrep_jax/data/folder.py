"""Images in folders, one for each class.

Layouts, told apart by whether there is a folder `train`:
  DIR/train/<class>/..., DIR/val/<class>/... and perhaps DIR/test/<class>/...:
    "test" is the test split, or "val" where there is none; with both, "val" is
    the selection split.
  DIR/<class>/...: test (and selection) images are taken out of every class by a
    seeded rule, the least sha256 of "seed/path": adding files moves few others.

Classes are the folders in the order of their names; images may lie deeper, and
links are followed. Hidden files and folders do not count, files of other
endings than those of `lib.decoding` are left out and counted. What an image is
turned into: see there. The first start reads and decodes every image once and
keeps what it learned (option `index`); later ones only look at names, sizes and
times.
"""

from genrep_jax.data import _files
from genrep_jax.lib import contracts, errors, options

OPTIONS = {
  "data_dir": options.text("", "folder of the class folders or of the splits"),
  "train": options.text("", "folder of the training split; empty: as above"),
  "test": options.text("", "folder of the test split; likewise"),
  "selection": options.text("", "folder of the selection split; likewise"),
  "test_share": options.number(
    0.2, "of every class, where no folder is the test split", above=0, below=1
  ),
  "selection_share": options.number(
    0.0, "likewise of what is left; 0: no selection split", low=0, below=1
  ),
  "split_seed": options.integer(0, "of these shares", low=0),
  **_files.options_of(),
}


def make(cfg) -> contracts.Dataset:
  """Finds and indexes the images; they are decoded when they are asked for.

  Args:
    cfg: `OPTIONS`.

  Raises:
    UsageError: no such folder, fewer than two classes, a class without images,
      classes that differ by case, unreadable images, images of several sizes
      with image_px = 0, links that go round.
  """
  return read(cfg, _files.root(cfg.data_dir))


def read(cfg, root, *, only=None, name: str = "", scope: str = ""):
  """Makes the data set of a folder.

  Args:
    cfg: an entry with `OPTIONS`.
    root: the folder.
    only: class folders to take, which must be there; None: all.
    name: of the data set; "": the folder's.
    scope: see `_index.examine`.
  """
  _files.check_sizes(cfg)
  where = _splits(cfg, root)
  top = root / where["train"]
  classes = _files.class_folders(top)
  if only is not None:
    absent = sorted(set(only).difference(classes))
    if absent:
      raise errors.UsageError(
        f"data: {top}: no folder of {len(absent)} of {len(only)} classes, "
        f"first {absent[0]!r}"
      )
    classes = sorted(only)
  if len(classes) < 2:
    raise errors.UsageError(
      f"data: {top}: {len(classes)} class folder(s); allowed: at least 2, each "
      "with images of one class"
    )
  found, others = {}, 0
  for split, inside in where.items():
    mine = classes if split == "train" else _files.class_folders(root / inside)
    strange = [one for one in mine if one not in classes]
    if only is not None:
      mine = [one for one in mine if one in classes]
    elif strange:
      raise errors.UsageError(
        f"data: {root / inside}: class {strange[0]!r} is not in {top}"
      )
    if not mine:
      raise errors.UsageError(
        f"data: {root / inside}: no class folder; allowed: those of {top}"
      )
    listed, more = _files.images_of(root / inside, mine)
    prefix = f"{inside}/" if inside else ""
    number = [classes.index(one) for one in mine]
    found[split] = [(prefix + one, number[label]) for one, label in listed]
    others += more
  for split, share in (
    ("test", cfg.test_share),
    ("selection", cfg.selection_share),
  ):
    if split not in found and share:
      found["train"], found[split] = _shared(cfg, found["train"], share)
  return _files.load(
    cfg,
    root,
    {
      split: ([one for one, _ in pairs], [label for _, label in pairs])
      for split, pairs in found.items()
    },
    name=name or root.resolve().name or str(root),
    class_names=classes,
    scope=scope,
    others=others,
  )


def _splits(cfg, root) -> dict[str, str]:
  """Returns {split: its folder within `root`, "" for the root itself}."""
  given = {
    split: cfg[split] for split in ("train", "test", "selection") if cfg[split]
  }
  for split, inside in given.items():
    if not (root / inside).is_dir():
      options.refuse(f"data.{split}", inside, f"a folder in {root}")
  if not given and (root / "train").is_dir():
    given["train"] = "train"
    there = [one for one in ("test", "val") if (root / one).is_dir()]
    given |= dict(zip(("test", "selection"), there, strict=False))
  if "train" not in given:
    if given:
      options.refuse("data.train", "", "a folder, as data.test is given")
    given["train"] = ""
  return {"train": given.pop("train"), **given}


def _shared(cfg, pairs, share):
  """Splits a share of every class off; every class keeps an image."""

  def count(members):
    return min(max(1, round(share * members)), members - 1)

  left, taken = _files.parted(pairs, count, cfg.split_seed)
  if not taken:
    raise errors.UsageError(
      f"data: {cfg.data_dir}: one image for each class; allowed: at least 2, "
      "or a folder of test images (data.test)"
    )
  return left, taken

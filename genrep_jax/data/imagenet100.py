"""ImageNet-100: 100 classes of ImageNet (Tian, Krishnan & Isola 2019, CMC).

About 126,700 training and 5,000 validation images, taken out of ImageNet
(ILSVRC 2012) as it lies on disk: folders `train/<synset>` and `val/<synset>`,
all thousand or these hundred, or a prepared TFDS set. The classes are those of
imagenet100.txt in the authors' repository (github.com/HobbitLong/CMC), numbered
in the order of their synsets, as a folder of them would be. There are other
lists of that name (option `classes`): numbers on different ones cannot be
compared.
"""

import hashlib

import ml_collections

from genrep_jax.data import _files, folder, tfds
from genrep_jax.lib import contracts, errors, files, options, plugins, untrusted

SYNSETS = """
n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672
n01978455 n01980166 n01983481 n02009229 n02018207 n02085620 n02086240 n02086910
n02087046 n02089867 n02089973 n02090622 n02091831 n02093428 n02099849 n02100583
n02104029 n02105505 n02106550 n02107142 n02108089 n02109047 n02113799 n02113978
n02114855 n02116738 n02119022 n02123045 n02138441 n02172182 n02231487 n02259212
n02326432 n02396427 n02483362 n02488291 n02701002 n02788148 n02804414 n02859443
n02869837 n02877765 n02974003 n03017168 n03032252 n03062245 n03085013 n03259280
n03379051 n03424325 n03492542 n03494278 n03530642 n03584829 n03594734 n03637318
n03642806 n03764736 n03775546 n03777754 n03785016 n03787032 n03794056 n03837869
n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531
n04127249 n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653
n04485082 n04493381 n04517823 n04589890 n04592741 n07714571 n07715103 n07753275
n07831146 n07836838 n13037406 n13040303
""".split()

OPTIONS = {
  "data_dir": options.text(
    "", "ImageNet: holds train and val; or TFDS's data_dir, empty: its default"
  ),
  "dataset": options.text(
    "", "TFDS name, e.g. 'imagenet2012', to read in place of folders"
  ),
  "classes": options.text(
    "", "file of other classes, a synset a line; empty: CMC's 100"
  ),
  **_files.options_of(image_px=224, resize_px=256),
}


def make(cfg) -> contracts.Dataset:
  """Finds and indexes the images of the classes.

  Args:
    cfg: `OPTIONS`.

  Returns:
    The data set: ImageNet's validation images are the test split.

  Raises:
    UsageError: a class is missing; see `data.folder` and `data.tfds`.
  """
  classes = sorted(_classes(cfg.classes) if cfg.classes else SYNSETS)
  name = f"ImageNet-{len(classes)}"
  mine = {key: cfg[key] for key in cfg if key in _files.options_of()}
  mine["data_dir"] = cfg.data_dir
  if cfg.dataset:
    mine |= {"dataset": cfg.dataset, "test_split": "validation"}
    return tfds.read(_entry("tfds", mine), classes, name)
  root = _files.root(cfg.data_dir)
  mine |= {"train": "train", "test": "val"}
  return folder.read(
    _entry("folder", mine), root, only=classes, name=name, scope=_scope(classes)
  )


def _entry(name, changes):
  return ml_collections.ConfigDict(plugins.defaults("data", name) | changes)


def _scope(classes) -> str:
  """Tells the indexes of subsets of one folder apart."""
  text = " ".join(classes).encode("utf-8", "surrogateescape")
  return hashlib.sha256(text).hexdigest()[:8]


def _classes(file):
  """Reads a list of classes, a line each."""
  path = files.folder(file, "data.classes")
  with untrusted.opened(path, "data.classes") as opened:
    with untrusted.guard(path, "data.classes", "list of classes"):
      names = opened.read(1 << 20).decode().split()
  if len(names) < 2 or len(set(names)) < len(names):
    raise errors.UsageError(
      f"data.classes: {file}: {len(names)} names, {len(set(names))} of them "
      "different; allowed: at least 2, each once"
    )
  return names

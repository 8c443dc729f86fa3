"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 px.

Reads the files of cifar-100-python.tar.gz, unpacked. Nothing is downloaded.
"""

from genrep_jax.data import _cifar
from genrep_jax.lib import contracts, options

MD5 = {
  "train": "16019d7e3df5f24257cddd939b257f8d",
  "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
  "meta": "7973b15100ade9c7d40fb424638fde48",
}
_FOLDER = "cifar-100-python"

OPTIONS = {
  "data_dir": options.text("", f"{_FOLDER}, or the folder that holds it"),
  "classes": options.choice(
    "fine", ("fine", "coarse"), "the 100 classes, or the 20 that group them"
  ),
}


def make(cfg) -> contracts.Dataset:
  """Reads CIFAR-100.

  Args:
    cfg: `OPTIONS`.

  Raises:
    UsageError: see `_pinned.read`.
  """
  return _cifar.load(
    "CIFAR-100" if cfg.classes == "fine" else "CIFAR-100 coarse",
    cfg.data_dir,
    _FOLDER,
    MD5,
    train=["train"],
    test="test",
    meta="meta",
    labels=f"{cfg.classes}_labels",
    class_names=f"{cfg.classes}_label_names",
  )

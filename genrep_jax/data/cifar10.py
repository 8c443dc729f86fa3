"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 px.

Reads the files of cifar-10-python.tar.gz, unpacked. Nothing is downloaded.
"""

from genrep_jax.data import _cifar
from genrep_jax.lib import contracts, options

MD5 = {
  "data_batch_1": "c99cafc152244af753f735de768cd75f",
  "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
  "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
  "data_batch_4": "634d18415352ddfa80567beed471001a",
  "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
  "test_batch": "40351d587109b95175f43aff81a1287e",
  "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
_FOLDER = "cifar-10-batches-py"

OPTIONS = {
  "data_dir": options.text("", f"{_FOLDER}, or the folder that holds it"),
}


def make(cfg) -> contracts.Dataset:
  """Reads CIFAR-10.

  Args:
    cfg: `OPTIONS`.

  Raises:
    UsageError: see `_pinned.read`.
  """
  return _cifar.load(
    "CIFAR-10",
    cfg.data_dir,
    _FOLDER,
    MD5,
    train=[name for name in MD5 if name.startswith("data_batch")],
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    class_names="label_names",
  )

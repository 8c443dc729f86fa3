"""STL-10 (Coates, Ng & Lee 2011): 5,000 training and 8,000 test images, 96 px.

Reads the files of stl10_binary.tar.gz, unpacked. Nothing is downloaded. The
100,000 images without labels are not read: a data set is of labeled ones.
"""

import numpy as np

from genrep_jax.data import _pinned
from genrep_jax.lib import contracts, options

CLASS_NAMES = (
  "airplane",
  "bird",
  "car",
  "cat",
  "deer",
  "dog",
  "horse",
  "monkey",
  "ship",
  "truck",
)
MD5 = {
  "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
  "train_y.bin": "5a34089d4802c674881badbb80307741",
  "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
  "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}
_FOLDER = "stl10_binary"

OPTIONS = {
  "data_dir": options.text("", f"{_FOLDER}, or the folder that holds it"),
}


def make(cfg) -> contracts.Dataset:
  """Reads STL-10.

  Args:
    cfg: `OPTIONS`.

  Raises:
    UsageError: see `_pinned.read`.
  """
  contents = _pinned.read(cfg.data_dir, _FOLDER, MD5)

  def split(name):
    images = np.frombuffer(contents[f"{name}_X.bin"], np.uint8)
    images = images.reshape(-1, 3, 96, 96)  # columns come before rows
    labels = np.frombuffer(contents[f"{name}_y.bin"], np.uint8)
    return contracts.Split(
      np.ascontiguousarray(images.transpose(0, 3, 2, 1)),
      labels.astype(np.int32) - 1,
    )

  return contracts.Dataset(
    name="STL-10",
    num_classes=len(CLASS_NAMES),
    class_names=CLASS_NAMES,
    train=split("train"),
    test=split("test"),
  )

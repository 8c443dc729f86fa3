"""A part of Fashion-MNIST, in the package: 5,000 train, all 10,000 test.

The first 500 training images of every class, in the order of the full set, and
the whole official test set. MIT license, (c) 2017 Zalando SE: the notice is in
assets/fashion_mnist_mini.md. `python -m genrep_jax.tools.make_mini_set`
rewrites the file from the full set.
"""

import hashlib
import io
import pathlib

import numpy as np

from genrep_jax.data.fashion_mnist import CLASS_NAMES
from genrep_jax.lib import contracts, errors

PER_CLASS = {"train": 500, "test": 1000}
PATH = (
  pathlib.Path(__file__).resolve().parent.parent
  / "assets"
  / "fashion_mnist_mini.npz"
)
SHA256 = "68eda7504d49bc56fcfd8ea0eba43b6536b051e1070e6d728f27964624b8bc11"


def make(cfg) -> contracts.Dataset:
  """Loads the embedded part of Fashion-MNIST.

  Args:
    cfg: nothing but its name.

  Returns:
    The data set: train [5000 28 28 1], test [10000 28 28 1].

  Raises:
    UsageError: the file in assets/ is missing or not the pinned one.
  """
  del cfg
  try:
    content = PATH.read_bytes()
  except OSError as error:
    raise errors.UsageError(
      f"data: {PATH}: unreadable: {error.strerror}"
    ) from error
  got = hashlib.sha256(content).hexdigest()
  if got != SHA256:
    raise errors.UsageError(
      f"data: {PATH}: wrong sha256: got {got}, expected {SHA256}"
    )
  with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
    splits = {
      split: contracts.Split(
        arrays[f"{split}_images"], arrays[f"{split}_labels"].astype("int32")
      )
      for split in PER_CLASS
    }
  return contracts.Dataset(
    name="Fashion-MNIST mini",
    num_classes=len(CLASS_NAMES),
    class_names=CLASS_NAMES,
    **splits,
  )

"""CIFAR as its authors publish it for Python: pickled batches of 32 x 32 px."""

from collections.abc import Mapping, Sequence

import numpy as np

from genrep_jax.data import _pinned
from genrep_jax.lib import contracts


def load(
  name: str,
  data_dir: str,
  folder: str,
  md5: Mapping[str, str],
  *,
  train: Sequence[str],
  test: str,
  meta: str,
  labels: str,
  class_names: str,
) -> contracts.Dataset:
  """Reads one of the two sets.

  Args:
    name: of the data set.
    data_dir: see `_pinned.read`.
    folder: see `_pinned.read`.
    md5: see `_pinned.read`.
    train: files of the training images, in order.
    test: file of the test images.
    meta: file of the names.
    labels: key of the classes in a batch.
    class_names: key of their names in `meta`.
  """
  contents = _pinned.read(data_dir, folder, md5)
  read = {one: _pinned.unpickled(contents[one], one) for one in contents}

  def split(files):
    images = np.concatenate([read[one]["data"] for one in files])
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = np.concatenate([read[one][labels] for one in files])
    return contracts.Split(
      np.ascontiguousarray(images), classes.astype("int32")
    )

  names = tuple(read[meta][class_names])
  return contracts.Dataset(
    name=name,
    num_classes=len(names),
    class_names=names,
    train=split(train),
    test=split([test]),
  )

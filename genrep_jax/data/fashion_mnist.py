"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), all of it, from the idx files.

60,000 training and 10,000 test images, 28x28x1, 10 classes; MIT license,
(c) 2017 Zalando SE. The folder holds the four files of the official
distribution, gzipped or not; `apt-get install dataset-fashion-mnist` puts them
into the default `data_dir`. Nothing is downloaded.
"""

from genrep_jax.data import _idx
from genrep_jax.lib import contracts, errors, options

CLASS_NAMES = (
  "T-shirt/top",
  "Trouser",
  "Pullover",
  "Dress",
  "Coat",
  "Sandal",
  "Shirt",
  "Sneaker",
  "Bag",
  "Ankle boot",
)
# sha256 of the decompressed idx files. Debian's package and the files that
# TensorFlow Datasets registers decompress to the same bytes.
SHA256 = {
  "train-images-idx3-ubyte": (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
  ),
  "train-labels-idx1-ubyte": (
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
  ),
  "t10k-images-idx3-ubyte": (
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
  ),
  "t10k-labels-idx1-ubyte": (
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
  ),
}


OPTIONS = {
  "data_dir": options.text(
    "/usr/share/datasets/fashion-mnist", "folder of the four idx files"
  ),
}


def make(cfg) -> contracts.Dataset:
  """Loads Fashion-MNIST.

  Args:
    cfg: `OPTIONS`.

  Returns:
    The data set: train [60000 28 28 1], test [10000 28 28 1].

  Raises:
    UsageError: a file is missing, truncated or not the official one.
  """
  paths = _idx.find(cfg.data_dir, SHA256)
  splits = []
  for prefix in ("train", "t10k"):
    images, labels = (
      _idx.read(paths[name], SHA256[name], ndim)
      for name, ndim in (
        (f"{prefix}-images-idx3-ubyte", 3),
        (f"{prefix}-labels-idx1-ubyte", 1),
      )
    )
    if len(images) != len(labels):
      raise errors.UsageError(
        f"data: {cfg.data_dir}: {prefix} has {len(images)} images but "
        f"{len(labels)} labels"
      )
    splits.append(contracts.Split(images[..., None], labels.astype("int32")))
  return contracts.Dataset(
    name="Fashion-MNIST",
    num_classes=len(CLASS_NAMES),
    class_names=CLASS_NAMES,
    train=splits[0],
    test=splits[1],
  )

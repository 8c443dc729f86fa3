"""Writes the embedded part of Fashion-MNIST from the full set.

  python -m genrep_jax.tools.make_mini_set \
    --data_dir /usr/share/datasets/fashion-mnist \
    --out genrep_jax/assets/fashion_mnist_mini.npz

The same input gives the same bytes: the archive holds no dates. (Another zlib
may compress differently; the content digest that is printed stays the same.)
"""

import hashlib
import io
import zipfile

import numpy as np

from genrep_jax import data
from genrep_jax.data import fashion_mnist_mini
from genrep_jax.lib import contracts, errors, files
from genrep_jax.tools import _cli


def choose(full: contracts.Dataset) -> contracts.Dataset:
  """Takes the first 500 training and 1,000 test images of every class."""
  splits = {}
  for split, per_class in fashion_mnist_mini.PER_CLASS.items():
    images, labels = getattr(full, split)
    indices = data.balanced_indices(labels, per_class * full.num_classes)
    counts = np.bincount(labels[indices], minlength=full.num_classes)
    if np.any(counts != per_class):
      raise errors.UsageError(
        f"data: {split}: not {per_class} images of every class: {counts}"
      )
    splits[split] = contracts.Split(images[indices], labels[indices])
  return contracts.Dataset(
    name="Fashion-MNIST mini",
    num_classes=full.num_classes,
    class_names=full.class_names,
    **splits,
  )


def encode(mini: contracts.Dataset) -> bytes:
  """Packs a data set into an .npz: deterministic, readable by `np.load`."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for split in fashion_mnist_mini.PER_CLASS:
      images, labels = getattr(mini, split)
      for kind, array in (("images", images), ("labels", labels)):
        member = io.BytesIO()
        np.save(member, array.astype(np.uint8), allow_pickle=False)
        # ZipInfo's default date is constant; np.savez's host system is not.
        info = zipfile.ZipInfo(f"{split}_{kind}.npy")
        info.create_system = 3
        archive.writestr(
          info, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9
        )
  return buffer.getvalue()


def write(data_dir: str, out: str) -> list[str]:
  """Reads the full set, chooses, and writes.

  Args:
    data_dir: folder with the four idx files; "": where they usually are.
    out: the .npz to write.

  Returns:
    Lines to print: the size, and the digests to pin.

  Raises:
    UsageError: files missing or not the official ones, or `out` unwritable.
  """
  folder = {"data_dir": data_dir} if data_dir else {}
  mini = choose(data.load({"name": "fashion_mnist", **folder}))
  content = encode(mini)
  try:
    with files.atomic(out) as partial:
      partial.write_bytes(content)
  except OSError as error:
    raise errors.UsageError(f"--out: {error}") from error
  return [
    f"{out}: {len(content)} bytes",
    f"file sha256    {hashlib.sha256(content).hexdigest()}",
    f"content digest {data.digest(mini)}",
  ]


def main(argv) -> int:
  """Writes the file that the command line names."""
  arguments = _cli.parser("genrep_jax.tools.make_mini_set", __doc__)
  add = arguments.add_argument
  add("--data_dir", default="", help="folder of Fashion-MNIST's four idx files")
  add("--out", required=True, help="file to write (.npz)")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("make_mini_set: takes no --config")
  print("\n".join(write(flags.data_dir, flags.out)))
  return errors.EXIT_OK


if __name__ == "__main__":
  _cli.run(main)

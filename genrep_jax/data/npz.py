"""Arrays of one .npz file: anything that is not published as one of the others.

`train_images` and `test_images`, uint8 [N h w c] or [N h w], `train_labels` and
`test_labels`, integers [N] or bool [N k] where an image has several classes;
perhaps `selection_images` and `selection_labels`. Images that `numpy.savez`
wrote, which does not compress, are mapped: they take no memory until they are
used.
"""

import zipfile

import numpy as np

from genrep_jax.lib import contracts, errors, files, npz, options, untrusted

_SPLITS = ("train", "test", "selection")

OPTIONS = {
  "file": options.text("", "path of the .npz"),
  "class_names": options.several(
    (), options.text(), "a name for each class; (): their numbers"
  ),
}


def make(cfg) -> contracts.Dataset:
  """Reads the file; nothing in it is unpickled.

  Args:
    cfg: `OPTIONS`.

  Raises:
    UsageError: no such file, damaged, without one of the arrays, or with one of
      another type.
  """
  path = files.folder(cfg.file, "data.file")
  wanted = {f"{one}_{kind}" for one in _SPLITS for kind in ("images", "labels")}
  mapped = _mapped(path, {name for name in wanted if name.endswith("images")})
  arrays, left_out = npz.read(path, "data.file", wanted - set(mapped))
  arrays |= mapped
  given = [one for one in _SPLITS if f"{one}_images" in arrays]
  needed = {
    f"{one}_{kind}"
    for one in {"train", "test", *given}
    for kind in ("images", "labels")
  }
  for name in sorted(needed - set(arrays)):
    raise errors.UsageError(
      f"data.file: {cfg.file}: {name}: {left_out.get(name, 'missing')}; "
      f"allowed: {', '.join(sorted(needed))}"
    )
  splits = {
    one: contracts.Split(
      _images(arrays[f"{one}_images"]), arrays[f"{one}_labels"]
    )
    for one in given
  }
  labels = splits["train"].labels
  several = labels.ndim == 2
  classes = len(cfg.class_names)
  if not classes and labels.size:
    classes = labels.shape[1] if several else int(labels.max()) + 1
  return contracts.Dataset(
    name=path.stem,
    num_classes=classes,
    class_names=tuple(cfg.class_names),
    **splits,
  )


def _images(array):
  return array[..., None] if array.ndim == 3 else array


def _mapped(path, names) -> dict:
  """Maps the arrays uint8 that lie in the file as they are."""
  found = {}
  with untrusted.archive(path, "data.file", ".npz") as archive:
    for member in archive.infolist():
      name = member.filename.removesuffix(".npy")
      if name not in names or member.compress_type != zipfile.ZIP_STORED:
        continue
      with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
          continue
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
      if dtype != np.uint8 or fortran:
        continue
      with open(path, "rb") as file:  # name and extra field may have any length
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
      start += member.header_offset + 30 + int(lengths.sum())
      found[name] = np.memmap(path, np.uint8, "r", start, shape)
  return found

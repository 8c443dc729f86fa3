"""Stored latents: what a seed drew, or what somebody chose."""

import numpy as np

from genrep_jax.lib import errors, files, npz


def read(what: str, path, generator, name: str):
  """Reads latents and classes, checked against a generator.

  Args:
    what: the flag or config key, for the message.
    path: .npz with `z` [n sample_dim], floating, and `y` [n], whole numbers,
      which an unconditional generator's file may lack.
    generator: contracts.Generator.
    name: the generator's.

  Returns:
    (z float32 [n sample_dim], y int32 [n]), numpy.

  Raises:
    UsageError: unreadable, or anything that does not fit the generator.
  """

  def refuse(text):
    raise errors.UsageError(f"{what}: {path}: {text}")

  path = files.folder(path, what)
  arrays, left_out = npz.read(path, what, ("z", "y"))
  for key, why in left_out.items():
    refuse(f"{key} is {why}; it must be numbers")
  if "z" not in arrays:
    refuse("has no array 'z'")
  z = arrays["z"]
  if z.dtype.kind != "f":
    refuse(f"z is {z.dtype}; it must be floating")
  if z.ndim != 2 or z.shape[1] != generator.sample_dim or not len(z):
    refuse(f"z is {list(z.shape)}; {name} takes [n {generator.sample_dim}]")
  if not np.isfinite(z).all():
    refuse("z holds a NaN or an infinity")
  classes = generator.num_classes
  y = arrays.get("y")
  if y is None:
    if classes:
      refuse(f"has no array 'y'; {name} needs a class of 0..{classes - 1}")
    y = np.zeros(len(z), np.int32)
  if y.dtype.kind not in "iu" or y.shape != z.shape[:1]:
    refuse(f"y is {y.dtype}{list(y.shape)}; it must be whole, [{len(z)}]")
  top = max(classes, 1) - 1
  if y.min() < 0 or y.max() > top:
    bad = int(y.min() if y.min() < 0 else y.max())
    refuse(f"y holds class {bad}; {name} has 0..{top}")
  return np.float32(z), np.int32(y)

"""Does a joint game invert its generator? Errors of G(E(x)) on real images.

The log of Donahue et al. 2017 (EGr, EGr_b, EGg, EGg_b, NND): the mean Euclidean
distance of x and G(E(x)), over images in [0, 1], beside that of G(E(x)) and the
next image, for real and for generated images; and the mean distance of real
images to the nearest generated one. A ratio of 1 says that nothing of an image
is left.
"""

import jax
import numpy as np

from genrep_jax.evaluations import _features
from genrep_jax.lib import contracts, options

OPTIONS = {
  "samples": options.integer(
    2048, "at most, of each kind", low=2, high=10**6, unit="images"
  ),
  "data": _features.OPTIONS["data"],
  "batch": _features.OPTIONS["batch"],
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the reconstruction errors.

  Args:
    cfg: `OPTIONS`.
    model: has `reconstruct` and `generate`.
    mesh: the device mesh.

  Returns:
    Yields error_<n>, ratio_<n> of n test images, generated_error_<n>,
    generated_ratio_<n>, and nearest_<n> of n images of either kind.

  Raises:
    UsageError: see `_features.load`.
  """
  dataset = _features.load(cfg, model, several=None)
  real = np.asarray(dataset.test.images[: cfg.samples])
  n = len(real)

  def flat(variables, images):
    return model.reconstruct(variables, images).reshape(len(images), -1)

  def again(variables, images):
    seen = _features.extract(flat, variables, images, mesh, cfg.batch)
    return (seen + 1) / 2

  def run(variables):
    drawn = _drawn(model, variables, n, cfg.batch)
    for name, images in (("", real), ("generated_", drawn)):
      own, other = errors(images / 255, again(variables, images))
      yield f"{name}error_{n}", own
      yield f"{name}ratio_{n}", own / other
    yield f"nearest_{n}", nearest(real / 255, drawn / 255)

  return contracts.Evaluation(
    run=run,
    headline=f"ratio_{n}",
    requires=frozenset({"reconstruct", "generate"}),
    unit="",
    about=f"reconstructions of {n} test images of {dataset.name}",
    metrics={
      f"error_{n}": "Mean Euclidean distance of an image and its "
      "reconstruction, pixels in [0, 1]; lower is better.",
      f"ratio_{n}": "That error over the reconstruction's distance to the next "
      "image; 1: nothing is inverted, 0: all of it.",
      f"generated_error_{n}": "The same of generated images.",
      f"generated_ratio_{n}": "The same of generated images.",
      f"nearest_{n}": "Mean distance of a real image to the nearest of as many "
      "generated ones; lower is better, and more images are closer.",
    },
  )


def errors(images, again, *, batch: int = 0) -> tuple[float, float]:
  """Returns the mean distances of reconstructions to their and the next image.

  Args:
    images: [n ...], pixels in [0, 1].
    again: [n ...], their reconstructions.
    batch: after the last of every so many images comes their first; 0: of all.
  """
  x, y = (
    np.asarray(of, np.float64).reshape(len(of), -1) for of in (images, again)
  )
  batch = batch or len(x)
  parts = [x[at : at + batch] for at in range(0, len(x), batch)]
  following = np.concatenate([np.roll(part, -1, axis=0) for part in parts])
  own, other = (
    float(np.mean(np.linalg.norm(y - of, axis=1))) for of in (x, following)
  )
  return own, other


def nearest(real, drawn) -> float:
  """Returns the mean distance of real images [n ...] to the nearest drawn."""
  x, y = (
    np.asarray(of, np.float64).reshape(len(of), -1) for of in (real, drawn)
  )
  squares = np.sum(y**2, axis=1)
  found = [np.min(np.sum(row**2) + squares - 2 * (y @ row)) for row in x]
  return float(np.mean(np.sqrt(np.maximum(found, 0))))


def _drawn(model, variables, n, batch):
  """Generates uint8 [n h w c], as real images are."""
  generate = jax.jit(model.generate)
  index = np.arange(n, dtype=np.uint32)
  parts = [
    np.asarray(generate(variables, index[at : at + batch])[0])
    for at in range(0, n, batch)
  ]
  images = np.clip(np.concatenate(parts), -1, 1)
  return np.rint((images + 1) * 127.5).astype(np.uint8)

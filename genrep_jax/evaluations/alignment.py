"""Alignment and uniformity on the unit sphere (Wang & Isola 2020, eq. 2, 3).

Label-free: of two views of each anchor, rendered by the run's own generator.
Lower is better for both, and one without the other is easy.
"""

import numpy as np

from genrep_jax.evaluations import _features, _generated
from genrep_jax.lib import contracts, options

OPTIONS = {
  "views": _generated.views_option("both", "T_z, T_x, both or neither"),
  "samples": options.integer(
    2000, "anchors, two views of each", low=2, high=10**5, unit="anchors"
  ),
  "t": options.number(2.0, "of exp(-t distance^2)", above=0, high=1e3),
  "batch": _features.OPTIONS["batch"],
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes alignment and uniformity.

  Args:
    cfg: `OPTIONS`.
    model: has `encode` and `views`.
    mesh: the device mesh.

  Returns:
    Yields alignment and uniformity, followed by "_<views>_<samples>"; the
    uniformity is the mean of that of the first and of the second views, its t
    in the name if it is not 2.
  """
  protocol = f"{cfg.views}_{cfg.samples}"
  spread = "uniformity" if cfg.t == 2 else f"uniformity_t{cfg.t:g}"

  def run(variables):
    z = _generated.encoded_views(
      model,
      variables,
      mesh,
      samples=cfg.samples,
      count=2,
      batch=cfg.batch,
      views=cfg.views,
    ).features
    yield f"alignment_{protocol}", alignment(z)
    both = [uniformity(z[:, i], t=cfg.t) for i in (0, 1)]
    yield f"{spread}_{protocol}", float(np.mean(both))

  return contracts.Evaluation(
    run=run,
    headline=f"{spread}_{protocol}",
    requires=frozenset({"encode", "views"}),
    unit="",
    about=f"log mean exp(-{cfg.t:g} d^2) of unit features of {cfg.samples} "
    f"generated images, views: {cfg.views}; lower is better",
    metrics={
      "alignment_*": "Mean squared distance of two views' unit features; lower "
      "is better.",
      "uniformity_*": "How near unit features of different anchors are, in "
      "logs: 0 where all are one; lower is better.",
    },
  )


def unit(z) -> np.ndarray:
  """Scales rows [... f] to length 1, float64; a zero row stays zero."""
  z = np.asarray(z, np.float64)
  norms = np.linalg.norm(z, axis=-1, keepdims=True)
  return z / np.maximum(norms, np.finfo(np.float32).tiny)


def alignment(z) -> float:
  """Mean squared distance of the two views [n 2 f], scaled to length 1."""
  z = unit(z)
  return float(np.mean(np.sum((z[:, 0] - z[:, 1]) ** 2, axis=-1)))


def uniformity(z, *, t: float = 2.0, chunk: int = 1000) -> float:
  """Log of the mean of exp(-t distance^2) over pairs of different rows.

  Args:
    z: [n f], n >= 2; scaled to length 1 here.
    t: see above.
    chunk: rows at a time, to bound memory.

  Returns:
    A number in [-4 t, 0]; 0 where all rows are one.
  """
  z = unit(z)
  squares = np.sum(z**2, axis=1)
  total = 0.0
  for start in range(0, len(z), chunk):
    rows = slice(start, start + chunk)
    distance = squares[rows, None] + squares - 2 * z[rows] @ z.T
    terms = np.exp(-t * np.maximum(distance, 0))
    terms[np.arange(len(terms)), start + np.arange(len(terms))] = 0
    total += terms.sum()
  return float(np.log(total / (len(z) * (len(z) - 1))))

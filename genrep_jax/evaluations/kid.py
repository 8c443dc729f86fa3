"""Kernel inception distance (Binkowski et al. 2018, section 4), and CMMD's.

Unbiased, so that it can be compared at different numbers of samples, and so it
may be negative.
"""

import numpy as np

from genrep_jax.evaluations import _generated
from genrep_jax.lib import contracts, options

OPTIONS = {
  "subsets": options.integer(100, "that are averaged", low=1, high=10**5),
  "subset_size": options.integer(
    1000, "of either side, without replacement", low=2, high=10**5,
    unit="images",
  ),
  **_generated.OPTIONS,
}  # fmt: skip


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the kernel distance.

  Args:
    cfg: `OPTIONS`; `seed` draws the subsets, too.
    model: has `generate`.
    mesh: the device mesh.

  Returns:
    Yields ("kid_<eyes>_<samples>", the mean of the subsets) and "kid_std_...".

  Raises:
    UsageError: subsets of more images than there are, or see
      `_generated.Judge`.
  """
  judge = _generated.Judge(cfg, model, mesh)
  most = min(cfg.samples, judge.real_count)
  if cfg.subset_size > most:
    options.refuse(
      "evaluations.subset_size", cfg.subset_size, f"at most {most}, the images"
    )

  def run(variables):
    real, fake = (view.features for view in judge.see(variables))
    rng = np.random.default_rng(cfg.seed)
    values = [
      kid(
        *(x[rng.permutation(len(x))[: cfg.subset_size]] for x in (real, fake))
      )
      for _ in range(cfg.subsets)
    ]
    yield f"kid_{judge.protocol}", float(np.mean(values))
    yield f"kid_std_{judge.protocol}", float(np.std(values))

  return contracts.Evaluation(
    run=run,
    headline=f"kid_{judge.protocol}",
    requires=frozenset({"generate"}),
    unit="",
    about=f"cubic kernel's distance, {cfg.subsets} subsets of "
    f"{cfg.subset_size}, of {judge.about}",
    metrics={
      "kid_std_*": "Its standard deviation over subsets.",
      "kid_*": "Unbiased kernel distance in feature space; lower is better.",
    },
  )


def _kernel(x, y):
  return (x @ y.T / x.shape[1] + 1) ** 3


def kid(x, y, *, chunk: int = 2000) -> float:
  """Unbiased squared MMD of [n f] and [m f] under (x.y / f + 1)^3.

  Args:
    x: [n f], n >= 2.
    y: [m f], m >= 2.
    chunk: rows at a time, to bound memory.
  """
  x, y = (np.asarray(a, np.float64) for a in (x, y))

  def total(a, b):
    rows = range(0, len(a), chunk)
    return sum(_kernel(a[i : i + chunk], b).sum() for i in rows)

  def within(a):
    diagonal = np.sum((np.sum(a**2, axis=1) / a.shape[1] + 1) ** 3)
    return (total(a, a) - diagonal) / (len(a) * (len(a) - 1))

  return float(within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y)))


def cmmd(x, y, *, sigma: float = 10.0, chunk: int = 2000) -> float:
  """CMMD's distance (Jayasumana et al. 2024, eq. 4) of embeddings.

  1000 times the squared MMD under exp(-|x - y|^2 / (2 sigma^2)) of rows of
  length 1: the biased statistic, diagonals and all, as the authors' code has it
  (the paper says unbiased).

  Args:
    x: [n f], scaled to length 1 here.
    y: [m f], likewise.
    sigma: see above.
    chunk: rows at a time.
  """
  from genrep_jax.evaluations import alignment

  x, y = alignment.unit(x), alignment.unit(y)

  def mean(a, b):
    total = 0.0
    for start in range(0, len(a), chunk):
      rows = a[start : start + chunk]
      squares = np.sum(rows**2, axis=1)[:, None] + np.sum(b**2, axis=1)
      total += np.exp(-(squares - 2 * rows @ b.T) / (2 * sigma**2)).sum()
    return total / (len(a) * len(b))

  return float(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)))

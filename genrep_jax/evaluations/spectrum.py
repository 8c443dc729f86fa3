"""Label-free measures of features: how many directions do they use?

RankMe (Garrido et al. 2023, arXiv:2210.02885, eq. 1), the effective rank of the
covariance (Roy & Vetterli 2007), alpha-ReQ (Agrawal et al. 2022, section 3) and
the participation ratio. LiDAR (Thilak et al. 2023, arXiv:2312.04000, eq. 1-4)
and linear CKA (Kornblith et al. 2019, eq. 5) are here for who needs them, too.
Formulas run on the host in float64.
"""

import numpy as np

from genrep_jax.evaluations import _features, _generated
from genrep_jax.lib import contracts, figures, options

_CHUNK = 8192  # rows that a factorization takes at a time

OPTIONS = {
  "images": options.choice(
    "auto",
    ("auto", "views", "test"),
    "generated views, real test images; auto: views if the program renders any",
  ),
  "views": _generated.views_option(
    "both", "of the generated ones: T_z, T_x, both or neither"
  ),
  "samples": options.integer(
    2048, "at most; compare at equal numbers only", low=3, high=10**6,
    unit="images",
  ),
  "alpha_window": options.several(
    (),
    options.integer(low=1),
    "first and last eigenvalue of alpha-ReQ's fit, from 1; (): middle 80 %",
    lengths=(0, 2),
    only=("the first below the second", lambda x: not x or x[0] < x[1]),
  ),
  "data": _features.OPTIONS["data"],
  "batch": _features.OPTIONS["batch"],
}  # fmt: skip


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the spectrum of an encoder's features.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`; `views`, but for real images.
    mesh: the device mesh.

  Returns:
    Yields rankme, effective_rank, participation_ratio, alpha_req, each followed
    by "_<images>_<number>". A fit that has not two eigenvalues that are not
    zero, as of collapsed features, yields no alpha_req.

  Raises:
    UsageError: views of a program that renders none, or see `_features.load`.
  """
  real = cfg.images == "test" or cfg.images == "auto" and model.views is None
  if not real and model.views is None:
    options.refuse(
      "evaluations.images", cfg.images, "'auto' or 'test': nothing is rendered"
    )
  if real:
    dataset = _features.load(cfg, model, several=None)
    samples = min(cfg.samples, len(dataset.test.labels))
    protocol = f"test_{samples}"
    shown = f"test images of {dataset.name}"
  else:
    samples, protocol = cfg.samples, f"{cfg.views}_{cfg.samples}"
    shown = f"generated images, views: {cfg.views}"

  def features(variables):
    if real:
      images = dataset.test.images[:samples]
      return _features.extract(model.encode, variables, images, mesh, cfg.batch)
    return _generated.encoded_views(
      model,
      variables,
      mesh,
      samples=samples,
      count=1,
      batch=cfg.batch,
      views=cfg.views,
    ).features[:, 0]

  def run(variables):
    z = features(variables)
    yield f"rankme_{protocol}", rank_me(z)
    values = covariance_eigenvalues(z)
    yield f"effective_rank_{protocol}", _perplexity(values)
    yield f"participation_ratio_{protocol}", _participation(values)
    alpha = _slope(values, *cfg.alpha_window)
    if np.isfinite(alpha):
      yield f"alpha_req_{protocol}", alpha

  def pictures(variables):
    values = covariance_eigenvalues(features(variables))
    points = [
      (i + 1, value / values[0], 0.0)
      for i, value in enumerate(values)
      if value > 1e-12 * values[0]
    ]
    # Of very many, those that can be told apart on a logarithmic axis.
    places = np.unique(np.geomspace(1, max(len(points), 1), 200).astype(int))
    panel = figures.Panel(
      "Spectrum of the features' covariance",
      "index",
      "eigenvalue / the largest",
      [("eigenvalues", [points[i - 1] for i in places if points])],
      log_y=True,
    )
    return {
      "eigenvalues": contracts.Picture(
        "a flat curve uses all directions, a steep one few",
        lambda path: figures.line_plot(path, panel),
      )
    }

  return contracts.Evaluation(
    run=run,
    pictures=pictures,
    headline=f"rankme_{protocol}",
    requires=frozenset({"encode"} if real else {"encode", "views"}),
    unit="",
    about=f"RankMe, eps 1e-7, of {samples} {shown}",
    metrics={
      "rankme_*": "Entropy of the singular values: directions in use, at most "
      "the features; compare at equal numbers of images.",
      "effective_rank_*": "The same of the covariance's eigenvalues.",
      "participation_ratio_*": "Squared sum of those over the sum of squares.",
      "alpha_req_*": "How fast they fall, index^-alpha: near 1 is good, far "
      "above it few directions are left.",
    },
  )


def singular_values(features, *, chunk: int = _CHUNK) -> np.ndarray:
  """Singular values of [n f], descending, float64 [min(n, f)].

  Rows come in chunks through a QR factorization, so that small values are as
  precise as the large ones: the square root of a Gram matrix's would not be.

  Args:
    features: [n f].
    chunk: rows at a time, to bound memory.
  """
  x = np.asarray(features)
  size = min(x.shape)
  upper = np.asarray(x[:chunk], np.float64)
  for start in range(chunk, len(x), chunk):
    rows = np.concatenate([upper, x[start : start + chunk]])
    upper = np.linalg.qr(rows, mode="r")
  return np.linalg.svd(upper, compute_uv=False)[:size]


def covariance_eigenvalues(features, *, chunk: int = _CHUNK) -> np.ndarray:
  """Eigenvalues of the unbiased covariance of [n f], descending."""
  x = np.asarray(features, np.float64)
  x = x - x.mean(axis=0)
  return singular_values(x, chunk=chunk) ** 2 / (len(x) - 1)


def rank_me(features, *, eps: float = 1e-7) -> float:
  """RankMe: exp of the entropy of p = s / sum(s) + eps, s singular values.

  The features are not centered, the values not squared.

  Args:
    features: [n f]; all zero: 1.
    eps: added to each p.
  """
  values = singular_values(features)
  if not values.any():
    return 1.0
  p = values / values.sum() + eps
  return float(np.exp(-np.sum(p * np.log(p))))


def effective_rank(features) -> float:
  """Exp of the entropy of the covariance's eigenvalues; of no variance: 1."""
  return _perplexity(covariance_eigenvalues(features))


def participation_ratio(features) -> float:
  """(sum of the covariance's eigenvalues)^2 / sum of their squares."""
  return _participation(covariance_eigenvalues(features))


def alpha_req(features, *, first=None, last=None) -> float:
  """Minus the slope of log eigenvalue against log index, by least squares.

  Args:
    features: [n f].
    first: index of the first eigenvalue of the fit, from 1.
    last: of the last; None, both: the middle 80 % of them.

  Returns:
    alpha of eigenvalue_j ~ j^-alpha; NaN where fewer than two of the window's
    eigenvalues exceed 1e-13 of the largest, which is rounding.
  """
  window = () if first is None else (first, last)
  return _slope(covariance_eigenvalues(features), *window)


def lidar(groups, *, delta: float = 1e-4, eps: float = 1e-8) -> float:
  """LiDAR: the rank of what tells samples apart, views being the noise.

  Args:
    groups: [n q f], features of q views of each of n samples; n, q >= 2.
    delta: on the diagonal of the covariance within groups.
    eps: added to each eigenvalue.

  Returns:
    exp of the entropy of the eigenvalues of W^-1/2 B W^-1/2: the covariances
    within and between groups. In [1, f]; features that are all equal give f.
  """
  import scipy.linalg

  x = np.asarray(groups, np.float64)
  n, q, size = x.shape
  means = x.mean(axis=1)
  between = np.atleast_2d(np.cov(means, rowvar=False))
  rest = (x - means[:, None]).reshape(n * q, size)
  within = rest.T @ rest / (n * (q - 1)) + delta * np.eye(size)
  values = scipy.linalg.eigh(between, within, eigvals_only=True)
  return _perplexity(np.maximum(values, 0) + eps)


def linear_cka(x, y) -> float:
  """Linear CKA of [n f], [n g]: |Y'X|^2 / (|X'X| |Y'Y|), columns centered."""
  x, y = (np.asarray(a, np.float64) for a in (x, y))
  x, y = x - x.mean(axis=0), y - y.mean(axis=0)
  norm = np.linalg.norm
  return float(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


def _perplexity(values) -> float:
  """Exp of the entropy of numbers >= 0 that are scaled to sum to 1."""
  p = values[values > 0] / max(values.sum(), np.finfo(np.float64).tiny)
  return float(np.exp(-np.sum(p * np.log(p)))) if len(p) else 1.0


def _participation(values) -> float:
  """(sum)^2 / sum of squares; 1 for zeros."""
  return float(values.sum() ** 2 / (values @ values)) if values.any() else 1.0


def _slope(values, first=None, last=None) -> float:
  """See `alpha_req`, of eigenvalues in descending order."""
  if first is None:
    first, last = int(0.1 * len(values)) + 1, int(0.9 * len(values))
  window = values[first - 1 : last]
  index = np.arange(first, first + len(window))
  kept = window > 1e-13 * values[0]
  if kept.sum() < 2:
    return float("nan")
  slope, _ = np.polyfit(np.log(index[kept]), np.log(window[kept]), 1)
  return float(-slope)

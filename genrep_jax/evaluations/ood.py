"""Out-of-distribution detection: which images are none of the data set's.

Two scores of an image, higher = more like the training images: the cosine to
its k-th nearest training image (Sun et al. 2022, arXiv:2204.06507), and minus
the squared Mahalanobis distance to the nearest class mean under one covariance
(Lee et al. 2018, arXiv:1807.03888). Test images are told from those of another
set or, with no download, from themselves inverted or turned.
"""

import numpy as np

from genrep_jax import data
from genrep_jax.evaluations import _features, knn
from genrep_jax.evaluations.svm import average_precision
from genrep_jax.lib import contracts, options

OPTIONS = {
  "against": options.Entry(
    "data", "", "whose test images are foreign; empty: `shift`"
  ),
  "shift": options.choice(
    "inverted",
    ("inverted", "rotated"),
    "what makes the judged images foreign: 255 - x, or a quarter turn",
  ),
  "k": options.integer(50, "neighbors of the kNN score", low=1, high=2**16),
  **_features.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the detection of foreign images.

  Args:
    cfg: `OPTIONS`.
    model: has `encode`.
    mesh: the device mesh.

  Returns:
    Yields of both scores, "ood_knn<k>" and "ood_mahalanobis": "..._auroc",
    "..._fpr95", "..._aupr_in" and "..._aupr_out", see `measures`.

  Raises:
    UsageError: more neighbors than training images, images of another shape,
      or see `_features`.
  """
  dataset = _features.load(cfg, model)
  size = _features.train_size(cfg, dataset)
  if cfg.k > size:
    options.refuse(
      "evaluations.k", cfg.k, f"at most the {size} training images"
    )
  images = _features.splits(cfg, dataset)[1].images
  if cfg.against.name:
    other = data.load(cfg.against, "evaluations.against")
    foreign, name = other.test.images, other.name
  else:
    foreign, name = _Shifted(images, cfg.shift), f"{cfg.shift} ones"
  given, wanted = foreign.shape[1:], images.shape[1:]
  if given != wanted and not (cfg.image_px and given[2] == wanted[2]):
    where = "against" if cfg.against.name else "shift"
    options.refuse(
      f"evaluations.{where}",
      f"{name}, images {tuple(given)}",
      f"images {tuple(wanted)}, or of as many channels and image_px",
    )

  def run(variables):
    train, judged, _ = _features.of_dataset(
      cfg, dataset, model.encode, variables, mesh
    )
    strange = _features.extract(
      model.encode,
      variables,
      foreign,
      mesh,
      cfg.batch,
      image_px=cfg.image_px,
    )
    pair = judged[0], strange
    for name, scores in (
      (
        f"ood_knn{cfg.k}",
        [knn.nearest(train[0], x, cfg.k, mesh)[0][:, -1] for x in pair],
      ),
      ("ood_mahalanobis", [mahalanobis(*train, x) for x in pair]),
    ):
      for metric, value in measures(*scores).items():
        yield f"{name}_{metric}", value

  return contracts.Evaluation(
    run=run,
    headline=f"ood_knn{cfg.k}_auroc",
    metrics={
      "ood_*": "How well strange images are told from test images, by the "
      "cosine to a training image or by Mahalanobis' distance; fpr95: share of "
      "strange ones let in where 95 % of the others are."
    },
    about=_features.said(
      cfg,
      dataset,
      f"cosine to the {cfg.k}th nearest training image, against {name}",
    ),
  )


class _Shifted:
  """Images that are inverted or turned when they are asked for."""

  def __init__(self, images, shift):
    self._images, self._shift = images, shift
    self.shape, self.dtype = tuple(images.shape), images.dtype
    if shift == "rotated":
      n, h, w, c = self.shape
      self.shape = n, w, h, c

  def __len__(self):
    return len(self._images)

  def __getitem__(self, rows):
    images = np.asarray(self._images[rows])
    if self._shift == "inverted":
      return 255 - images
    return np.rot90(images, axes=(1, 2))


def mahalanobis(train, labels, queries) -> np.ndarray:
  """Minus the squared distance to the nearest class mean, float64 [m].

  Distances are those in which the training rows about their class means have
  the covariance 1. Directions with less than 1e-6 of the largest variance are
  left out: they hold rounding only.

  Args:
    train: [n f].
    labels: int [n].
    queries: [m f].
  """
  train, queries = (np.asarray(x, np.float64) for x in (train, queries))
  means = np.stack([train[labels == c].mean(0) for c in np.unique(labels)])
  rest = train - means[np.searchsorted(np.unique(labels), labels)]
  values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
  some = values > 1e-6 * max(values[-1], np.finfo(np.float64).tiny)
  whiten = vectors[:, some] / np.sqrt(values[some])
  means, x = means @ whiten, queries @ whiten
  squares = [np.square(x - mean).sum(axis=1) for mean in means]
  return -np.min(squares, axis=0)


def measures(own, foreign) -> dict[str, float]:
  """How well scores tell own images, [n], from foreign ones, [m].

  Args:
    own: scores, higher = more likely own.
    foreign: likewise.

  Returns:
    auroc: chance that an own image scores higher than a foreign one, a tie
      counts half.
    fpr95: share of the foreign ones that are not below the score that 95 % of
      the own ones reach.
    aupr_in: step average precision with the own ones as positives.
    aupr_out: the same with the foreign ones, and scores negated.
  """
  own, foreign = (np.sort(np.asarray(x, np.float64)) for x in (own, foreign))
  below = np.searchsorted(foreign, own, "left")
  up_to = np.searchsorted(foreign, own, "right")
  threshold = own[int(0.05 * len(own))]
  scores = np.concatenate([own, foreign])
  is_own = np.arange(len(scores)) < len(own)
  return {
    "auroc": float((below + up_to).mean() / 2 / len(foreign)),
    "fpr95": float(np.mean(foreign >= threshold)),
    "aupr_in": average_precision(scores, is_own),
    "aupr_out": average_precision(-scores, ~is_own),
  }

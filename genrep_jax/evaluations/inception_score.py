"""Inception score (Salimans et al. 2016, section 4): sharp and varied classes.

exp of the mean divergence of an image's classes from all images' classes. It
never looks at real images; with the small classifier's classes its largest
value is their number.
"""

import numpy as np

from genrep_jax.evaluations import _calibration, _generated
from genrep_jax.lib import contracts, options

OPTIONS = {
  "splits": options.integer(10, "that are averaged", low=1, high=10**4),
  **_generated.OPTIONS,
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the inception score.

  Args:
    cfg: `OPTIONS`.
    model: has `generate`.
    mesh: the device mesh.

  Returns:
    Yields ("inception_score_<eyes>_<samples>", the mean of the splits) and
    "inception_score_std_...", with "_splits<n>" if those are not 10.

  Raises:
    UsageError: more splits than images, or see `_generated.Judge`.
  """
  judge = _generated.Judge(cfg, model, mesh)
  if cfg.splits > cfg.samples:
    options.refuse(
      "evaluations.splits", cfg.splits, f"at most {cfg.samples}, the samples"
    )
  protocol = judge.protocol
  if cfg.splits != 10:
    protocol += f"_splits{cfg.splits}"

  def run(variables):
    _, fake = judge.see(variables)
    mean, std = inception_score(
      _calibration.softmax(fake.logits), splits=cfg.splits
    )
    yield f"inception_score_{protocol}", mean
    yield f"inception_score_std_{protocol}", std

  return contracts.Evaluation(
    run=run,
    headline=f"inception_score_{protocol}",
    requires=frozenset({"generate"}),
    unit="",
    about=f"inception score, {cfg.splits} splits, of {judge.about}",
    metrics={
      "inception_score_std_*": "Its standard deviation over splits.",
      "inception_score_*": "Sharp and varied classes; at most their number. It "
      "never looks at real images.",
    },
  )


def inception_score(shares, *, splits: int = 10) -> tuple[float, float]:
  """Returns the (mean, standard deviation) of the splits' scores.

  Args:
    shares: p(class | image), [n k]; rows sum to 1.
    splits: consecutive parts, of n // splits or one more images.
  """
  p = np.asarray(shares, np.float64)
  scores = []
  for i in range(splits):
    part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
    ratio = np.where(part > 0, part, 1) / part.mean(axis=0, keepdims=True).clip(
      np.finfo(np.float64).tiny
    )
    divergence = np.where(part > 0, part * np.log(ratio), 0).sum(axis=1)
    scores.append(np.exp(divergence.mean()))
  return float(np.mean(scores)), float(np.std(scores))

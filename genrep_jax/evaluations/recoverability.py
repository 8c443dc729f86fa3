"""How much of the generator's latent is left in the features?

R^2 of ridge regression from the features of an anchor to its latent, all of it
and by group. Training lowers it for what T_z moves: the encoder has learned to
ignore that. No labels, no real images.
"""

import numpy as np

from genrep_jax.evaluations import _features, _generated
from genrep_jax.lib import contracts, options

_TRAIN = 0.8  # share of the samples that the regression is fitted on


def _groups(value) -> bool:
  names = [name for name, *_ in value]
  return len(set(names)) == len(names) and all(
    isinstance(name, str)
    and name.isidentifier()
    and name != "all"
    and type(first) is type(end) is int
    and 0 <= first < end
    for name, first, end in value
  )


OPTIONS = {
  "groups": options.anything(
    (),
    "parts of the latent, each with a number of its own",
    "a tuple of (name, first, end), 0 <= first < end; names are identifiers, "
    "each once, not 'all'",
    _groups,
  ),
  "samples": options.integer(
    2000, "anchors; a fifth is held out", low=10, high=10**6, unit="anchors"
  ),
  "l2": options.number(
    1e-3, "of the mean squared error + l2 |W|^2", above=0, high=1e6
  ),
  "views": _generated.views_option(
    "none", "what is encoded; the latent is that of the view"
  ),
  "batch": _features.OPTIONS["batch"],
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the recoverability of latents.

  Args:
    cfg: `OPTIONS`.
    model: has `encode` and `views`.
    mesh: the device mesh.

  Returns:
    Yields ("ridge_r2_<group>_<views>_<samples>", mean R^2 of the group's
    coordinates on the fifth that is held out), of "all" and of each group.

  Raises:
    UsageError: when it runs: a group beyond the latent.
  """
  protocol = f"{cfg.views}_{cfg.samples}"
  headline = f"ridge_r2_all_{protocol}"

  def run(variables):
    seen = _generated.encoded_views(
      model,
      variables,
      mesh,
      samples=cfg.samples,
      count=1,
      batch=cfg.batch,
      views=cfg.views,
      latents=True,
    )
    x, z = seen.features[:, 0], seen.latents[:, 0]
    cut = int(_TRAIN * len(x))
    last = max((end for *_, end in cfg.groups), default=0)
    if last > z.shape[1]:
      options.refuse(
        "evaluations.groups", last, f"ends up to {z.shape[1]}, the latent's"
      )
    r2 = ridge_r2(x[:cut], z[:cut], x[cut:], z[cut:], l2=cfg.l2)
    for name, first, end in (("all", 0, z.shape[1]), *cfg.groups):
      value = np.nanmean(r2[first:end])
      yield f"ridge_r2_{name}_{protocol}", float(value)

  return contracts.Evaluation(
    run=run,
    headline=headline,
    requires=frozenset({"encode", "views"}),
    unit="",
    about=f"R^2 of ridge regression, l2 {cfg.l2:g}, from features to latents, "
    f"of {cfg.samples} generated images, views: {cfg.views}",
    metrics={
      "ridge_r2_*": "Share of the latent's variance that features predict: 1 "
      "is all of it; what T_z moves should fall."
    },
  )


def ridge(x, z, *, l2: float):
  """Fits ridge regression on standardized features and centered targets.

  Minimizes mean |z - W x|^2 + l2 |W|^2.

  Args:
    x: features [n f]; those that do not vary are left out.
    z: targets [n d].
    l2: see above.

  Returns:
    (weights [f d], predict: features [m f] -> float64 [m d]).
  """
  x, z = (np.asarray(a, np.float64) for a in (x, z))
  mean, std, center = x.mean(axis=0), x.std(axis=0), z.mean(axis=0)
  std = np.where(std > 0, std, np.inf)
  x = (x - mean) / std
  gram = x.T @ x + l2 * len(x) * np.eye(x.shape[1])
  weights = np.linalg.solve(gram, x.T @ (z - center))

  def predict(new):
    return (np.asarray(new, np.float64) - mean) / std @ weights + center

  return weights, predict


def ridge_r2(x, z, test_x, test_z, *, l2: float = 1.0) -> np.ndarray:
  """R^2 of each target on the test rows, against their own mean.

  Args:
    x: features [n f] to fit on.
    z: targets [n d].
    test_x: features [m f].
    test_z: targets [m d].
    l2: see `ridge`.

  Returns:
    float64 [d], each <= 1; NaN where the test targets are one number.
  """
  _, predict = ridge(x, z, l2=l2)
  z = np.asarray(test_z, np.float64)
  left = np.sum((z - predict(test_x)) ** 2, axis=0)
  total = np.sum((z - z.mean(axis=0)) ** 2, axis=0)
  return np.where(total > 0, 1 - left / np.where(total > 0, total, 1), np.nan)

"""View hardness against sigma: how far may T_z move a latent?

For every sigma two T_z views of each anchor, without T_x: the mean cosine of
their features and, with `classes`, the share of pairs that a small classifier
of the real images gives one class. Where that falls below 0.9 is the largest
sensible sigma.
"""

import jax
import numpy as np

from genrep_jax.evaluations import _features, _generated, alignment
from genrep_jax.lib import contracts, options

OPTIONS = {
  "sigmas": options.several(
    (0.1, 0.2, 0.5, 1.0),
    options.number(low=0, high=1e3),
    "of T_z",
    least=1,
    only=("each once", lambda sigmas: len(set(sigmas)) == len(sigmas)),
  ),
  "samples": options.integer(
    500, "anchors, two views of each", low=1, high=10**6, unit="anchors"
  ),
  "classes": options.flag(False, "with a classifier of the real images"),
  "data": _features.OPTIONS["data"],
  "epochs": _generated.OPTIONS["epochs"],
  "seed": _generated.OPTIONS["seed"],
  "batch": _features.OPTIONS["batch"],
}


def make(cfg, model, mesh) -> contracts.Evaluation:
  """Makes the hardness curve.

  Args:
    cfg: `OPTIONS`.
    model: has `encode` and `views`, of a T_z with an option `sigma`.
    mesh: the device mesh.

  Returns:
    Yields "view_cosine_sigma<sigma>_<samples>" and, with `classes`,
    "view_agreement_sigma<sigma>_<samples>", for every sigma, and the mean of
    the former, "view_cosine_<samples>".

  Raises:
    UsageError: see `_features.load`; when it runs: T_z has no sigma.
  """
  dataset = _features.load(cfg, model) if cfg.classes else None
  headline = f"view_cosine_{cfg.samples}"
  if not model.sigma_varies:
    options.refuse(
      "evaluations.sigmas",
      tuple(cfg.sigmas),
      "an experiment whose views.latent has sigma, which is varied",
    )

  def run(variables):
    cosines = []
    for sigma in cfg.sigmas:
      z = _generated.encoded_views(
        model,
        variables,
        mesh,
        samples=cfg.samples,
        count=2,
        batch=cfg.batch,
        views="latent",
        sigma=float(sigma),
      ).features
      z = alignment.unit(z)
      cosines.append(float(np.mean(np.sum(z[:, 0] * z[:, 1], axis=-1))))
      yield f"view_cosine_sigma{sigma:g}_{cfg.samples}", cosines[-1]
    yield headline, float(np.mean(cosines))
    if dataset is None:
      return
    shape = jax.eval_shape(
      lambda variables, index: model.views(variables, index, 1, pixel=False),
      variables,
      jax.ShapeDtypeStruct((2,), np.uint32),
    ).images.shape[2:]
    eyes = _generated.classifier(cfg, dataset, mesh, shape)
    for sigma in cfg.sigmas:
      classes = _generated.classes_of_views(
        eyes,
        model,
        variables,
        mesh,
        samples=cfg.samples,
        batch=cfg.batch,
        sigma=float(sigma),
      )
      share = float(np.mean(classes[:, 0] == classes[:, 1]))
      yield f"view_agreement_sigma{sigma:g}_{cfg.samples}", share

  return contracts.Evaluation(
    run=run,
    headline=headline,
    requires=frozenset({"encode", "views"}),
    unit="",
    about=f"mean cosine of two T_z views of {cfg.samples} anchors, over sigmas "
    f"{', '.join(f'{sigma:g}' for sigma in cfg.sigmas)}",
    metrics={
      "view_cosine_*": "Mean cosine of the features of two T_z views: 1 is no "
      "difference.",
      "view_agreement_*": "Share of pairs that a classifier of real images "
      "gives one class: below 0.9 sigma is too large.",
    },
  )

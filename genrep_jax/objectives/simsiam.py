"""SimSiam (Chen and He 2021, arXiv 2011.10566, eqs. 1 to 4).

BYOL without the moving average: predictions p = h(z) are regressed on the other
view's projection z of the same network, without gradient to it.
"""

import jax.numpy as jnp

from genrep_jax.objectives import _options, _pairs, _siamese

OPTIONS = {
  "projector_hidden": _options.hidden((1024, 1024), "the code: (2048, 2048)"),
  "projector_dim": _options.width(1024, "d; the code: 2048"),
  "predictor_hidden": _options.hidden((256,), "the code: (512,), a bottleneck"),
}


def loss(predictions, projections):
  """D(p_1, z_2)/2 + D(p_2, z_1)/2 with D(p, z) = -mean_i cos(p_i, z_i).

  With more than two views, the mean over all ordered pairs.

  Args:
    predictions: p [b v d], raw: normalized here. v >= 2.
    projections: z [b v d], raw; no gradient flows to them.

  Returns:
    Scalar in [-1, 1], float32 (float64 if the predictions are).
  """
  return -jnp.mean(_pairs.cosines(predictions, projections))


def make(cfg, heads):
  """Makes the objective.

  Its chance level is None: unrelated embeddings cost 0, collapsed ones -1. Its
  metrics: positive_cosine, embedding_std (of the projections, see
  `_pairs.spread`; it falls to 0 in a collapse).
  """

  def measure(predictions, projections, labels):
    del labels
    cosine = jnp.mean(_pairs.cosines(predictions, projections))
    return -cosine, {
      "positive_cosine": cosine,
      "embedding_std": _pairs.spread(projections),
    }

  dim = cfg.projector_dim
  return _siamese.make_objective(
    heads.mlp(cfg.projector_hidden, dim, batch_norm=True, out_batch_norm=True),
    dim,
    heads.mlp(cfg.predictor_hidden, dim, batch_norm=True),
    measure,
    use_target=False,
  )

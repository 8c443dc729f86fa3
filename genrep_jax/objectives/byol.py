"""BYOL (Grill et al. 2020, arXiv 2006.07733, eq. 2).

Predictions q = predictor(projector(h)) of the trained network are regressed on
projections z' of its moving average. No negatives, so two anchors of one class
do no harm, and small batches suffice; it relies on normalization, on the
predictor and on the average not to collapse.
"""

import jax.numpy as jnp

from genrep_jax.objectives import _options, _pairs, _siamese

OPTIONS = {
  "projector_hidden": _options.hidden((1024,), "the paper: (4096,)"),
  "projector_dim": _options.width(256, "d"),
  "predictor_hidden": _options.hidden((1024,), "the paper: (4096,)"),
}


def loss(predictions, targets):
  """2 - 2 cos(q_ia, z'_ib), mean over anchors i and pairs a != b of views.

  The official code adds the two directions of V = 2: twice this, which is a
  factor on the learning rate only.

  Args:
    predictions: [b v d], raw: normalized here. v >= 2.
    targets: [b v d], raw; no gradient flows to them.

  Returns:
    Scalar in [0, 4], float32 (float64 if the predictions are).
  """
  return jnp.mean(2 - 2 * _pairs.cosines(predictions, targets))


def make(cfg, heads):
  """Makes the objective; it requires the target network.

  Its chance level is None: unrelated embeddings cost 2, collapsed ones 0. Its
  metrics: positive_cosine, embedding_std (of the targets, see
  `_pairs.spread`).
  """

  def measure(predictions, targets, labels):
    del labels
    cosine = jnp.mean(_pairs.cosines(predictions, targets))
    return 2 - 2 * cosine, {
      "positive_cosine": cosine,
      "embedding_std": _pairs.spread(targets),
    }

  def head(hidden):
    return heads.mlp(hidden, cfg.projector_dim, batch_norm=True, out_bias=False)

  return _siamese.make_objective(
    head(cfg.projector_hidden),
    cfg.projector_dim,
    head(cfg.predictor_hidden),
    measure,
    use_target=True,
  )

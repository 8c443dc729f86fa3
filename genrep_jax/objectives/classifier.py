"""Softmax cross-entropy on generated (or real) images and their classes.

GenRep's conditional baseline (Jahanian et al. 2021, arXiv 2106.05258): the
class given to the generator is the label of all its views.
"""

import math

import jax
import jax.numpy as jnp

from genrep_jax.objectives import _heads_on_views, _options, _pairs

OPTIONS = {
  "num_classes": _options.count("k; 0: that of the generator or real images"),
  "head_hidden": _options.hidden(
    (), "hidden layers' widths; (): linear, as GenRep"
  ),
}


def loss(logits, labels):
  """-mean log softmax(logits)_label.

  Args:
    logits: [... k].
    labels: int [...], in 0 .. k-1.

  Returns:
    Scalar, float32 (float64 if the logits are).
  """
  logits = _pairs.to_float(logits)
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def accuracy(logits, labels):
  """Fraction of rows whose largest logit is their label's."""
  return jnp.mean(jnp.argmax(logits, axis=-1) == labels, dtype=jnp.float32)


def of_views(labels, num_views: int):
  """Labels [b] of anchors as labels [b v] of their views."""
  return jnp.broadcast_to(labels[:, None], (len(labels), num_views))


def make(cfg, heads):
  """Makes the objective; it requires labels. Its metric: class_accuracy."""
  num_classes = _options.known(
    cfg, "num_classes", "the generator or the real images have none"
  )

  def measure(out, views):
    logits = out["classes"]
    labels = of_views(views.labels, logits.shape[1])
    return loss(logits, labels), {"class_accuracy": accuracy(logits, labels)}

  return _heads_on_views.make_objective(
    {"classes": heads.mlp(cfg.head_hidden, num_classes)},
    measure,
    requires={"labels"},
    chance=lambda b, v: math.log(num_classes) if num_classes > 1 else None,
  )

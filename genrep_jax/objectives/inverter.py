"""Inverter: regress the latent, and the class, from the image.

GenRep's third way to learn from a generator (Jahanian et al. 2021, arXiv
2106.05258): no pairs, no negatives, and nothing that could collapse.

Every view is paired with ITS OWN latent, after T_z: `views.latents`. The
original code pairs the neighbor's image G(z + w) with the anchor's z, which
asks for the one thing the image does not contain; it is right there only
without neighbors.
"""

import jax.numpy as jnp

from genrep_jax.lib import options
from genrep_jax.objectives import _heads_on_views, _options, _pairs, classifier

OPTIONS = {
  "supervised": options.flag(False, "predict the class, too"),
  "latent_dim": _options.count("0: that of the generator"),
  "num_classes": _options.count("k, if supervised; 0: that of the generator"),
  "head_hidden": _options.hidden(
    (), "hidden layers' widths; (): linear, as GenRep"
  ),
}


def loss(predicted_z, z, class_logits=None, labels=None):
  """MSE(z_predicted, z), plus cross-entropy of the classes, 1:1.

  The first mean is over all entries, so the balance of the two depends on
  neither the latent's length nor the batch.

  Args:
    predicted_z: [... latent_dim].
    z: [... latent_dim], the latents that made the images.
    class_logits: [... k], or None: unsupervised.
    labels: int [...], with class_logits.

  Returns:
    Scalar, float32 (float64 if predicted_z is).
  """
  error = _pairs.to_float(predicted_z) - _pairs.to_float(z)
  total = jnp.mean(error * error)
  if class_logits is not None:
    total += classifier.loss(class_logits, labels)
  return total


def make(cfg, heads):
  """Makes the objective; it requires latents, and labels if supervised.

  Its chance level is None: the variance of the latents is the generator's. Its
  metrics: latent_mse, explained_variance (1 - mse / variance of z; 0 for a
  constant guess at the mean) and, if supervised, class_cross_entropy and
  class_accuracy.
  """
  dim = _options.known(cfg, "latent_dim", "there is no generator")
  networks = {"latent": heads.mlp(cfg.head_hidden, dim)}
  if cfg.supervised:
    classes = _options.known(cfg, "num_classes", "the generator has none")
    networks["classes"] = heads.mlp(cfg.head_hidden, classes)

  def measure(out, views):
    total = mse = loss(out["latent"], views.latents)
    variance = jnp.mean(jnp.var(views.latents, axis=(0, 1)))
    metrics = {
      "latent_mse": mse,
      "explained_variance": 1 - mse / jnp.maximum(variance, 1e-12),
    }
    if cfg.supervised:
      labels = classifier.of_views(views.labels, views.latents.shape[1])
      total = loss(out["latent"], views.latents, out["classes"], labels)
      metrics["class_cross_entropy"] = total - mse
      metrics["class_accuracy"] = classifier.accuracy(out["classes"], labels)
    return total, metrics

  return _heads_on_views.make_objective(
    networks,
    measure,
    requires={"latents", *(["labels"] if cfg.supervised else [])},
  )

"""Autoencoder through the frozen generator: image to latent, and back to it.

GenRep's comparison with reconstruction (Jahanian et al. 2021, arXiv 2106.05258;
`main_autoencoder.py` of its code): the encoder predicts the latent z and the
class y of an image x, and G(z_predicted, y) should be x again. The gradient
flows through the generator, whose weights stay as they are. Every view is
paired with its own latent, and should give its own rendering before T_x: with a
T_x that changes the image, this is a denoising autoencoder. The original uses
none (`views.pixel.name = "none"`), and Adam at 2e-4 with betas (0.5, 0.999).

The original's LPIPS term, a distance of VGG-16's features, needs weights that
are not in this package: `lpips_weights` names them, and `_lpips` says how they
are made. Without, the squared error of pixels stands alone.
"""

import jax.numpy as jnp

from genrep_jax.lib import contracts, options
from genrep_jax.objectives import (
  _heads_on_views,
  _lpips,
  _options,
  _pairs,
  classifier,
)

OPTIONS = {
  "latent_weight": _options.weight(
    1.0, "lambda_z, of 1 - cos and of the classes' cross-entropy"
  ),
  "pixel_weight": _options.weight(1.0, "lambda_mse"),
  "lpips_weight": _options.weight(1.0, "lambda_lpips, with lpips_weights"),
  "lpips_weights": options.text("", "a file of convert_weights; empty: none"),
  "lpips_sha256": contracts.ROOMS["generators"].shared["sha256"],
  "supervised": options.flag(
    True, "predict the class, if the generator has classes"
  ),
  "latent_dim": _options.count("0: that of the generator"),
  "num_classes": _options.count("k; 0: that of the generator, or none"),
  "head_hidden": _options.hidden((), "hidden layers' widths; (): linear"),
}
CONVERTER = contracts.Converter(_lpips.convert)


def _terms(predicted_z, z, reconstructions, images):
  """Returns (mean of 1 - cos, mean squared error of the pixels)."""
  cosine = jnp.sum(_pairs.normalize(predicted_z) * _pairs.normalize(z), axis=-1)
  error = _pairs.to_float(reconstructions) - _pairs.to_float(images)
  return jnp.mean(1 - cosine), jnp.mean(error * error)


def _perceptual(weights, reconstructions, images):
  """Returns LPIPS of images [b v h w c], float32 [b v]."""
  b, v = images.shape[:2]
  rows = [
    _pairs.to_float(x).reshape(b * v, *x.shape[2:])
    for x in (reconstructions, images)
  ]
  return _lpips.distance(weights, *rows).reshape(b, v)


def loss(
  predicted_z,
  z,
  reconstructions,
  images,
  class_logits=None,
  labels=None,
  *,
  perceptual=None,
  latent_weight=1.0,
  pixel_weight=1.0,
  lpips_weight=1.0,
):
  """lambda_z [CE(y', y) + mean(1 - cos(z', z))] + lambda_mse MSE(G(z', y), x).

  Plus lambda_lpips mean(LPIPS(G(z', y), x)), where that is given. The squared
  error is a mean over all pixels and channels; the class that the generator
  gets is the true one.

  Args:
    predicted_z: z' [... latent_dim].
    z: [... latent_dim], the latents that made the images.
    reconstructions: G(z', y) [... h w c].
    images: x [... h w c].
    class_logits: y' [... k], or None: no CE.
    labels: y, int [...], with class_logits.
    perceptual: LPIPS of the reconstructions and the images [...], or None.
    latent_weight: lambda_z.
    pixel_weight: lambda_mse.
    lpips_weight: lambda_lpips.

  Returns:
    Scalar, float32 (float64 if the arrays are).
  """
  distance, mse = _terms(predicted_z, z, reconstructions, images)
  if class_logits is not None:
    distance += classifier.loss(class_logits, labels)
  total = latent_weight * distance + pixel_weight * mse
  if perceptual is not None:
    total += lpips_weight * jnp.mean(perceptual)
  return total


def make(cfg, heads):
  """Makes the objective; it requires latents and the generator itself.

  It requires labels where it predicts them. Its chance level is None: the
  pixels' variance is the generator's. Its metrics: latent_cosine, pixel_mse,
  pixel_psnr (dB, images in [-1, 1]); with classes, class_cross_entropy and
  class_accuracy; with LPIPS, lpips.

  Raises:
    UsageError: all weights are zero, nobody knows the latents' length, or the
      file of LPIPS is not one.
  """
  weights = {
    "latent_weight": cfg.latent_weight,
    "pixel_weight": cfg.pixel_weight,
  }
  frozen = None
  if cfg.lpips_weights:
    weights["lpips_weight"] = cfg.lpips_weight
  _options.some_weight(weights)
  if cfg.lpips_weights:
    frozen = _lpips.read(
      "objective.lpips_weights", cfg.lpips_weights, cfg.lpips_sha256
    )
  dim = _options.known(cfg, "latent_dim", "there is no generator")
  networks = {"latent": heads.mlp(cfg.head_hidden, dim)}
  supervised = cfg.supervised and cfg.num_classes > 0
  if supervised:
    networks["classes"] = heads.mlp(cfg.head_hidden, cfg.num_classes)

  def measure(out, views):
    images, made = views.rendered, views.render(out["latent"])
    distance, mse = _terms(out["latent"], views.latents, made, images)
    metrics = {
      "latent_cosine": 1 - distance,
      "pixel_mse": mse,
      "pixel_psnr": 10 * jnp.log10(4 / jnp.maximum(mse, 1e-12)),
    }
    logits = labels = perceptual = None
    if supervised:
      logits = out["classes"]
      labels = classifier.of_views(views.labels, logits.shape[1])
      metrics["class_cross_entropy"] = classifier.loss(logits, labels)
      metrics["class_accuracy"] = classifier.accuracy(logits, labels)
    if frozen is not None:
      perceptual = _perceptual(views.frozen, made, images)
      metrics["lpips"] = jnp.mean(perceptual)
    total = loss(
      out["latent"],
      views.latents,
      made,
      images,
      logits,
      labels,
      perceptual=perceptual,
      **weights,
    )
    return total, metrics

  return _heads_on_views.make_objective(
    networks,
    measure,
    requires={"latents", "generator", *(["labels"] if supervised else [])},
    frozen=frozen,
    min_px=0 if frozen is None else _lpips.MIN_PX,
  )

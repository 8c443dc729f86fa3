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

from genrep_jax.lib import contracts
from genrep_jax.objectives import (
  _contrastive,
  _lpips,
  _options,
  _siamese,
  classifier,
)
from genrep_jax.objectives._lpips import (
  convert as convert,
)


def _terms(predicted_z, z, reconstructions, images):
  """Returns (mean of 1 - cos, mean squared error of the pixels)."""
  cosine = jnp.sum(
    _contrastive.normalise(predicted_z) * _contrastive.normalise(z), axis=-1
  )
  error = _siamese.to_float(reconstructions) - _siamese.to_float(images)
  return jnp.mean(1 - cosine), jnp.mean(error * error)


def _perceptual(weights, reconstructions, images):
  """Returns LPIPS of images [b v h w c], float32 [b v]."""
  b, v = images.shape[:2]
  rows = [
    _siamese.to_float(x).reshape(b * v, *x.shape[2:])
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


def default_config() -> dict:
  """Returns the options and their defaults."""
  return {
    "name": "autoencoder",
    "latent_weight": 1.0,  # lambda_z, of 1 - cos and of the classes' CE
    "pixel_weight": 1.0,  # lambda_mse
    "lpips_weight": 1.0,  # lambda_lpips, with lpips_weights
    "lpips_weights": "",  # a file of convert_weights; "": no LPIPS
    "lpips_sha256": "",  # that the file must have; "" pins nothing
    "supervised": True,  # predict the class, if the generator has classes
    "latent_dim": 0,  # 0: that of the generator
    "num_classes": 0,  # k; 0: that of the generator, or none
    "head_hidden": (),  # widths of hidden layers; (): linear
  }


def make(cfg, heads):
  """Makes the objective; it requires latents and the generator itself.

  It requires labels where it predicts them. Its chance level is None: the
  pixels' variance is the generator's. Its metrics: latent_cosine, pixel_mse,
  pixel_psnr (dB, images in [-1, 1]); with classes, class_cross_entropy and
  class_accuracy; with LPIPS, lpips.

  Raises:
    UsageError: an option is out of range, all weights are zero, or the file of
      LPIPS is not one.
  """
  weights = {
    name: _options.non_negative(cfg, name)
    for name in ("latent_weight", "pixel_weight", "lpips_weight")
  }
  frozen = None
  if not cfg.lpips_weights:
    del weights["lpips_weight"]
  _options.some_weight(weights)
  if cfg.lpips_weights:
    frozen = _lpips.read(
      "objective.lpips_weights", cfg.lpips_weights, cfg.lpips_sha256
    )
  dim = _options.count(cfg, "latent_dim", hint="there is no generator")
  networks = {"latent": heads.mlp(cfg.head_hidden, dim)}
  num_classes = _options.count(cfg, "num_classes", 0)
  supervised = bool(cfg.supervised and num_classes)
  if supervised:
    networks["classes"] = heads.mlp(cfg.head_hidden, num_classes)

  init, run = _siamese.on_pooled(networks)

  def apply(head_params, features, views, target, state, key):
    del target, key
    out, state = run(head_params, features, state)
    arrays = [out["latent"], views.latents, None, views.rendered]
    arrays[2] = views.render(out["latent"])
    distance, mse = _terms(*arrays)
    metrics = {
      "latent_cosine": 1 - distance,
      "pixel_mse": mse,
      "pixel_psnr": 10 * jnp.log10(4 / jnp.maximum(mse, 1e-12)),
    }
    if supervised:
      labels = classifier.of_views(views.labels, views.latents.shape[1])
      arrays += [out["classes"], labels]
      metrics["class_cross_entropy"] = classifier.loss(*arrays[4:])
      metrics["class_accuracy"] = classifier.accuracy(*arrays[4:])
    extra = {}
    if frozen is not None:
      extra["perceptual"] = _perceptual(views.frozen, *arrays[2:4])
      metrics["lpips"] = jnp.mean(extra["perceptual"])
    return loss(*arrays, **extra, **weights), metrics, state

  needs = {"latents", "generator"} | ({"labels"} if supervised else set())
  return contracts.Objective(
    requires=frozenset(needs),
    min_views=1,
    init=init,
    apply=apply,
    chance=lambda b, v: None,
    frozen=frozen,
    min_px=0 if frozen is None else _lpips.MIN_PX,
  )

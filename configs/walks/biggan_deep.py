"""Trains GenRep's walks: six operations at once on BigGAN-deep-256.

Command:  python -m genrep_jax.main --config configs/walks/biggan_deep.py \
            --workdir runs/walks_biggan
          then, as T_z of configs/imagenet/biggan_deep.py, add
            --config.views.latent.name=walks \
            --config.views.latent.file=runs/walks_biggan/walks.safetensors \
            --config.views.latent.rot3d_gain=5.0
          (GenRep's data sets have the factor 5; its training has not).
Weights:  biggan_deep_256.safetensors, as configs/imagenet/biggan_deep.py.
Hardware: one large GPU or a TPU v5e-8; never run to its end by us.
          --config.job=compile_only --config.generator.weights= says what a step
          costs.
Expected: nothing measured here; GenRep's walks were never published.
"""

from configs import common


def get_config():
  """The settings of GenRep's `biggan_steer_train.py`."""
  c = common.get_walks("walks of BigGAN-deep")
  c.global_batch = 32
  c.total_examples = 160_000  # 5,000 steps
  c.generator.name = "biggan_deep"
  c.generator.resolution = 256
  c.generator.truncation = 1.0
  c.generator.weights = "biggan_deep_256.safetensors"
  c.log_every_steps = 100
  c.checkpoint.every_steps = 1000
  return c

"""GenRep, conditional: SupCon on BigGAN-deep-256, Gaussian T_z and T_x.

Command:  python -m genrep_jax.main --config configs/imagenet/biggan_deep.py \
            --workdir runs/biggan_deep
Weights:  biggan_deep_256.safetensors: docs/generators.md says where from and
          how to convert them. With --config.generator.weights= they are random.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Expected: nothing measured here; the paper's tables are not available to us.
"""

from configs import common


def get_config():
  """The settings of GenRep's ImageNet-1k runs."""
  c = common.get_config()
  c.title = "GenRep SupCon BigGAN-deep, T_z + T_x"
  c.precision = "bfloat16"  # GenRep: float32
  c.global_batch = 256
  c.total_examples = 26_000_000  # 20 epochs of 1.3 M anchors
  c.generator.name = "biggan_deep"
  c.generator.resolution = 256
  c.generator.truncation = 1.0
  c.generator.weights = "biggan_deep_256.safetensors"
  c.views.latent.name = "gaussian"
  c.views.latent.sigma = 1.0
  c.views.latent.truncation = 2.0
  c.views.pixel.name = "genrep"
  c.views.pixel.crop_px = 112
  c.encoder.name = "resnet"
  c.encoder.depth = 50
  c.objective.name = "supcon"
  c.objective.temperature = 0.1
  c.optimizer.name = "sgd"
  c.optimizer.learning_rate = 0.01  # GenRep: SupCon on generated images
  c.log_every_steps = 100
  c.checkpoint.every_steps = 5000
  return c

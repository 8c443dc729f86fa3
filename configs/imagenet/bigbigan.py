"""GenRep, unconditional: SimCLR on BigBiGAN, Gaussian T_z and T_x.

Command:  python -m genrep_jax.main --config configs/imagenet/bigbigan.py \
            --workdir runs/bigbigan
Weights:  bigbigan.safetensors: docs/generators.md says where from and how to
          convert them. With --config.generator.weights= they are random.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Expected: nothing measured here; the paper's tables are not available to us.
"""

from configs import common


def get_config():
  """The settings of GenRep's ImageNet-1k runs."""
  c = common.get_config()
  c.title = "GenRep BigBiGAN, T_z + T_x"
  c.precision = "bfloat16"  # GenRep: float32
  c.global_batch = 256
  c.total_examples = 26_000_000  # 20 epochs of 1.3 M anchors
  c.generator.name = "bigbigan"
  c.generator.weights = "bigbigan.safetensors"
  c.views.latent.name = "gaussian"
  c.views.latent.sigma = 0.2
  c.views.latent.truncation = 2.0
  c.views.pixel.name = "genrep"
  c.views.pixel.crop_px = 112
  c.encoder.name = "resnet"
  c.encoder.depth = 50
  c.objective.name = "simclr"
  c.objective.temperature = 0.1
  c.optimizer.name = "sgd"
  c.optimizer.learning_rate = 0.03
  c.log_every_steps = 100
  c.checkpoint.every_steps = 5000
  return c

"""GenRep, cars: SimCLR on StyleGAN2 (LSUN car), Gaussian T_z and T_x.

Command:  python -m genrep_jax.main --config configs/cars_stylegan2.py \
            --workdir runs/cars
Weights:  stylegan2_car.safetensors: docs/generators.md says where from and
          how to convert them. With --config.generator.weights= they are random.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Expected: nothing measured here; the paper's tables are not available to us.
"""

from configs import common


def get_config():
  """The settings of GenRep's car runs."""
  c = common.get_config()
  c.title = "GenRep StyleGAN2 cars, T_z + T_x"
  c.precision = "bfloat16"  # GenRep: float32
  c.global_batch = 256
  c.total_examples = 17_860_000  # 20 epochs of 893,000 anchors
  c.generator.name = "stylegan2"
  c.generator.resolution = 512
  c.generator.truncation_psi = 0.9
  c.generator.crop_rows = (64, 448)  # above and below, the pictures are black
  c.generator.weights = "stylegan2_car.safetensors"
  c.views.latent.name = "gaussian"
  c.views.latent.sigma = 0.5
  c.views.latent.truncation = 0.0  # uncut
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

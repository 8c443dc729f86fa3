"""GenRep, cars: SimCLR on StyleGAN2 (LSUN car), Gaussian T_z and T_x.

Command:  python -m genrep_jax.main --config configs/cars_stylegan2.py \
            --workdir runs/cars
Weights:  stylegan2_car.safetensors: docs/generators.md says where from and
          how to convert them. With --config.generator.weights= they are random.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Expected: nothing measured here; the paper's tables are not available to us.
"""

from configs.imagenet import bigbigan


def get_config():
  """The settings of GenRep's car runs, where ImageNet's differ."""
  c = bigbigan.get_config()
  c.title = "GenRep StyleGAN2 cars, T_z + T_x"
  c.total_examples = 17_860_000  # 20 epochs of 893,000 anchors
  c.generator.name = "stylegan2"
  c.generator.resolution = 512
  c.generator.truncation_psi = 0.9
  c.generator.crop_rows = (64, 448)  # above and below, the pictures are black
  c.generator.weights = "stylegan2_car.safetensors"
  c.views.latent.sigma = 0.5
  c.views.latent.truncation = 0.0  # uncut
  return c

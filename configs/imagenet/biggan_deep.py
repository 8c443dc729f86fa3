"""GenRep, conditional: SupCon on BigGAN-deep-256, Gaussian T_z and T_x.

Command:  python -m genrep_jax.main --config configs/imagenet/biggan_deep.py \
            --workdir runs/imagenet_biggan_deep --config.data.data_dir=DIR
Weights:  biggan_deep_256.safetensors: docs/generators.md says where from and
          how to convert them. With --config.generator.weights= they are random.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 1.5 h on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs.imagenet import bigbigan


def get_config():
  """The settings of GenRep's ImageNet-1k runs, where BigBiGAN's differ."""
  c = bigbigan.get_config()
  c.title = "GenRep SupCon BigGAN-deep, T_z + T_x"
  c.generator.name = "biggan_deep"
  c.generator.resolution = 256
  c.generator.truncation = 1.0
  c.generator.weights = "biggan_deep_256.safetensors"
  c.views.latent.sigma = 1.0
  c.objective.name = "supcon"
  c.optimizer.learning_rate = 0.01  # GenRep: SupCon on generated images
  return c

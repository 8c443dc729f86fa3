"""GenRep's conditional inverter: z and class of BigGAN-deep's images.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/inverter_supervised.py \
            --workdir runs/imagenet_inverter_supervised \
            --config.data.data_dir=DIR
Weights:  biggan_deep_256.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 1.5 h on a v5e-8, from compile_for's operations at 40 % of the
          peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs import common
from configs.imagenet import biggan_deep


def get_config():
  """Regression of z and classification of y, 1:1."""
  c = biggan_deep.get_config()
  c.title = "inverter, BigGAN-deep"
  common.swap(c.objective, "inverter", supervised=True)
  c.optimizer.learning_rate = 0.03
  return c

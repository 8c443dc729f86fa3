"""GenRep's unconditional inverter: z from BigBiGAN's images.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/inverter.py \
            --workdir runs/imagenet_inverter \
            --config.data.data_dir=DIR
Weights:  bigbigan.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 1.0 h on a v5e-8, from compile_for's operations at 40 % of the
          peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs import common
from configs.imagenet import bigbigan


def get_config():
  """Regression of z; of the anchor and its neighbor, each its own z."""
  c = bigbigan.get_config()
  c.title = "inverter, BigBiGAN"
  common.swap(c.objective, "inverter")
  return c

"""GenRep's T_x alone: SimCLR on BigBiGAN, both views of one image.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/bigbigan_tx.py \
            --workdir runs/imagenet_bigbigan_tx \
            --config.data.data_dir=DIR
Weights:  bigbigan.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 35 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs import common
from configs.imagenet import bigbigan


def get_config():
  """BigBiGAN without T_z."""
  c = bigbigan.get_config()
  c.title = "GenRep BigBiGAN, T_x"
  common.swap(c.views.latent, "none")
  return c

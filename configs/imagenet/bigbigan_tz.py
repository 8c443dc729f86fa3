"""GenRep's T_z alone: SimCLR on BigBiGAN, no augmentation.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/bigbigan_tz.py \
            --workdir runs/imagenet_bigbigan_tz \
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
  """BigBiGAN without T_x (the original's --removeimtf)."""
  c = bigbigan.get_config()
  c.title = "GenRep BigBiGAN, T_z"
  common.swap(c.views.pixel, "none", crop_px=112)
  return c

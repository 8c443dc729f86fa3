"""Real images: SimCLR on ImageNet, GenRep's reference.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/simclr.py \
            --workdir runs/imagenet_simclr \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     not measured, nor compiled for a TPU by us; decoding alone takes
          some 18 core hours (800 crops a second and core).
Expected: the paper's table is not available to us; GenRep's users reproduced
          this row (github.com/ali-design/GenRep/issues/10).
"""

from configs import common
from configs.imagenet import bigbigan


def get_config():
  """GenRep's T_x on the original images, streamed and cut while decoding."""
  c = bigbigan.get_config()
  c.title = "SimCLR, ImageNet"
  c.source.name = "stream"
  c.source.crop = "decode"
  common.swap(c.generator, "")
  common.swap(c.views.latent, "none")
  return c

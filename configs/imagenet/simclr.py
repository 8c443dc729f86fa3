"""Real images: SimCLR on ImageNet, GenRep's reference.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/simclr.py \
            --workdir runs/imagenet_simclr \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     at most 18 core hours of decoding (800 crops a second and core),
          beside 8 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
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

"""GenRep's T_x alone: SupCon on BigGAN-deep-256.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/biggan_deep_tx.py \
            --workdir runs/imagenet_biggan_deep_tx \
            --config.data.data_dir=DIR
Weights:  biggan_deep_256.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 49 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs import common
from configs.imagenet import biggan_deep


def get_config():
  """BigGAN-deep without T_z."""
  c = biggan_deep.get_config()
  c.title = "GenRep SupCon BigGAN-deep, T_x"
  common.swap(c.views.latent, "none")
  return c

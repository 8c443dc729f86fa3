"""The same without T_z.

Command:  python -m genrep_jax.main \
            --config configs/imagenet100/bigbigan_tx.py \
            --workdir runs/imagenet100_bigbigan_tx \
            --config.data.data_dir=DIR
Weights:  bigbigan.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 35 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: 58.60 % linear top-1: the authors' number (their own runs of
          late 2020, plot_std_vs_acc.ipynb).
"""

from configs import imagenet100
from configs.imagenet import bigbigan_tx


def get_config():
  """200 epochs of 130,000 anchors, judged on ImageNet-100."""
  c = imagenet100.judged(bigbigan_tx.get_config())
  c.title = "GenRep BigBiGAN, T_x"
  c.sampler.num_anchors = 130_000
  return c

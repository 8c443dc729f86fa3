"""Real images: SimCLR on ImageNet-100.

Command:  python -m genrep_jax.main \
            --config configs/imagenet100/simclr.py \
            --workdir runs/imagenet100_simclr \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     at most 18 core hours of decoding (800 crops a second and core),
          beside 8 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: 67.36 % linear top-1: the authors' number (their own runs of
          late 2020, plot_std_vs_acc.ipynb).
"""

from configs import imagenet100
from configs.imagenet import simclr


def get_config():
  """200 epochs of 130,000 anchors, judged on ImageNet-100."""
  c = imagenet100.judged(simclr.get_config())
  c.title = "SimCLR, ImageNet-100"
  return c

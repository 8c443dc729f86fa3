"""Real images: a classifier of ImageNet.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/classifier_real.py \
            --workdir runs/imagenet_classifier_real \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     at most 54 core hours of decoding (800 crops a second and core),
          beside 25 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs import common
from configs.imagenet import simclr


def get_config():
  """Cross-entropy for 60 epochs."""
  c = simclr.get_config()
  c.title = "classifier, ImageNet"
  c.total_examples = 78_000_000
  common.swap(c.objective, "classifier")
  return c

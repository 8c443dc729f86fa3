"""GenRep at the scale of ImageNet-100: SupCon on BigGAN-deep, 20 neighbors.

Command:  python -m genrep_jax.main \
            --config configs/imagenet100/biggan_deep.py \
            --workdir runs/imagenet100_biggan_deep \
            --config.data.data_dir=DIR
Weights:  biggan_deep_256.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 1.5 h on a v5e-8, from compile_for's operations at 40 % of the
          peak; not measured.
Expected: 74.46 % linear top-1: the authors' number (their own runs of
          late 2020, plot_std_vs_acc.ipynb).
          They drew the 100 classes alone: generator.classes=(...).
"""

from configs import imagenet100
from configs.imagenet import biggan_deep


def get_config():
  """200 epochs of 130,000 anchors, judged on ImageNet-100."""
  c = imagenet100.judged(biggan_deep.get_config())
  c.title = "GenRep SupCon BigGAN-deep, T_z + T_x"
  c.sampler.num_anchors = 130_000
  c.views.num_neighbors = 20
  return c

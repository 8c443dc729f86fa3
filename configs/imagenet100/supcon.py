"""Real images: SupCon on ImageNet-100.

Command:  python -m genrep_jax.main \
            --config configs/imagenet100/supcon.py \
            --workdir runs/imagenet100_supcon \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     at most 18 core hours of decoding (800 crops a second and core),
          beside 8 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: VOC07 mAP 65.64 (SVM, area): the authors' number
          (plot_std_vs_acc.ipynb); no linear top-1 is known.
"""

from configs import imagenet100
from configs.imagenet import supcon


def get_config():
  """200 epochs of 130,000 anchors, judged on ImageNet-100."""
  c = imagenet100.judged(supcon.get_config())
  c.title = "SupCon, ImageNet-100"
  return c

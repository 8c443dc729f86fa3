"""A classifier of BigGAN-deep's images at the scale of ImageNet-100.

Command:  python -m genrep_jax.main \
            --config configs/imagenet100/classifier.py \
            --workdir runs/imagenet100_classifier \
            --config.data.data_dir=DIR
Weights:  biggan_deep_256.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 1.5 h on a v5e-8, from compile_for's operations at 40 % of the
          peak; not measured.
Expected: 61.92 % linear top-1: the authors' number (their own runs of
          late 2020, plot_std_vs_acc.ipynb).
          They drew the 100 classes alone: generator.classes=(...).
"""

from configs import imagenet100
from configs.imagenet import classifier


def get_config():
  """200 epochs of 130,000 anchors, judged on ImageNet-100."""
  c = imagenet100.judged(classifier.get_config())
  c.title = "classifier, BigGAN-deep"
  c.sampler.num_anchors = 130_000
  c.total_examples = 26_000_000
  return c

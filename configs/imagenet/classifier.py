"""A classifier of BigGAN-deep's images: GenRep's baseline CE.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/classifier.py \
            --workdir runs/imagenet_classifier \
            --config.data.data_dir=DIR
Weights:  biggan_deep_256.safetensors: docs/generators.md.
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     about 4.4 h on a v5e-8, from compile_for's operations at 40 % of the
          peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs import common
from configs.imagenet import biggan_deep


def get_config():
  """Cross-entropy for 60 epochs of 1.3 M anchors."""
  c = biggan_deep.get_config()
  c.title = "classifier, BigGAN-deep"
  c.total_examples = 78_000_000
  common.swap(c.objective, "classifier")
  c.optimizer.learning_rate = 0.03
  return c

"""Trains the generators of genrep_jax/assets on Fashion-MNIST.

Command:  python -m genrep_jax.main \
            --config configs/generators/fashion_mnist.py \
            --workdir runs/fashion_mnist_unconditional
          and, class-conditional, with --config.generator.num_classes=10
Hardware: one CPU core for each, no accelerator.
Time:     about 32 minutes of CPU time (0.2 s a step).
Expected: Frechet distance in the features of a small classifier 14.3
          (unconditional) and 3.1 (conditional), classification accuracy score
          0.843 (conditional); the cards in genrep_jax/assets say how measured.
"""

from configs import common


def get_config():
  """A small GAN: non-saturating loss, R1, moving average."""
  c = common.get_without_encoder("Fashion-MNIST GAN", "gan")
  c.global_batch = 64
  c.total_steps = 9000
  c.generator.name = "small"
  c.source.name = "array"
  c.data.name = "fashion_mnist"
  c.evaluations.fid = {"name": "fid"}
  c.log_every_steps = 100
  c.checkpoint.every_steps = 500
  return c

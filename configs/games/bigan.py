"""BiGAN on the embedded images, by the recipe of its authors for MNIST.

Command:  python -m genrep_jax.main --config configs/games/bigan.py \
            --workdir runs/bigan
Hardware: two CPU cores, no accelerator, no network.
"""

from configs import common


def get_config():
  """Dense networks, batches of 128, 100 epochs of 5,000 images."""
  c = common.get_without_encoder("BiGAN", "bigan")
  c.global_batch = 128
  c.total_steps = 4000
  c.source.name = "array"
  c.data.name = "fashion_mnist_mini"
  c.generator.name = "mlp"
  c.encoder.name = "mlp"
  c.views.pixel.name = "none"
  c.views.pixel.mean = (0.0,)
  c.views.pixel.std = (1.0,)  # its networks are shown pixels in [0, 1]
  c.evaluations.knn = {"name": "knn", "k": (1, 20)}
  c.evaluations.linear = {"name": "linear"}
  c.evaluations.inversion = {"name": "inversion"}
  c.log_every_steps = 100
  c.checkpoint.every_steps = 1000
  c.evaluate_every_steps = 0
  return c

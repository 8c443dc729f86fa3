"""BigBiGAN on the embedded images, with networks for two CPU cores.

Command:  python -m genrep_jax.main --config configs/games/bigbigan.py \
            --workdir runs/bigbigan
Hardware: two CPU cores, no accelerator, no network.
"""

from configs import common


def get_config():
  """The quick start's generator and encoder, trained from nothing."""
  c = common.get_without_encoder("BigBiGAN", "bigbigan")
  c.global_batch = 64
  c.total_steps = 6000
  c.source.name = "array"
  c.data.name = "fashion_mnist_mini"
  c.generator.name = "small"
  c.generator.truncation = 0.0  # z ~ N(0, 1), uncut
  c.encoder.name = "small"
  c.program.d_widths = (32, 64, 64)
  c.program.head_width = 128
  c.views.pixel.name = "none"
  c.views.pixel.mean = (0.5,)
  c.views.pixel.std = (0.5,)
  c.evaluations.knn = {"name": "knn"}
  c.evaluations.linear = {"name": "linear"}
  c.evaluations.inversion = {"name": "inversion"}
  c.log_every_steps = 100
  c.checkpoint.every_steps = 1000
  c.evaluate_every_steps = 0
  return c

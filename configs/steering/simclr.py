"""Trains latent walks that imitate SimCLR's pixel transforms.

Command:  python -m genrep_jax.main --config configs/steering/simclr.py \
            --workdir runs/walks_simclr
"""

import ml_collections

from configs import common


def get_config():
  """RandomResizedCrop and what of ColorJitter grey images can show."""
  c = common.get_config()
  c.job = "steer"
  c.title = "SimCLR's walks of Fashion-MNIST"
  c.global_batch = 64
  c.total_steps = 1000
  c.generator.name = "small"
  c.generator.weights = "asset:fashion_mnist_unconditional.safetensors"
  c.generator.sha256 = (
    "0b8ca9a6662b147ecdf2e5de6d86694173f242a28ba0c2f76e8934d5cc814909"
  )
  # Nothing is trained on images here: these rooms stay empty.
  for entry in (c.views.latent, c.views.pixel, c.encoder, c.objective, c.data):
    entry.name = ""
  with c.unlocked():
    c.steering = ml_collections.ConfigDict({"name": "walks"})
  c.steering.unlock()
  # RandomResizedCrop, scale (.2, 1), ratio (3/4, 4/3).
  c.steering.operations = (
    "zoom",
    "shift_x",
    "shift_y",
    "aspect",
    "brightness",
    "contrast",
  )
  c.steering.zoom_in_only = True
  c.steering.max_zoom = 5**0.5
  c.steering.max_shift = 50.0
  c.steering.learning_rate = 0.03  # GenRep: 1e-3, over five times the steps
  c.log_every_steps = 100
  c.checkpoint.every_steps = 500
  return c

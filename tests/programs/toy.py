"""A data set and a game so small that they compile in seconds."""

import numpy as np

from configs import common
from genrep_jax.lib import contracts

NAME = "tests.programs.toy"
CLASSES = 3


def make(cfg) -> contracts.Dataset:
  """Makes 40 images of 8x8: dark, gray and light ones."""
  del cfg
  noise = np.random.default_rng(0)
  labels = np.arange(40, dtype=np.int32) % CLASSES
  images = (
    noise.integers(0, 60, (40, 8, 8, 1)) + 90 * labels[:, None, None, None]
  )
  split = contracts.Split(images.astype(np.uint8), labels)
  return contracts.Dataset("toy", CLASSES, (), split, split)


def get_config():
  """A GAN that draws such images."""
  c = common.get_without_encoder("toy", "gan")
  c.global_batch = 8
  c.total_steps = 10
  c.source.name = "array"
  c.data.name = NAME
  c.generator = {
    "name": "small",
    "num_classes": CLASSES,
    "latent_dim": 4,
    "base_px": 2,
    "widths": (8, 4),
    "extra_convs": (0, 0),
  }
  c.program.d_widths = (8, 8)
  c.program.d_extra_convs = (0, 0)
  c.program.r1_every = 2
  c.evaluations.fid = {"name": "fid", "samples": 16, "batch": 16, "epochs": 1}
  return c

"""A BiGAN so small that it compiles in seconds."""

from tests.programs import toy


def get_config():
  """Dense networks that see 8x8 images."""
  c = toy.get_config()
  c.program = {"name": "bigan", "d_widths": (8, 8), "alarm_images": 4}
  c.generator = {"name": "mlp", "latent_dim": 4, "widths": (8, 8), "side": 8}
  c.encoder = {"name": "mlp", "widths": (8, 6)}
  c.views.pixel.update({"name": "none", "mean": (0.5,), "std": (0.5,)})
  c.evaluations = {}
  return c

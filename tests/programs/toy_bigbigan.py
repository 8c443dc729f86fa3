"""A BigBiGAN so small that it compiles in seconds."""

from tests.programs import toy


def get_config():
  """BigGAN's generator with one block, a dense encoder, 8x8 images."""
  c = toy.get_config()
  c.program = {
    "name": "bigbigan",
    "d_steps": 2,
    "d_widths": (4, 4),
    "d_halvings": 1,
    "joint_width": 6,
    "joint_blocks": 1,
    "head_width": 6,
    "alarm_images": 4,
  }
  c.generator = {
    "name": "biggan",
    "latent_dim": 4,
    "widths": (4,),
    "base_px": 4,
    "channels": 1,
  }
  c.encoder = {"name": "mlp", "widths": (8, 6)}
  c.views.pixel.update({"name": "none", "mean": (0.5,), "std": (0.5,)})
  c.evaluations = {}
  return c

"""Trains latent walks that imitate SimCLR's pixel transforms.

RandomResizedCrop as zoom inwards, aspect and shifts, and of ColorJitter (.4)
what gray images can show. Hue and saturation need an RGB generator, whose
weights are not shipped; add "saturation" and "hue" to the operations there.

Command:  python -m genrep_jax.main --config configs/walks/simclr.py \
            --workdir runs/walks_simclr
          walks.png shows them; then, as T_z of the quick start,
          python -m genrep_jax.main --config configs/quickstart.py \
            --workdir runs/along_walks_simclr --config.views.latent.name=walks \
            --config.views.latent.file=runs/walks_simclr/walks.safetensors
Hardware: one CPU core, about 80 seconds for 1,000 steps beside other work.
Expected: what the walks leave of the squared error of doing nothing, each
          operation alone, on latents of their own (mean of 3 seeds): zoom 0.72,
          shift_x 0.85, shift_y 0.81, aspect 0.90, brightness 0.71, contrast
          1.01 (0.90 to 1.18); all at once 0.65. Trousers widen, and darken as
          told; a shoe blurs rather than grows. No clothes have the gray ground
          that less contrast gives, so its walk is the brightness's again (their
          cosine is 0.79 to 0.88) and helps only within the whole.
"""

from configs import common


def get_config():
  """RandomResizedCrop and what of ColorJitter gray images can show."""
  c = common.get_walks("SimCLR's walks of Fashion-MNIST")
  c.global_batch = 64
  c.total_steps = 1000
  c.generator.update(common.EMBEDDED)
  c.program.operations = (
    "zoom",
    "shift_x",
    "shift_y",
    "aspect",
    "brightness",
    "contrast",
  )
  c.program.zoom_in_only = True
  c.program.max_zoom = 1.5  # an area of .44 to 1; SimCLR's .2 to 1: 5**0.5
  c.program.max_shift = 30.0  # 3.3 of 28 pixels
  # At 0.03 walks grow longer by half: all at once leave 0.61 then, but contrast
  # alone 1.58, and pictures fall apart at the ends (seed 0).
  c.program.learning_rate = 0.01  # GenRep: 1e-3, over five times the steps
  c.log_every_steps = 100
  c.checkpoint.every_steps = 500
  return c

"""A third party's generator as a black box: faces from gan-face-generate.

Command:  python -m genrep_jax.main --config configs/faces64.py \
            --workdir runs/faces64
Weights:  faces64.safetensors in the current folder, converted from a PyPI
          package: docs/tutorial_pretrained.md.
Hardware: two CPU cores, no accelerator.
"""

from configs import common


def get_config():
  """SimCLR on Gaussian latent views of a 64 px DCGAN, with T_x."""
  c = common.get_config()
  c.title = "DCGAN faces, T_z + T_x"
  c.global_batch = 64
  c.total_steps = 400
  c.cpu_devices = 2
  c.generator.name = "dcgan"
  c.generator.weights = "faces64.safetensors"
  c.generator.sha256 = (
    "ad4ac0d9ac8c41d1d1dee0f3cb4621c5abfb0bf366df01c3e15ddccb31b58307"
  )
  c.views.latent.name = "gaussian"
  c.views.latent.sigma = 0.3  # at 0.5 it begins to be another person
  c.views.pixel.name = "genrep"
  c.views.pixel.crop_px = 32
  c.views.pixel.mean = (0.5,) * 3
  c.views.pixel.std = (0.5,) * 3
  c.encoder.name = "small"
  c.objective.name = "simclr"
  c.objective.temperature = 0.2
  c.optimizer.name = "adamw"
  c.optimizer.learning_rate = 2e-3
  c.data.name = "lfw_subset"
  c.evaluations.knn = {"name": "knn", "k": 5}
  c.evaluations.linear = {"name": "linear"}
  c.evaluate_every_steps = 200
  return c

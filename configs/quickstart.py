"""Quick start: learn features of clothes from a generator alone.

Command:  python -m genrep_jax.main --config configs/quickstart.py \
            --workdir runs/quickstart
Hardware: two CPU cores, no accelerator, no network.
Expected: kNN 83.4 +- 0.2 %, linear 85.4 +- 0.2 % on the 10,000 test
          images (3 seeds; configs/studies/quickstart_table.py).
"""

from configs import common


def get_config():
  """SimCLR on Gaussian latent views of the embedded generator, with T_x."""
  c = common.get_config()
  c.title = "GenRep T_z + T_x"
  c.global_batch = 256
  c.total_steps = 1200
  c.cpu_devices = 2  # two cores: a step takes 134 ms instead of 209
  c.generator.update(common.EMBEDDED)
  c.views.latent.name = "gaussian"
  c.views.latent.sigma = 0.5
  c.views.pixel.name = "genrep"
  c.views.pixel.crop_px = 0  # 28, as the images
  c.views.pixel.scale = (0.5, 1.0)  # milder than GenRep's 0.2: small images
  c.views.pixel.mean = (0.5,)
  c.views.pixel.std = (0.5,)
  c.encoder.name = "small"
  c.encoder.norm = "none"
  c.objective.name = "simclr"
  c.objective.temperature = 0.2
  c.optimizer.name = "adamw"
  c.optimizer.learning_rate = 2e-3
  c.evaluations.knn = {"name": "knn"}
  c.evaluations.linear = {"name": "linear"}
  c.evaluate_every_steps = 300
  c.report.recorded = "asset:quickstart_table.json"
  return c

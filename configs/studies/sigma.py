"""How far may a positive be? Accuracy against sigma, with T_x and without.

Command:  python -m genrep_jax.main --config configs/studies/sigma.py \
            --workdir runs/studies/sigma
Hardware: two CPU cores, no accelerator, no network; about 40 minutes.

GenRep's claim: accuracy against the size of the latent perturbation is an
inverted U. Every row is the quick start cut to 400 updates, but for sigma and
T_x; sigma = 0 is T_z "none". Docs: docs/reproduce.md.
"""

from configs import common

SIGMAS = (0.0, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0)
FIXED = (
  "total_steps=400",
  "evaluate_every_steps=0",
  "cpu_devices=1",
)
NO_PIXEL_VIEW = (
  "views.pixel.name=none",
  "views.pixel.mean=(0.5,)",
  "views.pixel.std=(0.5,)",
)
CURVES = (("T_z + T_x", ()), ("T_z only", NO_PIXEL_VIEW))


def get_config():
  """Seven sigmas, with and without T_x, three seeds."""
  c = common.get_config()
  c.job = "study"
  c.title = "sigma"
  c.study.base = "configs/quickstart.py"
  rows, curves = [], []
  for curve, overrides in CURVES:
    points = []
    for sigma in SIGMAS:
      name = f"{curve}, sigma {sigma}"
      view = (f"views.latent.sigma={sigma}",)
      if not sigma:
        view = ("views.latent.name=none",)
      rows.append((name, (*FIXED, *overrides, *view)))
      points.append((sigma, name))
    curves.append((curve, tuple(points)))
  c.study.rows = tuple(rows)
  c.study.seeds = (0, 1, 2)
  c.study.parallel = 2
  return c

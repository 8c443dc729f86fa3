"""How far may a positive be? Accuracy against sigma, with T_x and without.

Command:  python -m genrep_jax.main --config configs/studies/sigma.py \
            --workdir runs/studies/sigma
Hardware: two CPU cores, no accelerator, no network; about 40 minutes.

GenRep's claim: accuracy against the size of the latent perturbation is an
inverted U. Every row is the quick start cut to 400 updates, but for sigma and
T_x; sigma = 0 is T_z "none". Docs: docs/reproduce.md.
"""

from configs import common

SIGMAS = (0.0, 0.25, 0.5, 1.0, 2.0)
CURVES = (("T_z + T_x", ()), ("T_z only", common.NO_PIXEL_VIEW))


def get_config():
  """Five sigmas, with and without T_x."""
  rows, curves = [], []
  for curve, overrides in CURVES:
    points = []
    for sigma in SIGMAS:
      view = (
        f"views.latent.sigma={sigma}" if sigma else "views.latent.name=none"
      )
      rows.append((f"{curve}, sigma {sigma}", (*overrides, view)))
      points.append((sigma, rows[-1][0]))
    curves.append((curve, tuple(points)))
  return common.get_study(
    "sigma", rows, curves=tuple(curves), x_label="sigma of T_z"
  )

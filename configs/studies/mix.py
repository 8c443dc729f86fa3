"""Real and generated anchors, mixed: accuracy against the real share.

Command:  python -m genrep_jax.main --config configs/studies/mix.py \
            --workdir runs/studies/mix
Hardware: two CPU cores, no accelerator, no network; about 40 minutes.

A real anchor has views under T_x, a generated one under T_z and T_x; which is
which is drawn anew for every anchor of every step.
"""

from configs import common

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def get_config():
  """Five shares of real images."""
  rows, points = [], []
  for share in SHARES:
    overrides = ("source.name=mix", f"source.mix_ratio={share}")
    rows.append((f"{share:.0%} real", overrides))
    points.append((100 * share, rows[-1][0]))
  return common.get_study(
    "mix",
    rows,
    curves=(("T_z + T_x", tuple(points)),),
    x_label="real anchors, %",
  )

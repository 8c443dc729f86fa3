"""How many samples does it take? Accuracy against the number of anchors.

Command:  python -m genrep_jax.main --config configs/studies/samples.py \
            --workdir runs/studies/samples
Hardware: two CPU cores, no accelerator, no network; about 40 minutes.

GenRep's claim: accuracy grows with the number of samples, at a fixed number of
updates. As in its data sets, an anchor has one stored neighbor; every row sees
102,400 anchors, the smaller sets again and again, under a new T_x each time.
"""

from configs import common

ANCHORS = (400, 3200, 25600, 102400)


def get_config():
  """Four sizes of a virtual data set, with T_z and without."""
  rows, curves = [], []
  for curve, overrides in (
    ("T_z + T_x", ("views.num_neighbors=1",)),
    ("T_x only", ("views.latent.name=none",)),
  ):
    points = []
    for count in ANCHORS:
      size = f"sampler.num_anchors={count}"
      rows.append((f"{curve}, {count} anchors", (*overrides, size)))
      points.append((count, rows[-1][0]))
    curves.append((curve, tuple(points)))
  return common.get_study(
    "samples", rows, curves=tuple(curves), x_label="anchors", log_x=True
  )

"""Which objective makes the most of a generator's views?

Command:  python -m genrep_jax.main --config configs/studies/objectives.py \
            --workdir runs/studies/objectives
Hardware: two CPU cores, no accelerator, no network; about an hour.

Every row is the quick start (T_z + T_x, sigma = 0.7) cut to 400 updates of 512
images, but for the objective, with that objective's own defaults: nothing is
tuned, not even the learning rate. Rows with labels draw from the conditional
generator. Docs: docs/reproduce.md.
"""

from configs import common

FOUR_VIEWS = ("views.num_views=4", "global_batch=128")


def _row(name, objective, *overrides):
  overrides = (f"objective.name={objective}", *overrides)
  if objective in ("simclr", "supcon", "multi_positive", "cmc"):
    overrides = (*overrides, "objective.temperature=0.2")
  return name, overrides


ROWS = (
  _row("SimCLR", "simclr"),
  _row("multi-positive, 4 views", "multi_positive", *FOUR_VIEWS),
  _row("CMC core graph, 4 views", "cmc", *FOUR_VIEWS),
  _row("CMC full graph, 4 views", "cmc", "objective.graph=full", *FOUR_VIEWS),
  _row("MoCo v3", "moco_v3", "ema_decay=0.99"),
  _row("BYOL", "byol", "ema_decay=0.99"),
  _row("SimSiam", "simsiam"),
  _row("VICReg", "vicreg"),
  _row("Barlow Twins", "barlow_twins"),
  _row("DIM, JSD", "dim"),
  _row("DIM, InfoNCE", "dim", "objective.measure=infonce"),
  _row("AMDIM", "amdim"),
  _row("inverter", "inverter"),
  _row("autoencoder", "autoencoder"),
  _row("SimCLR, conditional generator", "simclr", *common.CONDITIONAL),
  _row("SupCon (labels)", "supcon", *common.CONDITIONAL),
  _row(
    "inverter, supervised (labels)",
    "inverter",
    "objective.supervised=True",
    *common.CONDITIONAL,
  ),
  _row("classifier on samples (labels)", "classifier", *common.CONDITIONAL),
  _row("real images, SimCLR", "simclr", "source.name=array"),
  _row("real images, SupCon (labels)", "supcon", "source.name=array"),
)


def get_config():
  """Objectives on a generator's views, and two on real images."""
  return common.get_study("objectives", ROWS)

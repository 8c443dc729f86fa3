"""Real images: SupCon on ImageNet, GenRep's conditional reference.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/supcon.py \
            --workdir runs/imagenet_supcon \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     not measured, nor compiled for a TPU by us; decoding alone takes
          some 18 core hours (800 crops a second and core).
Expected: the paper's table is not available to us.
"""

from configs.imagenet import simclr


def get_config():
  """SimCLR's row with the labels."""
  c = simclr.get_config()
  c.title = "SupCon, ImageNet"
  c.objective.name = "supcon"
  return c

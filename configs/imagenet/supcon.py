"""Real images: SupCon on ImageNet, GenRep's conditional reference.

Command:  python -m genrep_jax.main \
            --config configs/imagenet/supcon.py \
            --workdir runs/imagenet_supcon \
            --config.data.data_dir=DIR
Hardware: a TPU v5e-8 or one large GPU; never run to its end by us.
Time:     at most 18 core hours of decoding (800 crops a second and core),
          beside 8 minutes on a v5e-8, from compile_for's operations at 40 % of
          the peak; not measured.
Expected: the paper's table is not available to us.
"""

from configs.imagenet import simclr


def get_config():
  """SimCLR's row with the labels."""
  c = simclr.get_config()
  c.title = "SupCon, ImageNet"
  c.objective.name = "supcon"
  return c

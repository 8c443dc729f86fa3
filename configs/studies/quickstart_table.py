"""The quick start's table: what latent views add, and what real data gives.

Command:  python -m genrep_jax.main \
            --config configs/studies/quickstart_table.py \
            --workdir runs/studies/quickstart_table
Hardware: two CPU cores, no accelerator, no network.

Three rows, three seeds each, all with the quick start's encoder, T_x, number
of updates and evaluations; the same command goes on after an interruption.
The recorded copy that the quick start prints beside its own run is
genrep_jax/assets/quickstart_table.json.
"""

from configs import common


def get_config():
  """T_x only, T_z + T_x, and real images under T_x."""
  c = common.get_config()
  c.job = "study"
  c.title = "quickstart_table"
  c.study.base = "configs/quickstart.py"
  c.study.rows = (
    ("GenRep T_x only", ("views.latent.name=none",)),
    ("GenRep T_z + T_x", ()),
    ("real images, SimCLR (T_x)", ("source.name=array",)),
  )
  c.study.seeds = (0, 1, 2)
  return c

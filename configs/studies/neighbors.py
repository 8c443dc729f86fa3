"""One stored neighbor or many? Accuracy against the pool of neighbors.

Command:  python -m genrep_jax.main --config configs/studies/neighbors.py \
            --workdir runs/studies/neighbors
Hardware: two CPU cores, no accelerator, no network; about 40 minutes.

GenRep stored up to 20 neighbors an anchor and gained from it. Here 3,200
anchors are visited 32 times each; a visit draws from the anchor's pool.
"""

from configs import common

POOLS = (1, 4, 20)
SET = ("sampler.num_anchors=3200",)
FOUR_VIEWS = (
  "views.num_views=4",
  "global_batch=128",
  "objective.name=multi_positive",
  "objective.temperature=0.2",
)


def get_config():
  """Three pools and no pool, by pairs; four views at once from 20."""
  rows = [
    (
      f"{pool} neighbor{'s' * (pool > 1)}",
      (*SET, f"views.num_neighbors={pool}"),
    )
    for pool in POOLS
  ]
  rows.append(("a new one at every visit", SET))
  rows.append(
    ("20, three at a visit", (*SET, *FOUR_VIEWS, "views.num_neighbors=20"))
  )
  return common.get_study("neighbors", rows)

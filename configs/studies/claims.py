"""GenRep's claims on one encoder and one budget: five seeds of ten rows.

Command:  python -m genrep_jax.main --config configs/studies/claims.py \
            --workdir runs/studies/claims
Hardware: two CPU cores, no accelerator, no network; about an hour and a half.
          The last row needs the whole Fashion-MNIST (docs/reproduce.md).

Latent views on top of T_x; Gaussian ones against walks; contrastive against
classifier and inverter; labels (SupCon) against none, both on the conditional
generator; and real images, the 5,000 embedded or all 60,000, at equal updates.
Every row is judged on the embedded images: probes of 5,000, 10,000 of test.
"""

from configs import common

STEERED = (
  "views.latent.name=walks",
  "views.latent.file=asset:fashion_mnist_walks.safetensors",
)
ALL_REAL = (
  "source.name=array",
  "data.name=fashion_mnist",
  "evaluations.knn.data.name=fashion_mnist_mini",
  "evaluations.linear.data.name=fashion_mnist_mini",
)
SUPCON = ("objective.name=supcon", "objective.temperature=0.2")
ROWS = (
  ("T_z + T_x", ()),
  ("T_x only", ("views.latent.name=none",)),
  ("T_z steered + T_x", STEERED),
  ("inverter", ("objective.name=inverter",)),
  ("conditional, SimCLR", common.CONDITIONAL),
  ("conditional, SupCon", (*SUPCON, *common.CONDITIONAL)),
  (
    "conditional, T_x only, SupCon",
    (*SUPCON, "views.latent.name=none", *common.CONDITIONAL),
  ),
  (
    "conditional, classifier",
    ("objective.name=classifier", *common.CONDITIONAL),
  ),
  ("real, SimCLR, 5,000 images", ("source.name=array",)),
  ("real, SimCLR, 60,000 images", ALL_REAL),
)


def get_config():
  """Ten rows, five seeds."""
  return common.get_study("claims", ROWS, seeds=(0, 1, 2, 3, 4))

"""The quick start's settings, chosen on the selection split.

Command:  python -m genrep_jax.main --config configs/studies/tune.py \
            --workdir runs/tune
Hardware: two CPU cores.
Judged on half of the embedded training images (2,500), which the probes are
then without: 500, the usual tenth, could not tell settings apart. The test
images are not looked at.
"""

from configs import common

_SELECTION = tuple(
  f"evaluations.{name}.{key}"
  for name in ("knn", "linear")
  for key in ("split=selection", "selection_share=0.5")
)
_BUDGET = ("cpu_devices=1", "evaluate_every_steps=0", *_SELECTION)


def get_config():
  """One seed of every setting around the quick start's."""
  c = common.get_study(
    "The quick start's settings, by the selection split",
    (
      ("sigma 0.5, tau 0.2", ("views.latent.sigma=0.5",)),
      ("sigma 0.7, tau 0.2", ("views.latent.sigma=0.7",)),
      ("sigma 1.0, tau 0.2", ("views.latent.sigma=1.0",)),
      (
        "sigma 0.7, tau 0.1",
        ("views.latent.sigma=0.7", "objective.temperature=0.1"),
      ),
    ),
  )
  c.study.rows = tuple(
    (name, (*_BUDGET, *row[len(common.STUDY_BUDGET) :]))
    for name, row in c.study.rows
  )
  c.study.seeds = (0,)
  return c

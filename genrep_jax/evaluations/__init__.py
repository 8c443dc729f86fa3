"""How good a representation or a generator is, measured on real images.

A plug-in is `evaluations/<name>.py: make(cfg, model, mesh) -> Evaluation`: see
lib/contracts.py.
What one of frozen features needs is here: `OPTIONS`, `load`, `of_features`.
"""

from genrep_jax.evaluations._features import (
  OPTIONS as OPTIONS,
  extract as extract,
  load as load,
  of_features as of_features,
  splits as splits,
  train_size as train_size,
)

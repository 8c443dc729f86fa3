"""Multi-positive cross-entropy (StableRep, Tian et al. 2023, arXiv 2306.00984).

All views of one anchor are positives of each other. With V = 2 it is SimCLR;
StableRep uses V = 6 at tau = 0.1.
"""

from genrep_jax.objectives import _contrastive


def loss(
  z, *, temperature, base_temperature=None, chunk_rows=0, mask_labels=None
):
  """H(p, q): p uniform on the other views, q = softmax_{k != i}(z_i.z_k/tau).

  Mean over all rows i; the other positives stay in the denominator.

  Args and result as `simclr.loss`, for any v >= 2.
  """
  return _contrastive.loss(
    z, None, temperature, base_temperature, chunk_rows, mask_labels
  )


def default_config() -> dict:
  """Returns the options and their defaults."""
  return _contrastive.default_config("multi_positive")


def make(cfg, heads):
  """Makes the objective; see `_contrastive.make_objective`."""
  return _contrastive.make_objective(cfg, heads, use_labels=False, min_views=2)

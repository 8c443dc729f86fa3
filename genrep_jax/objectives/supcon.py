"""Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, eq. 2).

The labels are the classes given to a conditional generator: free supervision.
GenRep trains with it at tau = 0.1 and the extra factor tau / 0.07
(`base_temperature = 0.07`).
"""

from genrep_jax.objectives import _contrastive

OPTIONS = _contrastive.OPTIONS


def loss(z, labels, *, temperature, base_temperature=None, chunk_rows=0):
  """L_out: -1/|P(i)| sum_{p in P(i)} log softmax_{a != i}(z_i . z_a / tau)_p.

  Mean over all rows i; P(i) holds the other rows of i's label. A row without a
  positive adds 0 and still counts in the mean.

  Args:
    z: [b v d], raw: normalized here.
    labels: int [b].
    temperature: tau > 0.
    base_temperature: tau_0; the loss is multiplied by tau / tau_0.
    chunk_rows: rows of similarities held at a time; 0 means all.

  Returns:
    Scalar, float32 (float64 if z is).
  """
  return _contrastive.loss(
    z, labels, temperature, base_temperature, chunk_rows, None
  )


def make(cfg, heads):
  """Makes the objective; see `_contrastive.make_objective`."""
  return _contrastive.make_objective(cfg, heads, use_labels=True, min_views=1)

"""SimCLR's NT-Xent (Chen et al. 2020, arXiv 2002.05709, eq. 1).

Positives are the views of one anchor; all other rows are negatives. GenRep's
unconditional generators train with it at tau = 0.1 and the extra factor
tau / 0.07 (`base_temperature = 0.07`).
"""

from genrep_jax.objectives import _contrastive, _options

OPTIONS = {**_contrastive.OPTIONS, **_options.MASK}


def loss(
  z, *, temperature, base_temperature=None, chunk_rows=0, mask_labels=None
):
  """l(i,j) = -log exp(z_i.z_j/tau) / sum_{k != i} exp(z_i.z_k/tau).

  Mean over all rows i. The paper has V = 2; with more views this is
  `multi_positive.loss`.

  Args:
    z: [b v d], raw: normalized here. v >= 2.
    temperature: tau > 0.
    base_temperature: tau_0; the loss is multiplied by tau / tau_0.
    chunk_rows: rows of similarities held at a time; 0 means all.
    mask_labels: int [b], or None. Rows of other anchors of the same label,
      false negatives, are then left out of the denominator.

  Returns:
    Scalar, float32 (float64 if z is).
  """
  return _contrastive.loss(
    z, None, temperature, base_temperature, chunk_rows, mask_labels
  )


def make(cfg, heads):
  """Makes the objective; see `_contrastive.make_objective`."""
  return _contrastive.make_objective(cfg, heads, use_labels=False, min_views=2)

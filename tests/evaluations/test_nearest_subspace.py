"""Nearest subspace: limits, and what the plug-in says and refuses."""

import numpy as np
import pytest

from genrep_jax.evaluations import nearest_subspace
from genrep_jax.lib import errors
from tests.evaluations import probes


def test_rows_in_their_subspace_leave_nothing():
  random = np.random.default_rng(0)
  bases = random.normal(size=(2, 2, 6))  # two planes of six dimensions
  labels = np.arange(40) % 2
  x = np.einsum("nd,ndf->nf", random.normal(size=(40, 2)), bases[labels])
  for offset, centered in ((0.0, False), (5.0, True)):
    found = nearest_subspace.residuals(
      x + offset, labels, x + offset, components=2, centered=centered
    )
    own = found[np.arange(40), labels]
    np.testing.assert_allclose(own, 0, atol=1e-9)
    assert found[np.arange(40), 1 - labels].min() > 1e-3
  every = nearest_subspace.residuals(
    x, labels, random.normal(size=(3, 6)), components=6, centered=False
  )
  np.testing.assert_allclose(every, 0, atol=1e-9)
  few = nearest_subspace.residuals(  # three rows: fewer than features
    x[:6], labels[:6], x, components=3, centered=False
  )
  np.testing.assert_allclose(few[np.arange(40), labels], 0, atol=1e-6)


def test_the_plug_in(monkeypatch):
  make = probes.maker(monkeypatch, "nearest_subspace", components=2)
  made = make()
  assert dict(made.run({})) == {
    "subspace2_pca_accuracy": 1.0,
    "subspace2_svd_accuracy": 1.0,
  }
  assert made.headline == "subspace2_pca_accuracy"
  with pytest.raises(errors.UsageError) as caught:
    make(components=21)
  assert "here.components: given 21; allowed: at most 20" in str(caught.value)

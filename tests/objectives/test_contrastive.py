"""The shared kernel: a slow twin, chunks, devices, numerics."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors, mesh as mesh_lib
from genrep_jax.objectives import (
  _contrastive,
  _pairs,
  simclr,
  supcon,
)
from tests.objectives import reference

# Compiling is what these tests spend their time on.
_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def _embeddings(b, v, d, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(b, v, d)).astype(np.float32)


def _simclr(tau):
  """Returns the compiled loss and gradient of SimCLR."""
  return _jit(
    jax.value_and_grad(functools.partial(simclr.loss, temperature=tau))
  )


def _check(got, want, factor, floor):
  want = np.asarray(want)
  bound = factor * np.max(np.abs(want)) + floor
  np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=bound)


@pytest.mark.parametrize(
  "name", ["cmc_core_B8_V3_D128_tau0.2", "cmc_core_B4_V2_D16_tau0.5"]
)
def test_keys_of_another_view(name):
  """CMC from the same kernel: rows and keys differ, nothing is excluded."""
  losses, cases = reference.read()
  case = cases[name]

  def loss(z):
    z, ids = _pairs.normalize(z), np.arange(len(z))
    return sum(
      _contrastive.soft_cross_entropy(
        z[:, i],
        z[:, j],
        ids,
        ids,
        temperature=case["tau"],
        exclude_self=False,
      ).loss
      for a, b in case["pairs"]
      for i, j in ((a, b), (b, a))
    )

  step = _jit(jax.value_and_grad(loss))
  value, grad = step(jnp.asarray(losses[f"in/{name}/z"]))
  _check(value, losses[f"out/{name}/loss"], 1e-4, 1e-5)
  _check(grad, losses[f"out/{name}/grad_z"], 1e-4, 1e-5)


def _twin(z, labels, tau, mask=None):
  """The formulas by loops, in float64: (loss, accuracy, cosines).

  With `mask`, labels of anchors, other anchors of a row's label are no keys.
  """
  z = np.asarray(z, np.float64)
  b, v, d = z.shape
  z = z.reshape(b * v, d)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  y = np.repeat(np.arange(b) if labels is None else labels, v)
  classes = np.arange(b * v) if mask is None else np.repeat(mask, v)
  total, hits, cosines = 0.0, 0, {True: [], False: []}
  for i in range(b * v):
    others = [k for k in range(b * v) if k != i]
    others = [k for k in others if y[k] == y[i] or classes[k] != classes[i]]
    partition = np.logaddexp.reduce([z[i] @ z[k] / tau for k in others])
    positives = [k for k in others if y[k] == y[i]]
    for p in positives:
      total -= (z[i] @ z[p] / tau - partition) / len(positives)
    hits += y[max(others, key=lambda k: z[i] @ z[k])] == y[i]
    for k in others:
      cosines[bool(y[k] == y[i])].append(z[i] @ z[k])
  n = b * v
  return total / n, hits / n, np.mean(cosines[True]), np.mean(cosines[False])


_SOME = np.array([0, 1, 1, 2, 0, 3])
# (labels of positives, labels that mask) of `_contrastive.terms`.
_KINDS = {"anchors": {}, "labels": {"labels": _SOME}}
_KINDS["masked"] = {"mask_labels": _SOME}


def _terms(z, kind, **options):
  """(Loss, Terms) of a kind of positives and negatives."""
  kind = {"labels": None, **_KINDS[kind]}
  out = _contrastive.terms(z, temperature=0.4, **kind, **options)
  return out.loss, out


@pytest.fixture(scope="module")
def six_anchors():
  """{views: (z, {(kind, chunk_rows): ((loss, Terms), gradient)})}."""
  cases = [(kind, rows) for kind in _KINDS for rows in (0, 3)]

  @_jit
  def run(zs):
    step = jax.value_and_grad(_terms, has_aux=True)
    return [[step(z, k, chunk_rows=r) for k, r in cases] for z in zs]

  zs = [
    _embeddings(6, views, 5) + 0.7 * _embeddings(6, 1, 5, seed=1)
    for views in (2, 4)
  ]
  out = jax.device_get(run(zs))
  return {
    z.shape[1]: (z, dict(zip(cases, results, strict=True)))
    for z, results in zip(zs, out, strict=True)
  }


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("kind", _KINDS)
def test_twin_of_values_metrics_and_gradients(views, kind, six_anchors):
  z, results = six_anchors[views]
  (_, terms), grad = results[kind, 0]
  labels = _KINDS[kind].get("labels"), 0.4, _KINDS[kind].get("mask_labels")
  np.testing.assert_allclose(terms, _twin(z, *labels), rtol=1e-5)
  move = np.random.default_rng(2).normal(size=z.shape)
  sides = [_twin(z + step * move, *labels)[0] for step in (1e-5, -1e-5)]
  want = (sides[0] - sides[1]) / 2e-5
  assert abs(np.sum(grad * move) - want) < 1e-5 and abs(want) > 1e-3


@pytest.mark.parametrize("kind", _KINDS)
def test_chunks_change_nothing(kind, six_anchors):
  for _, results in six_anchors.values():
    (value, whole), grad = results[kind, 0]
    (value_chunked, chunked), grad_chunked = results[kind, 3]
    np.testing.assert_allclose(value, value_chunked, rtol=1e-6)
    np.testing.assert_allclose(whole, chunked, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, grad_chunked, rtol=1e-5, atol=1e-7)


def test_masked_negatives():
  """Labels that are all different mask nothing, all equal ones everything."""
  run = _jit(
    jax.value_and_grad(
      lambda z, labels: simclr.loss(z, temperature=0.1, mask_labels=labels)
    )
  )
  z = _embeddings(4, 2, 8)
  value, grad = run(z, np.arange(4))
  want, want_grad = _simclr(0.1)(z)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-7)
  # The partition is the one positive: nothing is left to learn.
  value, grad = run(z, np.zeros(4, int))
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(grad, 0, atol=1e-6)
  # Of four views, three positives; alike, they cost log 3.
  value, grad = run(np.ones((4, 4, 8), np.float32), np.zeros(4, int))
  np.testing.assert_allclose(value, math.log(3), rtol=1e-6)
  assert np.isfinite(grad).all()
  # Neither positives nor negatives: an empty partition.
  value, grad = run(z[:, :1], np.zeros(4, int))
  assert value == 0 and not np.asarray(grad).any()


def test_chunks_bound_the_memory():
  """No array of n x n or n x n x d entries is made; without chunks n x n is."""
  b, v, d, chunk = 32, 2, 16, 8
  n = b * v

  def sizes(chunk_rows):
    loss = jax.grad(
      lambda z: simclr.loss(z, temperature=0.1, chunk_rows=chunk_rows)
    )
    text = str(jax.make_jaxpr(loss)(_embeddings(b, v, d)))
    shapes = re.findall(r"\[([\d,]+)\]", text)
    return {math.prod(map(int, shape.split(","))) for shape in shapes}

  assert max(sizes(0)) == n * n
  assert max(sizes(chunk)) == max(n * d, n * chunk) < n * n


def test_chunk_that_does_not_divide():
  with pytest.raises(errors.UsageError, match="given 7; .* the 24 rows"):
    simclr.loss(_embeddings(8, 3, 4), temperature=0.1, chunk_rows=7)
  loss = _jit(simclr.loss, static_argnames=("temperature", "chunk_rows"))
  whole, large = (
    loss(_embeddings(8, 3, 4), temperature=0.1, chunk_rows=rows)
    for rows in (0, 100)
  )
  assert large == whole


def test_one_embedding_has_nothing_to_contrast():
  with pytest.raises(errors.UsageError, match="at least 2"):
    supcon.loss(np.ones((1, 1, 4)), np.zeros(1, int), temperature=0.1)


def _collectives(text):
  kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-\\w+"
  return re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)


@pytest.mark.parametrize(
  ("chunk", "labelled", "masked"),
  [(0, False, False), (0, True, False), (16, False, True)],
)
def test_eight_devices(chunk, labelled, masked):
  """Same value and gradient as one device, and only the allowed traffic."""
  b, v, d = 16, 4, 24
  z, labels = _embeddings(b, v, d), np.arange(b) % 5
  batch = mesh_lib.batch(mesh_lib.make_mesh())

  def loss(z, labels):
    terms = _contrastive.terms(
      z,
      labels if labelled else None,
      mask_labels=labels if masked else None,
      temperature=0.1,
      chunk_rows=chunk,
    )
    return terms.loss, terms

  step = jax.value_and_grad(loss, has_aux=True)
  (_, want), want_grad = _jit(step)(z, labels)
  spread = jax.device_put((z, labels), batch)
  compiled = jax.jit(step, in_shardings=(batch, batch)).lower(*spread).compile()
  (_, got), got_grad = compiled(*spread)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got_grad, want_grad, rtol=1e-5, atol=1e-8)

  allowed = {"all-gather", "all-reduce", "reduce-scatter"}
  found = _collectives(compiled.as_text())
  assert found and {kind for _, kind in found} <= allowed


def test_forward_gathers_the_embeddings_once():
  b, v, d = 16, 2, 24
  batch = mesh_lib.batch(mesh_lib.make_mesh())
  z = jax.device_put(_embeddings(b, v, d), batch)
  loss = jax.jit(lambda z: simclr.loss(z, temperature=0.1), in_shardings=batch)
  found = _collectives(loss.lower(z).compile().as_text())
  gathered = [shape for shape, kind in found if kind == "all-gather"]
  reduced = [shape for shape, kind in found if kind == "all-reduce"]
  assert len(found) == len(gathered) + len(reduced)
  assert len(gathered) == 1
  entries = re.findall(r"f32\[([\d,]+)\]", gathered[0])
  assert [math.prod(map(int, e.split(","))) for e in entries] == [b * v * d]
  assert all(re.fullmatch(r"f32\[\]", shape) for shape in reduced)


def test_finite_at_zero_vectors():
  step = _simclr(0.1)
  z = _embeddings(4, 2, 8)
  z[1] = 0.0
  value, grad = step(z)
  assert np.isfinite(value) and np.isfinite(grad).all()
  value, grad = step(np.zeros_like(z))
  np.testing.assert_allclose(value, math.log(7), rtol=1e-6)
  assert np.isfinite(grad).all()


def test_finite_at_a_low_temperature():
  """exp(1/tau) overflows float32 at tau = 0.003; at 1e-4 logits are +-1e4."""
  z = _embeddings(8, 2, 4)
  run = _jit(jax.value_and_grad(lambda z, tau: simclr.loss(z, temperature=tau)))
  for tau in (0.03, 0.003, 1e-4):
    value, grad = run(z, tau)
    np.testing.assert_allclose(value, _twin(z, None, tau)[0], rtol=1e-4)
    assert np.isfinite(grad).all()


def test_bfloat16_is_computed_in_float32():
  z = jnp.asarray(_embeddings(8, 2, 16), jnp.bfloat16)
  value, grad = _simclr(0.05)(z)
  assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
  loss = _jit(functools.partial(simclr.loss, temperature=0.05))
  np.testing.assert_allclose(value, loss(z.astype(jnp.float32)), rtol=1e-6)
  (product,) = re.findall(r".*dot_general.*", loss.lower(z).as_text())
  assert "precision = [HIGHEST, HIGHEST]" in product and "bf16" not in product


def test_row_without_a_positive_has_no_gradient_of_its_own():
  z = _embeddings(3, 1, 6)
  labels = np.array([0, 0, 1])
  step = _jit(
    jax.value_and_grad(functools.partial(supcon.loss, temperature=0.5))
  )
  value, _ = step(z, labels)
  np.testing.assert_allclose(value, _twin(z, labels, 0.5)[0], rtol=1e-5)
  value, grad = step(z, np.arange(3))
  assert value == 0 and not np.asarray(grad).any()

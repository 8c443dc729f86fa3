"""What all formulas share: known values, symmetries, hard numbers.

`test_fixtures` says that they are right on ordinary embeddings; here are zero
vectors, a collapse, scores of 1e4 and more, two anchors, four views, bfloat16,
at a low temperature.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors
from genrep_jax.objectives import (
  amdim,
  autoencoder,
  barlow_twins,
  byol,
  classifier,
  cmc,
  dim,
  inverter,
  moco_v3,
  simclr,
  simsiam,
  supcon,
  vicreg,
)

_D, _K, _TAU = 16, 7, 0.03
_tau = {"temperature": _TAU}
_partial = functools.partial

# name: (formula, its inputs); see `_inputs`. Multi-positive is SimCLR here.
FORMULAS = {
  "simclr": (_partial(simclr.loss, **_tau), "z"),
  "simclr_masked": (
    lambda z, classes: simclr.loss(z, mask_labels=classes, **_tau),
    "z classes",
  ),
  "supcon": (_partial(supcon.loss, **_tau), "z classes"),
  "cmc": (_partial(cmc.loss, **_tau), "z"),
  "moco_v3": (_partial(moco_v3.loss, **_tau), "z keys"),
  "byol": (byol.loss, "z keys"),
  "simsiam": (simsiam.loss, "z keys"),
  "vicreg": (vicreg.loss, "z"),
  "barlow_twins": (barlow_twins.loss, "z"),
  "dim_jsd": (dim.loss, "maps vectors"),
  "dim_infonce": (_partial(dim.loss, measure="infonce"), "maps vectors"),
  "amdim": (amdim.loss, "z coarse fine positions"),
  "inverter": (inverter.loss, "z latents logits labels"),
  "autoencoder": (
    autoencoder.loss,
    "z latents images originals logits labels",
  ),
  "classifier": (classifier.loss, "logits labels"),
}
every = pytest.mark.parametrize("name", FORMULAS)


def _inputs(b, v, seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  return {
    "z": normal(b, v, _D),
    "keys": normal(b, v, _D),
    "maps": normal(b, 3, 3, _D),
    "vectors": normal(b, _D),
    "coarse": normal(b, v, 2, 2, _D),
    "fine": normal(b, v, 4, 4, _D),
    "positions": rng.integers(0, 4, (b, v)).astype(np.int32),
    "latents": normal(b, v, _D),
    "images": normal(b, v, 2, 2, 1),
    "originals": normal(b, v, 2, 2, 1),
    "classes": np.arange(b, dtype=np.int32) // 2,
    "logits": normal(b, v, _K),
    "labels": rng.integers(0, _K, (b, v)).astype(np.int32),
  }


def _floats(inputs, change):
  """Inputs with a change of all float arrays."""
  return {
    name: change(x) if x.dtype.kind == "f" else x for name, x in inputs.items()
  }


# Compiling is what these tests spend their time on.
_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@_jit
def _program(inputs):
  out = {}
  for name, (function, names) in FORMULAS.items():
    names = names.split()
    arrays = [inputs[x] for x in names]
    wanted = [
      i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    value, grads = jax.value_and_grad(function, argnums=wanted)(*arrays)
    out[name] = value, dict(zip([names[i] for i in wanted], grads, strict=True))
  return out


def _run(inputs):
  """{formula: (value, {input: gradient})}, all from one program."""
  return jax.device_get(_program(inputs))


@pytest.fixture(scope="module")
def normal():
  return _run(_inputs(4, 4))


def _order(x, *, views):
  """Another order of anchors, and of views where x has some."""
  order = [2, 0, 3, 1]
  x = x[order]
  if views and x.ndim > 1 and x.shape[1] == 4:
    x = x[:, [3, 1, 0, 2]]
  return x


# What zero vectors, and then all-equal embeddings, cost for b = v = 4.
_LOG4 = math.log(4)
_NCE = {p: math.log(1 + 3 * p) for p in (4, 9, 16)}
KNOWN = {
  "simclr": (math.log(15), math.log(15)),
  "simclr_masked": (math.log(11), math.log(11)),
  "supcon": (math.log(15), math.log(15)),
  "cmc": (3 * 2 * _LOG4, 3 * 2 * _LOG4),
  "moco_v3": (4 * _TAU * _LOG4, 4 * _TAU * _LOG4),
  "byol": (2, 0),
  "simsiam": (0, -1),
  "vicreg": (25 * 0.99, 25 * 0.99),
  "barlow_twins": (_D, _D),
  "dim_jsd": (0, None),
  "dim_infonce": (_NCE[9], _NCE[9]),
  "amdim": (2 * _NCE[4] + _NCE[16], None),
  "inverter": (math.log(_K), math.log(_K)),
  "autoencoder": (1 + math.log(_K), math.log(_K)),
  "classifier": (math.log(_K), math.log(_K)),
}


@pytest.mark.parametrize("equal", [False, True], ids=["zero", "equal"])
def test_collapsed_embeddings(equal):
  """Zero vectors, or all vectors equal: known values, finite gradients."""

  def change(x):
    row = np.linspace(-1, 1, x.shape[-1], dtype=np.float32) * equal
    return np.broadcast_to(row, x.shape)

  inputs = _floats(_inputs(4, 4), change)
  inputs["logits"] = np.full_like(inputs["logits"], 3.0 * equal)
  got = _run(inputs)
  assert got.keys() == KNOWN.keys()
  for name, (value, grads) in got.items():
    want = KNOWN[name][equal]
    if want is not None:
      np.testing.assert_allclose(
        value, want, rtol=1e-5, atol=1e-5, err_msg=name
      )
    assert np.isfinite(value), name
    for grad in grads.values():
      assert np.isfinite(grad).all(), name


@pytest.mark.parametrize("size", [1e4, 1e-4])
def test_large_and_small_embeddings(size):
  """Inputs of +-1e4: scores and logits of 1e4 and, squared, of 1e9."""
  inputs = _floats(_inputs(4, 4), lambda x: x * np.float32(size))
  out = _run(inputs)
  for name, (value, grads) in out.items():
    assert np.isfinite(value), name
    for grad in grads.values():
      assert np.isfinite(grad).all(), name
  # AMDIM's penalty is on scores before the clip, of which this is left.
  if size > 1:
    assert out["amdim"][0] > 1e12 and np.any(out["amdim"][1]["fine"])


def test_one_zero_vector_among_others():
  def change(x):
    x = x.copy()
    x[1] = 0
    return x

  for name, (value, grads) in _run(_floats(_inputs(4, 4), change)).items():
    assert np.isfinite(value), name
    for grad in grads.values():
      assert np.isfinite(grad).all(), name


@pytest.fixture(scope="module")
def two_anchors():
  """B = 2, V = 4: of bfloat16, and of the same numbers in float32."""
  short = _floats(_inputs(2, 4), lambda x: jnp.asarray(x, jnp.bfloat16))
  whole = {
    name: jnp.asarray(x, jnp.float32) if x.dtype == jnp.bfloat16 else x
    for name, x in short.items()
  }
  return _run(short), _run(whole)


@every
def test_two_anchors_of_four_views_in_bfloat16(name, two_anchors):
  """Loss in float32 from inputs in bfloat16; gradients come back in it."""
  (value, grads), (exact, exact_grads) = (out[name] for out in two_anchors)
  assert value.dtype == exact.dtype == jnp.float32
  assert np.isfinite(value)
  np.testing.assert_allclose(value, exact, rtol=1e-6)
  for key, grad in grads.items():
    assert grad.dtype == jnp.bfloat16
    largest = np.abs(exact_grads[key]).max()
    assert np.isfinite(largest)
    np.testing.assert_allclose(
      np.asarray(grad, np.float32), exact_grads[key], atol=0.01 * largest
    )


@pytest.mark.parametrize("views", [False, True], ids=["anchors", "and_views"])
def test_order_does_not_matter(views, normal):
  """Of anchors and of views; only the core view of CMC has a place."""
  move = functools.partial(_order, views=views)
  inputs = {
    name: move(x) if name not in ("maps", "vectors") else _order(x, views=False)
    for name, x in _inputs(4, 4).items()
  }
  for name, (value, grads) in _run(inputs).items():
    before, before_grads = normal[name]
    same = abs(value - before) <= 1e-5 * abs(before)
    assert same != (views and name == "cmc"), name
    if not same:
      continue
    for key, grad in grads.items():
      want = before_grads[key]
      want = _order(want, views=views and key not in ("maps", "vectors"))
      scale = max(np.abs(want).max(), 1e-6)
      np.testing.assert_allclose(grad, want, atol=2e-5 * scale, err_msg=name)


@every
def test_gradients_flow_where_they_should(name, normal):
  """Into every input but targets, keys and latents' own role of a target."""
  _, grads = normal[name]
  for key, grad in grads.items():
    assert np.any(grad) == (key != "keys"), key


def test_independent_embeddings():
  """What embeddings that know nothing of each other cost."""
  b, v, d = 256, 2, 1024
  rng = np.random.default_rng(0)
  z, other = rng.normal(size=(2, b, v, d)).astype(np.float32)

  @_jit
  def run(z, other):
    return {
      "cmc": cmc.loss(z, temperature=1.0),
      "moco_v3": moco_v3.loss(z, other, temperature=1.0),
      "byol": byol.loss(z, other),
      "simsiam": simsiam.loss(z, other),
      "barlow_twins": barlow_twins.loss(z),
      "vicreg": vicreg.terms(z),
    }

  got = run(z, other)
  assert abs(got["cmc"] - 2 * math.log(b)) < 0.02
  assert abs(got["moco_v3"] - 4 * math.log(b)) < 0.02
  assert abs(got["byol"] - 2) < 0.01 and abs(got["simsiam"]) < 0.005
  # C_ij has variance 1/b.
  want = d * (1 + 1 / b) + 5e-3 * d * (d - 1) / b
  np.testing.assert_allclose(got["barlow_twins"], want, rtol=0.02)
  terms = got["vicreg"]
  np.testing.assert_allclose(terms.invariance, 2, rtol=0.02)
  np.testing.assert_allclose(terms.covariance, 2 * d / b, rtol=0.02)
  np.testing.assert_allclose(terms.std, 1, rtol=0.01)


def _unit(x):
  x = np.asarray(x, np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _twin_autoencoder(z, latents, images, originals, logits, labels):
  """One view at a time."""
  b, v, _ = z.shape
  total = 0.0
  for i in range(b):
    for a in range(v):
      total += 1 - _unit(z[i, a]) @ _unit(latents[i, a])
      total += np.log(np.exp(logits[i, a]).sum()) - logits[i, a, labels[i, a]]
      total += ((images[i, a] - originals[i, a]) ** 2).mean()
  return total / (b * v)


def _twin_simsiam(z, keys):
  p, k = _unit(z), _unit(keys)
  b, v, _ = p.shape
  pairs = [(i, a, c) for i in range(b) for a in range(v) for c in range(v)]
  return -np.mean([p[i, a] @ k[i, c] for i, a, c in pairs if a != c])


def _twin_barlow_twins(z):
  """By numpy's own correlation, one entry at a time."""
  b, v, d = z.shape
  losses = []
  for a in range(v):
    for c in range(a + 1, v):
      total = 0.0
      for i in range(d):
        for j in range(d):
          r = np.corrcoef(z[:, a, i], z[:, c, j])[0, 1]
          total += (1 - r) ** 2 if i == j else 5e-3 * r**2
      losses.append(total)
  return np.mean(losses)


def _twin_amdim(z, coarse, fine, positions):
  b, v, d = z.shape
  coarse, fine = coarse.reshape(b, v, -1, d), fine.reshape(b, v, -1, d)

  def term(u, w):
    losses = []
    for a in range(v):
      for c in set(range(v)) - {a}:
        t = np.einsum("id,jpd->ijp", u[:, a], w[:, c]) / math.sqrt(d)
        s = 20 * np.tanh(t / 20)
        nce = 0.0
        for i in range(b):
          others = np.exp(np.delete(s[i], i, axis=0)).sum()
          own = np.exp(s[i, i])
          nce -= np.log(own / (own + others)).sum() / (b * w.shape[2])
        losses.append(nce + 0.05 * (t**2).mean())
    return np.mean(losses)

  chosen = np.stack(
    [[coarse[i, a, positions[i, a]] for a in range(v)] for i in range(b)]
  )
  return term(z, coarse) + term(z, fine) + term(chosen, coarse)


@pytest.mark.parametrize(
  ("name", "twin"),
  [
    ("autoencoder", _twin_autoencoder),
    ("simsiam", _twin_simsiam),
    ("barlow_twins", _twin_barlow_twins),
    ("amdim", _twin_amdim),
  ],
)
def test_twins_where_there_is_no_fixture(name, twin, normal):
  """By loops in float64; the gradient along a direction by differences."""
  inputs = _floats(_inputs(4, 4), lambda x: x.astype(np.float64))
  names = FORMULAS[name][1].split()
  value, grads = normal[name]
  # The formula's epsilon in the variance moves Barlow Twins by about 1e-5.
  np.testing.assert_allclose(
    value, twin(*(inputs[x] for x in names)), rtol=1e-4
  )
  rng = np.random.default_rng(1)
  for key, grad in grads.items():
    if key == "keys":
      continue
    move = rng.normal(size=grad.shape)
    sides = [
      twin(*(inputs[x] + (step * move if x == key else 0) for x in names))
      for step in (1e-5, -1e-5)
    ]
    want = (sides[0] - sides[1]) / 2e-5
    bound = 1e-4 * np.linalg.norm(grad) * np.linalg.norm(move)
    assert abs(np.sum(grad * move) - want) < bound, key


# name: (formula with other options, its inputs).
_CHUNKED = {
  "cmc": (_partial(cmc.loss, graph="full", temperature=0.2), "z"),
  "moco_v3": (_partial(moco_v3.loss, temperature=0.2), "z keys"),
  "dim_jsd": (dim.loss, "maps vectors"),
  "dim_infonce": (_partial(dim.loss, measure="infonce"), "maps vectors"),
  "amdim": (amdim.loss, "z coarse fine positions"),
}


def test_chunks_change_nothing():
  """Neither values nor gradients; SimCLR's are in `test_contrastive`."""
  inputs = _inputs(4, 2)

  @_jit
  def run(inputs):
    out = {}
    for name, (function, names) in _CHUNKED.items():
      arrays = [inputs[x] for x in names.split()]
      out[name] = [
        jax.value_and_grad(
          _partial(function, chunk_rows=rows), argnums=(0, 1)[: len(arrays)]
        )(*arrays)
        for rows in (0, 2)
      ]
    return out

  for name, ((value, grads), chunked) in run(inputs).items():
    np.testing.assert_allclose(chunked[0], value, rtol=1e-6, err_msg=name)
    assert any(np.any(grad) for grad in grads)
    for grad, other in zip(grads, chunked[1], strict=True):
      np.testing.assert_allclose(
        other, grad, rtol=1e-5, atol=1e-6, err_msg=name
      )


@pytest.mark.parametrize("name", ["dim_infonce", "amdim"])
def test_chunks_bound_the_memory(name):
  """No array of all pairs' scores at all positions; without chunks there is."""
  function, names = _CHUNKED[name]
  b, p = 32, 9 if name == "dim_infonce" else 16
  inputs = _inputs(b, 2)
  arrays = [inputs[x] for x in names.split()]

  def largest(chunk_rows):
    grad = jax.grad(_partial(function, chunk_rows=chunk_rows), argnums=(0, 1))
    shapes = re.findall(r"\[([\d,]+)\]", str(jax.make_jaxpr(grad)(*arrays)))
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)

  pairs = 1 if name == "dim_infonce" else 2
  assert largest(0) == pairs * b * b * p
  assert largest(4) == pairs * b * p * max(4, _D)


def _twin_pairs(rows, keys, classes):
  """Mean of -log softmax by loops, without other anchors of a row's class."""
  rows, keys = _unit(rows), _unit(keys)
  losses = []
  for i in range(len(rows)):
    kept = [j for j in range(len(keys)) if j == i or classes[j] != classes[i]]
    s = [rows[i] @ keys[j] / 0.2 for j in kept]
    losses.append(np.logaddexp.reduce(s) - rows[i] @ keys[i] / 0.2)
  return np.mean(losses)


def _twin_cmc(z, _, classes):
  v = z.shape[1]
  pairs = [(a, c) for a in range(v) for c in range(v) if a != c]
  return sum(_twin_pairs(z[:, a], z[:, c], classes) for a, c in pairs)


def _twin_moco_v3(z, keys, classes):
  v = z.shape[1]
  pairs = [(a, c) for a in range(v) for c in range(v) if a != c]
  means = [_twin_pairs(z[:, a], keys[:, c], classes) for a, c in pairs]
  return 4 * 0.2 * np.mean(means)


def test_masked_negatives_of_pairs_of_views():
  """CMC and MoCo v3 against loops, whole and in chunks; then all masked."""
  inputs = {k: _inputs(4, 3)[k] for k in ("z", "keys")}

  functions = {
    "cmc": lambda z, keys, **options: cmc.loss(z, graph="full", **options),
    "moco_v3": moco_v3.loss,
  }

  @_jit
  def run(z, keys, classes):
    options = {"temperature": 0.2, "mask_labels": classes}
    return {
      name: [
        jax.value_and_grad(_partial(f, chunk_rows=rows, **options))(z, keys)
        for rows in (0, 2)
      ]
      for name, f in functions.items()
    }

  def by_name(classes):
    found = jax.device_get(run(*inputs.values(), classes))
    return [(name, *one) for name, both in found.items() for one in both]

  classes = np.array([0, 1, 0, 0])
  move = np.random.default_rng(1).normal(size=inputs["z"].shape)
  for name, value, grad in by_name(classes):
    twin = {"cmc": _twin_cmc, "moco_v3": _twin_moco_v3}[name]
    np.testing.assert_allclose(
      value, twin(*inputs.values(), classes), rtol=1e-5
    )
    sides = [
      twin(inputs["z"] + step * move, inputs["keys"], classes)
      for step in (1e-5, -1e-5)
    ]
    want = (sides[0] - sides[1]) / 2e-5
    assert abs(np.sum(grad * move) - want) < 1e-4 * max(1, abs(want)), name
  # The one positive is the partition: nothing to learn, and nothing infinite.
  for _, value, grad in by_name(np.zeros(4, int)):
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(grad, 0, atol=1e-5)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda z: cmc.loss(z, graph="ring", temperature=1), "'ring'.*core, full"),
    (lambda z: vicreg.loss(z, variance_reduction="max"), "'max'.*mean, sum"),
    (
      lambda z: dim.loss(z, z[:, 0], measure="mine"),
      "'mine'.*jsd, infonce, dv, nwj",
    ),
    (lambda z: cmc.loss(z[:1], temperature=1), "given 1; .* as cmc compares"),
    (
      lambda z: moco_v3.loss(z[:1], z[:1], temperature=1),
      "1; .* as moco_v3",
    ),
    (lambda z: vicreg.loss(z[:1]), "given 1; .* as vicreg compares"),
    (
      lambda z: barlow_twins.loss(z[:1]),
      "1; .* as barlow_twins",
    ),
    (lambda z: dim.loss(z[:1], z[:1, 0]), "given 1; .* as dim compares"),
    (
      lambda z: cmc.loss(z, temperature=1, chunk_rows=3),
      r"given 3; .* a divisor of the 4 rows \(one per anchor\).*: 2",
    ),
    (
      lambda z: dim.loss(z, z[:, 0], chunk_rows=3),
      r"given 3; .* a divisor of the 4 rows \(anchors times views\)",
    ),
  ],
)
def test_what_a_formula_refuses(call, message):
  with pytest.raises(errors.UsageError, match=message) as caught:
    call(np.ones((4, 2, 3), np.float32))
  assert "\n" not in str(caught.value)

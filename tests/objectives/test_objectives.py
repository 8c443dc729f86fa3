"""What all objectives share once built from a config: heads, state, devices.

Every plug-in of the room with trained parts is one entry of ONE program, run on
one device and on eight. `test_formulas` has the losses themselves.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import run as run_lib
from genrep_jax.lib import contracts, errors, heads, mesh as mesh_lib, plugins
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
from tests import support

_B, _V, _F, _C, _Z, _K = 16, 3, 10, 6, 5, 7
_SMALL = {
  "projector_hidden": (12,),
  "predictor_hidden": (9,),
  "projector_dim": 8,
  "head_dim": 8,
  "mi_units": 8,
  "rkhs_dim": 8,
  "latent_dim": _Z,
  "num_classes": _K,
}
# name: (objective, changed options).
_MADE = {
  "cmc": ("cmc", {"graph": "full", "temperature": 0.3}),
  "moco_v3": ("moco_v3", {"temperature": 0.3}),
  "byol": ("byol", {}),
  "simsiam": ("simsiam", {}),
  "vicreg": ("vicreg", {"variance_reduction": "sum"}),
  "barlow_twins": ("barlow_twins", {"off_diagonal_weight": 0.02}),
  "dim_jsd": ("dim", {}),
  "dim_infonce": ("dim", {"measure": "infonce"}),
  "amdim": ("amdim", {"clip": 5.0, "regularizer": 0.1}),
  "inverter": ("inverter", {"head_hidden": (11,)}),
  "inverter_supervised": ("inverter", {"supervised": True}),
  "classifier": ("classifier", {}),
  "autoencoder": ("autoencoder", {"latent_weight": 0.5, "pixel_weight": 2.0}),
  # Of three views: multi-positive, too, which is the same function.
  "simclr": ("simclr", {"temperature": 0.3, "mask_same_class": True}),
  "supcon": ("supcon", {"temperature": 0.3}),
}
# Those whose head is the whole of their params, and those that see the labels.
_CONTRASTIVE = ("simclr", "supcon")
_LABELLED = {
  *_CONTRASTIVE,
  "inverter_supervised",
  "classifier",
  "autoencoder",
}
every = pytest.mark.parametrize("name", _MADE)
# One of each kind: the other two differ in nothing that spreads over devices.
_SPREAD = tuple(n for n in _MADE if n not in ("dim_infonce", "inverter"))


def _build(name, changes=()):
  known = plugins.defaults("objectives", name)
  sizes = {key: x for key, x in _SMALL.items() if key in known}
  entry = {"name": name, **sizes, **dict(changes)}
  return plugins.make("objectives", entry, heads)


def _make(name):
  return _build(*_MADE[name])


def _features(seed):
  rng = np.random.default_rng(seed)
  # Rectified, as an encoder's; views of an anchor are alike.
  common = rng.normal(size=(_B, 1, _F)) + 0.3 * rng.normal(size=(_B, _V, _F))
  local = rng.normal(size=(_B, 1, 4, 4, _C))
  local = local + 0.3 * rng.normal(size=(_B, _V, 4, 4, _C))
  return contracts.Features(
    np.maximum(common, 0).astype(np.float32),
    np.maximum(local, 0).astype(np.float32),
  )


def _shown():
  rng = np.random.default_rng(7)
  return contracts.Views(
    images=None,
    latents=rng.normal(size=(_B, _V, _Z)).astype(np.float32),
    anchors=rng.normal(size=(_B, _Z)).astype(np.float32),
    labels=np.arange(_B, dtype=np.int32) % _K,
    rendered=np.tanh(rng.normal(size=(_B, _V, 4, 4, 1))).astype(np.float32),
  )


def _render(z, labels):
  """Stands for a generator: images [b v 4 4 1] of latents and classes."""
  rng = np.random.default_rng(9)
  weights = rng.normal(size=(_Z, 16)).astype(np.float32)
  classes = jnp.asarray(rng.normal(size=(_K, 1, 16)).astype(np.float32))
  return jnp.tanh(z @ weights + classes[labels]).reshape(*z.shape[:2], 4, 4, 1)


_KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def initial():
  """{name: (params, state, params of the target's head)}.

  Drawn by numpy: compiling the initializers would take longer than all else.
  """
  abstract = jax.eval_shape(lambda: _features(0))
  rng = np.random.default_rng(3)

  def draw(leaf):
    size = math.prod(leaf.shape[:-1]) ** -0.5  # 1 for a vector
    return rng.normal(scale=size, size=leaf.shape).astype(np.float32)

  out = {}
  for name in _MADE:
    params, state = jax.eval_shape(_make(name).init, _KEY, abstract)
    draws = [jax.tree.map(draw, params) for _ in range(2)]
    state = jax.tree.map(lambda x: np.ones(x.shape, np.float32), state)
    out[name] = draws[0], state, draws[1]
  return out


def _program(initial, features, shown, target_features, names=tuple(_MADE)):
  """{name: (loss, metrics, new state, gradients)}.

  Gradients are of the head's params, the features and the Target.
  """
  out = {}
  for name in names:
    objective = _make(name)
    params, state, target_head = initial[name]

    def loss(params, features, target, objective=objective, state=state):
      views = shown
      if "generator" in objective.requires:
        views = shown._replace(render=lambda z: _render(z, shown.labels))
      if "target" not in objective.requires:
        target = None
      loss, metrics, state = objective.apply(
        params, features, views, target, state, _KEY
      )
      return loss, (metrics, state)

    target = contracts.Target(target_features, target_head)
    (value, (metrics, state)), grads = jax.value_and_grad(
      loss, argnums=(0, 1, 2), has_aux=True
    )(params, features, target)
    out[name] = value, metrics, state, grads
  return out


_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
_one_device = _jit(_program)


def _run(initial, *arrays):
  return jax.device_get(_one_device(initial, *arrays))


@pytest.fixture(scope="module")
def results(initial):
  return _run(initial, _features(0), _shown(), _features(1))


@pytest.fixture(scope="module")
def results_of_eight(initial):
  mesh = mesh_lib.make_mesh()
  batch, whole = mesh_lib.batch(mesh), mesh_lib.replicated(mesh)
  arrays = jax.device_put((_features(0), _shown(), _features(1)), batch)
  run = _jit(
    functools.partial(_program, names=_SPREAD),
    in_shardings=(whole, batch, batch, batch),
  )
  return jax.device_get(run(initial, *arrays))


def _leaves(tree):
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(jax.tree_util.keystr(path), np.asarray(x)) for path, x in flat]


@pytest.mark.parametrize("name", _SPREAD)
def test_eight_devices_are_one(name, results, results_of_eight):
  """Loss, metrics, state and every gradient."""
  one, eight = results[name], results_of_eight[name]
  np.testing.assert_allclose(eight[0], one[0], rtol=1e-5, atol=1e-6)
  largest = max(np.abs(x).max() for _, x in _leaves(one[3][0]))
  for (path, a), (_, b) in zip(_leaves(one), _leaves(eight), strict=True):
    # A bias that a batch norm undoes has no gradient but rounding.
    scale = max(np.abs(a).max(), 1e-2 * largest)
    np.testing.assert_allclose(b, a, atol=3e-5 * scale, err_msg=path)


@every
def test_gradients(name, results):
  """Into head and features, of every view; none into the target."""
  value, metrics, _, (head, features, target) = results[name]
  assert value.dtype == np.float32 and np.isfinite(value)
  for key, x in metrics.items():
    assert np.shape(x) == () and np.isfinite(x), key
  for path, x in _leaves(head):
    assert np.isfinite(x).all(), path
  assert any(np.any(x) for _, x in _leaves(head))
  for v in range(_V):
    assert np.any(features.pooled[:, v])
  local = "local" in _make(name).requires
  assert np.any(features.local) == local
  assert not any(np.any(x) for _, x in _leaves(target))


@every
def test_state_is_that_of_the_trained_heads(name, results, initial):
  _, _, state, _ = results[name]
  before = initial[name][1]
  has_batch_norm = name not in (
    "cmc",
    "inverter",
    "inverter_supervised",
    "classifier",
    "autoencoder",
    *_CONTRASTIVE,
  )
  assert bool(jax.tree.leaves(before)) == has_batch_norm
  assert jax.tree.structure(state) == jax.tree.structure(before)
  for (path, a), (_, b) in zip(_leaves(before), _leaves(state), strict=True):
    assert np.any(a != b), path


def test_only_some_look_at_the_target(results, initial):
  other = _run(initial, _features(0), _shown(), _features(2))
  for name, (value, _, state, _) in results.items():
    changed = bool(value != other[name][0])
    assert changed == (name in ("byol", "moco_v3")), name
    assert changed == ("target" in _make(name).requires), name
    # Batch norms of the target's head leave no trace.
    jax.tree.map(np.testing.assert_array_equal, state, other[name][2])


def test_only_some_look_at_labels_and_latents(results, initial):
  """The inverter's z is each view's own: anchors do not matter."""
  shown = _shown()
  names = {"labels": _LABELLED, "anchors": set()}
  names["latents"] = {"inverter", "inverter_supervised", "autoencoder"}
  changes = {
    "labels": shown._replace(labels=np.sort(shown.labels)),
    "anchors": shown._replace(anchors=shown.anchors + 1),
    # The right latents of every anchor, but of other views.
    "latents": shown._replace(latents=shown.latents[:, ::-1].copy()),
  }
  for what, views in changes.items():
    out = _run(initial, _features(0), views, _features(1))
    changed = {n for n in results if results[n][0] != out[n][0]}
    assert changed == names[what], what
    if what != "anchors":
      needing = {n for n in _MADE if what in _make(n).requires}
      assert needing == names[what], what


def _by_hand(initial):
  """The losses again, from heads made here and the pure formulas."""
  features, shown, keys = _features(0), _shown(), _features(1)
  rows = jax.tree.map(lambda x: x.reshape(_B * _V, *x.shape[2:]), features)
  bn = {"batch_norm": True}
  wide = heads.mlp([12], 8, out_bias=False, **bn)
  moco = [heads.mlp([w], 8, out_batch_norm=True, **bn) for w in (12, 9)]
  critic = heads.mlp([8], 8, shortcut=True, out_layer_norm=True, **bn)
  rkhs = heads.mlp([8], 8, shortcut=True, out_batch_norm=True, **bn)

  def run(head, name, part, x, target=False):
    params, state, average = initial[name]
    params = average if target else params
    variables = {"params": params[part], "batch_stats": state.get(part, {})}
    return head.apply(variables, x, True)[0]

  def siamese(name, projector, predictor, target):
    z = run(projector, name, "projector", features.pooled)
    p = run(predictor, name, "predictor", z)
    if target:
      z = run(projector, name, "projector", keys.pooled, target=True)
    return p, z

  z = {
    name: heads.mlp([0], 8).apply(
      {"params": initial[name][0], "batch_stats": {}}, features.pooled, True
    )[0]
    for name in _CONTRASTIVE
  }
  by_hand = {
    "simclr": simclr.loss(
      z["simclr"], temperature=0.3, mask_labels=shown.labels
    ),
    "supcon": supcon.loss(z["supcon"], shown.labels, temperature=0.3),
  }
  z = run(heads.mlp([0], 8), "cmc", "projector", features.pooled)
  out = by_hand | {"cmc": cmc.loss(z, temperature=0.3, graph="full")}
  out["moco_v3"] = moco_v3.loss(
    *siamese("moco_v3", *moco, True), temperature=0.3
  )
  narrow = heads.mlp([9], 8, out_bias=False, **bn)
  out["byol"] = byol.loss(*siamese("byol", wide, narrow, True))
  biased = heads.mlp([9], 8, **bn)
  out["simsiam"] = simsiam.loss(*siamese("simsiam", moco[0], biased, False))
  z = run(wide, "vicreg", "projector", features.pooled)
  out["vicreg"] = vicreg.loss(z, variance_reduction="sum")
  z = run(wide, "barlow_twins", "projector", features.pooled)
  out["barlow_twins"] = barlow_twins.loss(z, off_diagonal_weight=0.02)
  for measure in ("jsd", "infonce"):
    name = f"dim_{measure}"
    out[name] = dim.loss(
      run(critic, name, "local", rows.local),
      run(critic, name, "global", rows.pooled),
      measure=measure,
    )
  # 3x3 windows of a 4x4 map: 2x2.
  corners = [(0, 3), (1, 4)]
  coarse = jnp.stack(
    [
      jnp.stack(
        [features.local[:, :, a:b, c:d].mean(axis=(2, 3)) for c, d in corners],
        axis=2,
      )
      for a, b in corners
    ],
    axis=2,
  )
  out["amdim"] = amdim.loss(
    run(rkhs, "amdim", "global", features.pooled),
    run(rkhs, "amdim", "coarse", coarse),
    run(rkhs, "amdim", "fine", features.local),
    jax.random.randint(_KEY, (_B, _V), 0, 4),
    clip=5.0,
    regularizer=0.1,
  )
  z = run(heads.mlp([11], _Z), "inverter", "latent", features.pooled)
  out["inverter"] = jnp.mean((z - shown.latents) ** 2)
  labels = np.repeat(shown.labels, _V).reshape(_B, _V)
  z, logits = (
    run(heads.mlp([], d), "inverter_supervised", part, features.pooled)
    for part, d in (("latent", _Z), ("classes", _K))
  )
  out["inverter_supervised"] = inverter.loss(z, shown.latents, logits, labels)
  z, logits = (
    run(heads.mlp([], d), "autoencoder", part, features.pooled)
    for part, d in (("latent", _Z), ("classes", _K))
  )
  out["autoencoder"] = autoencoder.loss(
    z,
    shown.latents,
    _render(z, shown.labels),
    shown.rendered,
    logits,
    labels,
    latent_weight=0.5,
    pixel_weight=2.0,
  )
  logits = run(heads.mlp([], _K), "classifier", "classes", features.pooled)
  out["classifier"] = classifier.loss(logits, labels)
  return out


def test_losses_by_hand(results, initial):
  """Every head in its place: built here again, one by one."""
  want = jax.device_get(_jit(_by_hand)(initial))
  assert want.keys() == results.keys()
  for name, value in want.items():
    np.testing.assert_allclose(results[name][0], value, rtol=2e-5, err_msg=name)


def test_metrics(results):
  """The terms of the loss add up to it."""
  metrics = {name: result[1] for name, result in results.items()}
  losses = {name: result[0] for name, result in results.items()}
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  close(
    losses["cmc"],
    6 * (math.log(_B) - metrics["cmc"]["mutual_information_bound"]),
  )
  close(losses["byol"], 2 - 2 * metrics["byol"]["positive_cosine"])
  close(losses["simsiam"], -metrics["simsiam"]["positive_cosine"])
  m = metrics["vicreg"]
  close(
    losses["vicreg"],
    25 * m["invariance"] + 50 * m["variance"] + m["covariance"],
  )
  m = metrics["barlow_twins"]
  close(
    losses["barlow_twins"], 8 * m["invariance"] + 0.02 * 56 * m["redundancy"]
  )
  m = metrics["amdim"]
  close(
    losses["amdim"],
    sum(x for key, x in m.items() if key.startswith("loss_"))
    + 0.1 * 3 * m["mean_square_score"],
  )
  m = metrics["inverter_supervised"]
  close(
    losses["inverter_supervised"], m["latent_mse"] + m["class_cross_entropy"]
  )
  variance = _shown().latents.reshape(-1, _Z).var(axis=0).mean()
  close(m["explained_variance"], 1 - m["latent_mse"] / variance)
  m = metrics["autoencoder"]
  close(
    losses["autoencoder"],
    0.5 * (1 - m["latent_cosine"] + m["class_cross_entropy"])
    + 2 * m["pixel_mse"],
  )
  close(m["pixel_psnr"], 10 * math.log10(4 / m["pixel_mse"]))
  for name, m in metrics.items():
    for key in m.keys() & {
      "contrastive_accuracy",
      "score_accuracy",
      "class_accuracy",
    }:
      assert 0 <= m[key] <= 1, name
    if "embedding_std" in m:
      assert 0.3 < m["embedding_std"] < 1.7, name
  # Views are alike: far above 1/b.
  assert metrics["cmc"]["contrastive_accuracy"] > 0.4
  assert metrics["dim_jsd"].keys() == {
    "score_accuracy",
    "positive_score",
    "negative_score",
  }


def test_levels_of_chance():
  level = {name: _make(name).chance(64, 4) for name in _MADE}
  assert level.pop("supcon") == pytest.approx(math.log(255))
  assert level.pop("cmc") == pytest.approx(6 * 2 * math.log(64))
  assert level.pop("moco_v3") == pytest.approx(4 * 0.3 * math.log(64))
  assert level.pop("classifier") == pytest.approx(math.log(_K))
  assert set(level.values()) == {None}
  core = _build("cmc")
  assert core.chance(64, 4) == pytest.approx(3 * 2 * math.log(64))
  assert core.chance(1, 4) is None
  # What is left of the negatives depends on the labels.
  for name in ("cmc", "moco_v3"):
    masked = _build(name, {"mask_same_class": True})
    assert masked.chance(64, 4) is None


def test_what_they_need():
  made = {name: _make(name) for name in _MADE}
  one_view = {n for n, x in made.items() if x.min_views == 1}
  assert one_view == {
    "dim_jsd",
    "dim_infonce",
    "inverter",
    "inverter_supervised",
    "classifier",
    "supcon",
    "autoencoder",
  }
  assert {x.min_views for x in made.values()} == {1, 2}
  local = {n for n, x in made.items() if "local" in x.requires}
  assert local == {"dim_jsd", "dim_infonce", "amdim"}
  for name in ("simclr", "multi_positive", "cmc", "moco_v3"):
    masked = _build(name, {"mask_same_class": True})
    plain = _build(name)
    assert masked.requires == plain.requires | {"labels"}
  assert "mask_same_class" not in plugins.defaults("objectives", "supcon")
  requires = _build("autoencoder", {"num_classes": 0}).requires
  assert requires == {"latents", "generator"}
  assert made["autoencoder"].requires == requires | {"labels"}


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (("name=simclr", "mask_same_class=True"), "'simclr'.*without labels.*unc"),
    (("name=cmc", "mask_same_class=True"), "'cmc'.*without labels.*uncond"),
    (("name=byol",), "ema_decay: given 0.0.*'byol' needs a target network"),
    (("name=moco_v3", "mask_same_class=True"), "without labels, target"),
    (("name=vicreg",), "num_views: given 1; .*at least 2.*'vicreg'"),
    (("name=inverter",), "latent_dim: given 0.*there is no generator"),
    (("name=autoencoder",), "latent_dim: given 0.*there is no generator"),
    (
      ("name=autoencoder", "latent_dim=3"),
      "without generator, latents, which source 'array'",
    ),
  ],
  ids=lambda x: x[0] if isinstance(x, tuple) else "",
)
def test_what_a_run_does_not_provide(options, words):
  """One line, before anything is compiled."""
  images = "latent_dim" in words or "array" in words
  config = support.tiny(
    *(f"objective.{text}" for text in options),
    f"source.name={'array' if images else 'generator'}",
    f"views.num_views={1 if 'num_views' in words else 2}",
  )
  run = run_lib.Run(config, support.mesh_of(1))
  with pytest.raises(errors.UsageError, match=words) as caught:
    _ = run.objective
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("name", "key", "value"),
  [
    ("cmc", "temperature", 0.0),
    ("cmc", "graph", "ring"),
    ("cmc", "chunk_rows", -1),
    ("cmc", "head_dim", 0),
    ("moco_v3", "temperature", math.nan),
    ("moco_v3", "chunk_rows", 1.5),
    ("byol", "projector_dim", 0),
    ("simsiam", "predictor_hidden", (-3,)),
    ("vicreg", "variance_weight", -25.0),
    ("vicreg", "variance_reduction", "max"),
    ("barlow_twins", "off_diagonal_weight", math.inf),
    ("dim", "measure", "mine"),
    ("dim", "mi_units", 0),
    ("amdim", "clip", -20.0),
    ("amdim", "regularizer", -1.0),
    ("amdim", "coarse_window", 0),
    ("amdim", "rkhs_dim", 0),
    ("inverter", "latent_dim", 0),
    ("classifier", "num_classes", 0),
    ("dim", "chunk_rows", -1),
    ("amdim", "chunk_rows", 2.5),
    ("autoencoder", "pixel_weight", -1.0),
    ("autoencoder", "latent_dim", 0),
    ("autoencoder", "num_classes", -1),
  ],
)
def test_bad_option(name, key, value):
  with pytest.raises(errors.UsageError) as caught:
    _build(name, {key: value})
  message = str(caught.value)
  assert "\n" not in message
  assert message.startswith(f"objective.{key}: given {value!r}; allowed: ")


def test_weights_that_sum_to_zero():
  for name, term in (("vicreg", "covariance"), ("autoencoder", "pixel")):
    known = plugins.defaults("objectives", name)
    zeros = {key: 0.0 for key in known if key.endswith("_weight")}
    words = f"objective: given .*{term}_weight.*; allowed: a weight > 0"
    with pytest.raises(errors.UsageError, match=words):
      _build(name, zeros)


def test_a_supervised_inverter_needs_classes():
  _build("inverter", {"num_classes": 0})
  words = "objective.num_classes: given 0; .*the generator has none"
  with pytest.raises(errors.UsageError, match=words):
    _build("inverter", {"num_classes": 0, "supervised": True})


@pytest.mark.parametrize(
  ("name", "rows"), [("cmc", 8), ("moco_v3", 8), ("amdim", 8), ("dim", 16)]
)
def test_chunk_is_checked_before_anything_runs(name, rows):
  objective = _build(name, {"chunk_rows": 5})
  features = contracts.Features(
    jax.ShapeDtypeStruct((8, 2, 4), "f4"),
    jax.ShapeDtypeStruct((8, 2, 3, 3, 4), "f4"),
  )
  what = "anchors times views" if rows == 16 else "one per anchor"
  words = rf"given 5; .* a divisor of the {rows} rows \({what}\)"
  with pytest.raises(errors.UsageError, match=words):
    objective.init(jax.random.key(0), features)

"""Optimizers against hand-written updates in PyTorch's order."""

import sys

import jax
import ml_collections
import numpy as np
import optax
import pytest

from genrep_jax.lib import errors, optim, plugins

_STEPS = 4


def _config(**changed):
  return ml_collections.ConfigDict({"name": "sgd", **changed})


def _params():
  rng = np.random.default_rng(0)
  return {
    "linear": {
      "bias": rng.normal(size=3).astype(np.float32),
      "kernel": rng.normal(size=(4, 3)).astype(np.float32),
    }
  }


def _grads():
  rng = np.random.default_rng(1)
  return [
    jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), _params()
    )
    for _ in range(_STEPS)
  ]


def _rate(step):
  return 0.1 / (1 + step)


def _run(cfg):
  """Returns the weights after every step."""
  optimizer = optim.make(cfg, _rate)
  params = _params()
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  history = []
  for grads in _grads():
    params, state = step(params, state, grads)
    history.append(params)
  return history


def _twin(update, exempt=()):
  """Runs `update(w, g, t, memory, exempt)` for each leaf, in float64."""
  params = jax.tree.map(np.float64, _params())["linear"]
  memory = {name: {} for name in params}
  history = []
  for t, grads in enumerate(_grads()):
    params = {
      name: update(
        w, np.float64(grads["linear"][name]), t, memory[name], name in exempt
      )
      for name, w in params.items()
    }
    history.append({"linear": params})
  return history


def _assert_same(got, want):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    got,
    want,
  )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("exempt", [(), ("bias",)])
def test_sgd(nesterov, exempt):
  """torch.optim.SGD: g += wd w; v = m v + g; w -= lr (v or g + m v)."""

  def update(w, g, t, memory, exempt):
    g = g + (0 if exempt else 0.2) * w
    memory["v"] = v = 0.9 * memory.get("v", 0.0) + g
    return w - _rate(t) * (g + 0.9 * v if nesterov else v)

  got = _run(_config(weight_decay=0.2, nesterov=nesterov, decay_exclude=exempt))
  _assert_same(got, _twin(update, exempt))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam(name):
  """torch.optim.Adam decays through the gradient, AdamW beside it."""
  b1, b2, eps, decay = 0.8, 0.95, 1e-3, 0.2

  def update(w, g, t, memory, exempt):
    decay_w = (0 if exempt else decay) * w
    if name == "adam":
      g = g + decay_w
    else:
      w = w - _rate(t) * decay_w
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g * g
    m = memory["m"] / (1 - b1 ** (t + 1))
    v = memory["v"] / (1 - b2 ** (t + 1))
    return w - _rate(t) * m / (np.sqrt(v) + eps)

  cfg = _config(
    name=name,
    weight_decay=decay,
    b1=b1,
    b2=b2,
    eps=eps,
    decay_exclude=("bias",),
  )
  _assert_same(_run(cfg), _twin(update, ("bias",)))


def test_lars():
  """You et al. 2017; the excluded leaves are neither decayed nor rescaled."""

  def update(w, g, t, memory, exempt):
    if not exempt:
      g = g + 0.2 * w
      g = g * 0.02 * np.linalg.norm(w) / np.linalg.norm(g)
    memory["v"] = v = 0.9 * memory.get("v", 0.0) + _rate(t) * g
    return w - v

  cfg = _config(
    name="lars",
    weight_decay=0.2,
    trust_coefficient=0.02,
    decay_exclude=("bias$",),
  )
  _assert_same(_run(cfg), _twin(update, ("bias",)))


def test_clipping_is_of_the_whole_gradient_before_the_decay():
  cfg = _config(clip_norm=0.5, momentum=0.0, weight_decay=0.3)
  before = _params()
  after = _run(cfg)[0]
  grads = _grads()[0]
  norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
  assert norm > 0.5
  want = jax.tree.map(
    lambda w, g: w - _rate(0) * (g * 0.5 / norm + 0.3 * w), before, grads
  )
  _assert_same(after, want)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"name": "larss"}, "optimizer.name: given 'larss'.*sgd.*nearest: 'lars'"),
    ({"learning_rate": -1.0}, "learning_rate: given -1.0; allowed: a finite"),
    ({"learning_rate": 1e39}, "learning_rate: given 1e\\+39; allowed"),
    ({"weight_decay": float("nan")}, "weight_decay: given nan"),
    ({"clip_norm": -1.0}, "clip_norm: given -1.0"),
    ({"momentum": 1.0}, "momentum: given 1.0; .* >= 0 and < 1"),
    ({"b1": 0.9}, "optimizer.b1: unknown option"),
    ({"name": "adam", "momentum": 0.9}, "optimizer.momentum: unknown option"),
    ({"name": "adam", "b2": 1.5}, "b2: given 1.5"),
    ({"name": "adamw", "eps": 0.0}, "eps: given 0.0; .* > 0"),
    ({"name": "adamw", "eps": float("inf")}, "eps: given inf"),
    ({"name": "lars", "trust_coefficient": 0.0}, "trust_coefficient: given 0"),
    ({"decay_exclude": ("(",)}, "given \\('\\(',\\); .* a regular expression"),
    ({"decay_exclude": "bias"}, "given 'bias'; allowed: a tuple"),
  ],
)
def test_bad_options(changed, message):
  with pytest.raises(errors.UsageError, match=message) as caught:
    optim.make(_config(**changed), _rate)
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith("optimizer.")


def test_pattern_that_matches_nothing():
  optimizer = optim.make(_config(decay_exclude=("bias", "biass")), _rate)
  words = "optimizer.decay_exclude: given 'biass'; .*'linear/bias'"
  with pytest.raises(errors.UsageError, match=words):
    optimizer.init(_params())


def test_the_entry_stays_as_it_was():
  cfg = _config(momentum=0.5)
  optim.make(cfg, _rate)
  assert cfg.to_dict() == {"name": "sgd", "momentum": 0.5}
  assert plugins.defaults("optimizers", "sgd") == {
    "name": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "learning_rate": 0.03,
    "weight_decay": 1e-4,
    "decay_exclude": (),
    "clip_norm": 0.0,
  }


@pytest.fixture
def foreign(tmp_path, monkeypatch):
  """A module outside the package: signs of gradients, and decay."""
  (tmp_path / "my_lab").mkdir()
  (tmp_path / "my_lab" / "signs.py").write_text(
    "import jax, jax.numpy as jnp, optax\n"
    "from genrep_jax.lib import options\n"
    "OPTIONS = {'factor': options.number(2.0, 'of a sign', low=0)}\n"
    "def make(cfg, schedule, decayed):\n"
    "  return optax.chain(\n"
    "    optax.stateless(lambda g, w: jax.tree.map(\n"
    "      lambda x: cfg.factor * jnp.sign(x), g)),\n"
    "    optax.add_decayed_weights(cfg.weight_decay, decayed),\n"
    "    optax.scale_by_learning_rate(schedule))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  yield "my_lab.signs"
  for name in ("my_lab", "my_lab.signs"):
    sys.modules.pop(name, None)


def test_an_optimizer_from_outside(foreign):
  def update(w, g, t, memory, exempt):
    return w - _rate(t) * (3 * np.sign(g) + (0 if exempt else 0.2) * w)

  cfg = _config(
    name=foreign, factor=3.0, weight_decay=0.2, decay_exclude=("bias",)
  )
  _assert_same(_run(cfg), _twin(update, ("bias",)))
  with pytest.raises(errors.UsageError, match="optimizer.factor: given -1"):
    optim.make(_config(name=foreign, factor=-1.0), _rate)
  sys.modules[foreign].make = lambda *_: 3
  with pytest.raises(errors.PluginError, match="my_lab.signs: .* int; allowed"):
    optim.make(_config(name=foreign), _rate)


def test_ema():
  average = {"w": np.float32([1, 2]), "count": np.int32(3)}
  new = {"w": np.float32([3, -2]), "count": np.int32(9)}
  got = jax.jit(optim.ema)(average, new, 0.75, 5)
  np.testing.assert_allclose(got["w"], [1.5, 1.0], rtol=1e-6)
  assert got["count"] == 9 and got["w"].dtype == np.float32


def test_ema_warmup():
  """min(decay, (1 + t) / (10 + t)): 0.1 at the first update."""
  average, new = np.float32(1), np.float32(0)
  step = jax.jit(lambda t: optim.ema(average, new, 0.9, t, warmup=True))
  for t, decay in ((0, 0.1), (8, 0.5), (80, 0.9), (1000, 0.9)):
    np.testing.assert_allclose(step(np.int32(t)), decay, rtol=1e-6)


def test_the_decay_of_a_target_rises_along_half_a_cosine():
  decay = optim.ramp(0.96, 1.0, 100)
  np.testing.assert_allclose(decay(0), 0.96, rtol=1e-6)
  np.testing.assert_allclose(decay(50), 0.98, rtol=1e-6)
  np.testing.assert_allclose(decay(100), 1.0, rtol=1e-6)
  # BYOL's formula: 1 - (1 - start) (cos(pi k / K) + 1) / 2.
  expected = 1 - 0.04 * (np.cos(np.pi * 0.3) + 1) / 2
  np.testing.assert_allclose(decay(30), expected, rtol=1e-6)
  assert optim.ramp(0.99, -1.0, 100)(77) == 0.99

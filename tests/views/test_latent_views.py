"""T_z, continued: angular, uniform, group-wise and mixed latent views."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import configs, contracts, errors, plugins, rng
from tests import fixture_files

LAWS = fixture_files.arrays("latents.npz")
META = json.loads(str(LAWS["meta"]))
REPO = pathlib.Path(__file__).resolve().parents[2]
DIM, ANCHORS, SOME = 24, 4000, 200


def sample(key):
  z = rng.truncated_normal(jax.random.fold_in(key, 0), (DIM,))
  return z, jnp.int32(0)


GENERATOR = contracts.Generator(
  (4, 4), 1, DIM, 0, None, sample, lambda v, z, y: None
)


@functools.cache
def anchors():
  """Anchors z [ANCHORS, DIM], their classes, and the keys of their views."""
  index = jnp.arange(ANCHORS, dtype=jnp.uint32)
  z, y = jax.vmap(sample)(rng.per_index(rng.stream(0, "sample"), index))
  return z, y, rng.per_index(rng.stream(0, "latent_view"), index)


def make(name, **options):
  return plugins.make("views/latent", {"name": name, **options}, GENERATOR)


def batched(view, count=ANCHORS):
  """The views of the first `count` anchors.

  Not jitted, and always of few shapes: compiling each view of this file would
  take most of its time. `test_pure...` says that jitting changes nothing.
  """
  z, y, keys = anchors()
  return np.asarray(jax.vmap(view)(keys[:count], z[:count], y[:count]))


def pairs(name, **options):
  return np.asarray(anchors()[0]), batched(make(name, **options))


def inner_draws(view, fold, columns, count=SOME):
  """What `view` gives on some columns under the keys fold_in(key, fold)."""

  def one(key, z, y):
    return view(jax.random.fold_in(key, fold), z[columns], y)

  return batched(one, count)


EVERY = {
  "angular": {"sigma": 0.5},
  "ball": {"sigma": 0.5},
  "groups": {
    "num_groups": 4,
    "groups": (1, 3),
    "sigma": (0.3, 0.9),
    "inner": {"name": "angular"},
  },
  "mixture": {
    "views": {
      "gaussian": {"sigma": 0.4},
      "turned": {"name": "angular", "weight": 2.0},
      "parts": {"name": "groups", "num_groups": 4},
    }
  },
}


def test_pure_and_the_same_compiled_alone_and_in_a_batch():
  # Several views in one: compiling takes longer than everything else.
  parts = {"name": "groups", "num_groups": 4, "inner": {"name": "angular"}}
  view = make("mixture", views={"ball": {"sigma": 0.5}, "parts": parts})
  got = batched(view, SOME)
  arguments = tuple(
    x[:SOME] for x in (anchors()[2], anchors()[0], anchors()[1])
  )
  # A draw is the same bits; sums and products are ordered as XLA likes.
  for way in (jax.vmap(view), lambda *x: jax.lax.map(lambda r: view(*r), x)):
    way = jax.jit(way)
    again = way(*arguments)
    np.testing.assert_array_equal(way(*arguments), again)
    np.testing.assert_allclose(again, got, rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_types(name):
  view = make(name, **EVERY[name])
  for dtype in (jnp.float32, jnp.bfloat16):
    z = jax.ShapeDtypeStruct((DIM,), dtype)
    got = jax.eval_shape(view, jax.random.key(0), z, jnp.int32(0))
    assert (got.shape, got.dtype) == (z.shape, dtype)
  moved = batched(view, SOME)
  assert len(np.unique(moved[:, -1])) == SOME


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_finite_at_anchors_and_at_zero(name):
  view = make(name, **EVERY[name])
  z, y, keys = anchors()
  z = z[:SOME].at[0].set(0.0)
  weight = jnp.arange(DIM) - 3.0
  moved, pull = jax.vjp(lambda z: jax.vmap(view)(keys[:SOME], z, y[:SOME]), z)
  assert np.isfinite(moved).all()
  got = np.asarray(pull(jnp.broadcast_to(weight, z.shape))[0])
  assert np.isfinite(got).all() and np.abs(got[1:]).max(axis=1).min() > 0


@pytest.mark.parametrize("name", ["angular", "ball"])
def test_sigma_zero_is_the_identity(name):
  z, moved = pairs(name, sigma=0.0)
  np.testing.assert_array_equal(moved, z)


@pytest.mark.parametrize("truncation", [2.0, 0.0])
def test_angular_equals_its_slow_twin(truncation):
  options = {"sigma": 0.7, "truncation": truncation}
  z, moved = pairs("angular", **options)
  _, shifted = pairs("gaussian", **options)  # z + w of the same keys
  for one, sum_, got in list(zip(z, shifted, moved, strict=True))[:100]:
    norm = math.sqrt(sum(float(x) ** 2 for x in one))
    other = math.sqrt(sum(float(x) ** 2 for x in sum_))
    expected = [float(x) * norm / other for x in sum_]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_angular_keeps_each_norm_and_turns_by_the_law():
  z, moved = pairs("angular", sigma=1.0)
  norms = np.linalg.norm(z, axis=1)
  # Per sample: the original's one factor for all would spread the ratios.
  np.testing.assert_allclose(np.linalg.norm(moved, axis=1), norms, rtol=1e-6)
  assert norms.std() > 0.1
  cosine = np.sum(z * moved, axis=1) / norms**2
  assert cosine.std() > 0.01
  # cos(z, z + w) of the whole draw, whose law is recorded: scales cancel.
  _, shifted = pairs("gaussian", sigma=1.0)
  for other in (moved, shifted):
    correlation = np.corrcoef(z.ravel(), other.ravel())[0, 1]
    expected = float(LAWS["out/positive_sigma1/corr_with_anchor"])
    # The mean cosine lies O(1/DIM) off the correlation of coordinates.
    assert abs(correlation - expected) < 5 / np.sqrt(z.size) + 0.25 / DIM
  assert abs(cosine.mean() - expected) < 0.5 / DIM


def test_angular_leaves_zero_and_does_not_underflow_into_nan():
  view = make("angular", sigma=0.0)
  key = jax.random.key(0)
  for size in (0.0, 1e-30):
    got = view(key, jnp.full((DIM,), size), 0)
    assert np.isfinite(got).all() and np.abs(got).max() <= 2 * size
  assert not np.any(make("angular")(key, jnp.zeros(DIM), 0))


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_ball_is_a_cube_of_standard_deviation_sigma(sigma):
  z, moved = pairs("ball", sigma=sigma)
  noise = np.sort(np.float64(moved - z).ravel())
  half, n = sigma * math.sqrt(3), noise.size
  assert abs(noise.mean()) < 5 * sigma / math.sqrt(n)
  # A uniform law has excess kurtosis -1.2.
  assert abs(noise.var() / sigma**2 - 1) < 5 * math.sqrt(0.8 / n)
  assert -half - 1e-6 <= noise[0] and noise[-1] <= half + 1e-6
  assert np.ptp(noise) > 0.999 * 2 * half
  ecdf = np.arange(1, n + 1) / n
  assert np.abs(ecdf - (noise + half) / (2 * half)).max() < 1.95 / math.sqrt(n)
  # Independent of the anchor, whose recorded law gives the sum's variance.
  variance = float(LAWS["out/anchor_t2_sigma1/var"]) + sigma**2
  assert abs(moved.var() / variance - 1) < 5 * math.sqrt(2 / n)
  # No ball: the coordinates do not know of one another.
  w = np.asarray(moved - z)
  squares = np.corrcoef((w**2).T) - np.eye(DIM)
  assert np.abs(squares).max() < 5 / math.sqrt(ANCHORS)


def test_groups_move_alone_and_the_others_keep_their_bits():
  z, moved = pairs("groups", num_groups=4, groups=(1, 3))
  parts, before = (x.reshape(ANCHORS, 4, 6) for x in (moved, z))
  np.testing.assert_array_equal(parts[:, (0, 2)], before[:, (0, 2)])
  noise = np.sort(np.float64(parts - before)[:, (1, 3)].ravel())
  law = "noise_t2_sigma0p2"
  n, variance = noise.size, float(LAWS[f"out/{law}/var"])
  kurtosis = float(LAWS[f"out/{law}/excess_kurtosis"])
  assert abs(noise.mean()) < 5 * math.sqrt(variance / n)
  assert abs(noise.var() / variance - 1) < 5 * math.sqrt((kurtosis + 2) / n)
  ecdf = np.searchsorted(noise, LAWS[f"in/{law}/x"], side="right") / n
  expected = LAWS[f"out/{law}/cdf"]
  np.testing.assert_allclose(ecdf, expected, rtol=0, atol=1.95 / math.sqrt(n))
  low, high = META["laws"][law]["support"]
  assert low - 1e-6 <= noise[0] and noise[-1] <= high + 1e-6
  # Each group has noise of its own.
  w = parts - before
  assert abs(np.corrcoef(w[:, 1].ravel(), w[:, 3].ravel())[0, 1]) < 0.04


def test_a_group_does_not_know_which_others_move():
  together = batched(make("groups", num_groups=4, groups=(2, 0)), SOME)
  single = batched(make("groups", num_groups=4, groups=(2,)), SOME)
  np.testing.assert_array_equal(together[:, 6:], single[:, 6:])
  assert np.all(together[:, :6] != single[:, :6])
  # One group is the inner view itself, under the key of group 0.
  whole = batched(make("groups"), SOME)
  expected = inner_draws(make("gaussian"), 0, slice(0, DIM))
  np.testing.assert_array_equal(whole, expected)


def test_sigma_per_group_and_for_all():
  inner = {"name": "ball", "sigma": 5.0}
  options = {"num_groups": 4, "groups": (3, 1), "inner": inner}
  own = batched(make("groups", sigma=(0.1, 2.0), **options), SOME)
  for group, sigma in ((3, 0.1), (1, 2.0)):
    columns = slice(6 * group, 6 * group + 6)
    expected = inner_draws(make("ball", sigma=sigma), group, columns)
    np.testing.assert_array_equal(own[:, columns], expected)
  alike = batched(make("groups", sigma=(0.3, 0.3), **options), SOME)
  for sigma in ((0.3,), 0.3):
    got = batched(make("groups", sigma=sigma, **options), SOME)
    np.testing.assert_array_equal(got, alike)
  inner["sigma"] = 0.3
  got = batched(make("groups", **options), SOME)
  np.testing.assert_array_equal(got, alike)


def test_groups_of_other_views():
  z = np.asarray(anchors()[0])[:SOME]
  turned = batched(
    make("groups", num_groups=4, groups=(1,), inner={"name": "angular"}), SOME
  )
  np.testing.assert_allclose(
    np.linalg.norm(turned[:, 6:12], axis=1),
    np.linalg.norm(z[:, 6:12], axis=1),
    rtol=1e-6,
  )
  # The group of a fresh latent, in that group's place.
  fresh = batched(
    make("groups", num_groups=4, groups=(1,), inner={"name": "independent"}),
    SOME,
  )
  expected = inner_draws(make("independent"), 1, slice(0, DIM))
  np.testing.assert_array_equal(fresh[:, 6:12], expected[:, 6:12])


FLAGGED = {  # three views that leave marks, and one that may never be drawn
  "a": {"name": "none", "weight": 1},
  "b": {"name": "ball", "weight": 0.5},
  "never": {"name": "independent", "weight": 0.0},
  "z": {"name": "gaussian", "sigma": 0.01, "weight": 2.5},
}


def chosen(views):
  """Which of a, b, z of FLAGGED each anchor got, by how far it moved."""
  z, moved = pairs("mixture", views=views)
  far = np.abs(moved - z).max(axis=1)
  assert far.max() < 0.2 * math.sqrt(3) + 1e-6  # never: it would be farther
  return np.where(far == 0, 0, np.where(far > 0.03, 1, 2))


def test_mixture_frequencies_and_order_of_the_entries():
  choice = chosen(FLAGGED)
  for index, weight in enumerate((1, 0.5, 2.5)):
    p = weight / 4
    error = math.sqrt(p * (1 - p) / ANCHORS)
    assert abs(np.mean(choice == index) - p) < 5 * error
  np.testing.assert_array_equal(
    choice, chosen(dict(reversed(list(FLAGGED.items()))))
  )
  # Weights count relative to one another.
  scaled = {k: {**v, "weight": 1e30 * v["weight"]} for k, v in FLAGGED.items()}
  np.testing.assert_array_equal(choice, chosen(scaled))


def test_a_weight_of_zero_is_never_drawn_wherever_it_stands():
  for label in ("0", "m", "zz"):
    views = {"a": {"name": "none"}, "n": {"name": "none"}}
    views[label] = {"name": "ball", "sigma": 1.0, "weight": 0.0}
    z, moved = pairs("mixture", views=views)
    np.testing.assert_array_equal(moved, z)


def test_a_mixture_is_its_components_under_their_key():
  only = batched(make("mixture", views={"angular": {"sigma": 0.4}}), SOME)
  expected = inner_draws(make("angular", sigma=0.4), 1, slice(0, DIM))
  np.testing.assert_array_equal(only, expected)
  # Every draw of a real mixture is one of its components', and all occur.
  views = {"angular": {"sigma": 0.4}, "ball": {"sigma": 0.5}}
  mixed = batched(make("mixture", views=views), SOME)
  other = inner_draws(make("ball", sigma=0.5), 1, slice(0, DIM))
  is_first = np.all(mixed == expected, axis=1)
  is_second = np.all(mixed == other, axis=1)
  assert np.all(is_first ^ is_second) and is_first.any() and is_second.any()


def test_the_gradient_of_a_mixture_is_that_of_the_drawn_view():
  view = make("mixture", views={"none": {}, "independent": {}})
  z, y, keys = (x[:SOME] for x in anchors())
  moved, pull = jax.vjp(lambda z: jax.vmap(view)(keys, z, y), z)
  same = np.all(moved == z, axis=1)
  assert 0 < same.sum() < SOME
  (got,) = pull(jnp.ones_like(z))
  np.testing.assert_array_equal(got, np.tile(same[:, None], (1, DIM)))


def six(**options):
  return {"num_groups": 6, **options}


REFUSED = [
  ("angular", {"sigma": -0.1}, "sigma: given -0.1; allowed: .* >= 0"),
  ("angular", {"truncation": math.inf}, "truncation: given inf"),
  ("ball", {"sigma": math.nan}, "sigma: given nan; allowed: .* >= 0"),
  ("groups", {"num_groups": 7}, "num_groups: given 7; .*a divisor of .* 24"),
  ("groups", {"num_groups": 0}, "num_groups: given 0"),
  ("groups", six(groups=(1, 6)), r"groups: given \(1, 6\); .* 0\.\.5"),
  ("groups", six(groups=(-1,)), r"groups: given \(-1,\); allowed: .* 0\.\."),
  ("groups", six(groups=(0.5,)), r"groups: given \(0.5,\)"),
  ("groups", six(groups=()), r"groups: given \(\); allowed: .*at least 1"),
  ("groups", six(groups=(2, 2)), r"groups: given \(2, 2\); .*each once"),
  (
    "groups",
    six(groups=(1, 2, 3), sigma=(0.1, 0.2)),
    r"sigma: given \(0.1, 0.2\); allowed: 1 number, or 3: one per group",
  ),
  ("groups", {"sigma": (-0.1,)}, r"sigma: given \(-0.1,\)"),
  (
    "groups",
    {"sigma": 0.1, "inner": {"name": "none"}},
    r"sigma: .*\(\): the view 'none' has none",
  ),
  ("groups", {"inner": {"name": "bal"}}, "inner.name: .*nearest: 'ball'"),
  ("groups", {"inner": {"sigmma": 1}}, "inner.sigmma: unknown .*'sigma'"),
  ("groups", {"inner": "ball"}, "inner: given 'ball'; allowed: a dictionary"),
  ("groups", {"inner": {"name": "adversarial"}}, "inner.name: .*not learn"),
  ("mixture", {}, "views: given {}; allowed: at least one view"),
  (
    "mixture",
    {"views": {"a": {"name": "none", "weight": -1}}},
    "views.a.weight: given -1; .*>= 0",
  ),
  (
    "mixture",
    {"views": {"none": {"weight": math.inf}}},
    "views.none.weight: given inf",
  ),
  (
    "mixture",
    {"views": {"none": {"weight": 0}, "ball": {"weight": 0.0}}},
    "views: given {'ball': 0.0, 'none': 0}; .*positive weight",
  ),
  ("mixture", {"views": {"gauss": {}}}, "views.gauss.name: .*'gaussian'"),
  (
    "mixture",
    {"views": {"ball": {"truncation": 2.0}}},
    "views.latent.views.ball.truncation: unknown option; allowed: sigma, weigh",
  ),
  ("mixture", {"views": {"steered": {}}}, "renamed: 'walks'"),
]


@pytest.mark.parametrize("name, options, line", REFUSED)
def test_refused_in_one_line(name, options, line):
  with pytest.raises(errors.UsageError, match=line) as raised:
    make(name, **options)
  assert "\n" not in str(raised.value)
  assert str(raised.value).startswith("views.latent.")


EXPERIMENT = """
from configs import common

def get_config():
  c = common.get_config()
  c.generator.name = "small"
  c.views.latent.name = "mixture"
  c.views.latent.views = {
    "near": {"name": "gaussian", "sigma": 0.1},
    "parts": {"name": "groups", "num_groups": 4, "groups": (2,), "weight": 3},
  }
  return c
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(REPO)
  file = tmp_path / "nested.py"
  file.write_text(EXPERIMENT)
  return lambda *overrides: configs.load(str(file), overrides)


def test_nested_options_are_filled_in_and_overridden(experiment):
  at = "views.latent.views"
  cfg = experiment(
    f"{at}.near.sigma=0.25",
    f"{at}.near.weight=0",
    f"{at}.parts.groups=(0,3)",
    f"{at}.parts.sigma=(0.5,1.5)",
    f"{at}.parts.inner.truncation=0",
  )
  views = cfg.views.latent.views
  assert views.near.to_dict() == {
    "name": "gaussian",
    "sigma": 0.25,
    "truncation": 2.0,
    "weight": 0.0,
  }
  assert views.parts.to_dict() == {
    "name": "groups",
    "num_groups": 4,
    "groups": (0, 3),
    "sigma": (0.5, 1.5),
    "inner": {"name": "gaussian", "sigma": 0.2, "truncation": 0.0},
    "weight": 3,
  }
  before = cfg.to_json()
  got = batched(plugins.make("views/latent", cfg.views.latent, GENERATOR), SOME)
  assert cfg.to_json() == before and cfg.is_locked
  moved = (got != np.asarray(anchors()[0])[:SOME]).reshape(SOME, 4, 6)
  assert moved[:, (0, 3)].all() and not moved[:, (1, 2)].any()
  view = "views.latent"
  one = experiment(f"{view}.name=groups", f"{view}.inner.sigma=0.5")
  assert one.views.latent.inner.sigma == 0.5


def test_nested_options_that_do_not_exist_are_refused(experiment):
  at = "views.latent.views.parts"
  with pytest.raises(errors.UsageError, match="nearest: .*inner.sigma"):
    experiment(f"{at}.inner.simga=1")
  # An inner view's name on the command line starts it afresh.
  cfg = experiment(f"{at}.inner.name=ball")
  inner = cfg.views.latent.views.parts.inner
  assert inner.to_dict() == {"name": "ball", "sigma": 0.2}
  cfg.unlock()
  inner.color = 1
  with pytest.raises(errors.UsageError, match=f"{at}.inner.color: unknown"):
    configs.complete(cfg)


def test_none_may_be_an_entry():
  view = make("mixture", views={"none": {}})
  z, y, keys = anchors()
  np.testing.assert_array_equal(view(keys[0], z[0], y[0]), z[0])

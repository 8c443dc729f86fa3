"""The FID InceptionV3 and the inception score against recorded numbers."""

import functools

import jax
import numpy as np
import pytest

from genrep_jax.evaluations import _inception, inception_score
from genrep_jax.lib import errors, mesh as mesh_lib, weights
from tests import fixture_files
from tests.evaluations import toy_judge

PIPELINES = {"clean": "cleanfid", "tf": "tf1", "halfpixel": "halfpixel"}


@pytest.fixture(scope="module")
def recorded():
  return fixture_files.arrays("inception_fid.npz")


def state(recorded, part):
  start = f"state/{part}/"
  return {
    key.removeprefix(start): x
    for key, x in recorded.items()
    if key.startswith(start)
  }


def published():
  lines = fixture_files.path("inception_fid_keys.txt").read_text().splitlines()
  for line in lines:
    if not line.startswith("#"):
      key, shape = line.split("\t")
      yield key, tuple(int(n) for n in shape.strip("()").split(",") if n)


@pytest.mark.parametrize("image", ["up", "down"])
@pytest.mark.parametrize("resize", PIPELINES)
def test_resizing(recorded, image, resize):
  levels = recorded[f"in/{image}/uint8"][None].astype(np.float32)
  got = jax.jit(functools.partial(_inception.resized, resize=resize))(levels)
  expected = recorded[f"out/{image}/resize_{PIPELINES[resize]}"]
  np.testing.assert_allclose(
    np.asarray(got)[0, ::13, ::13], expected, rtol=0, atol=1e-3
  )


def test_what_the_network_is_shown():
  side = (_inception.SIDE, _inception.SIDE)
  levels = np.broadcast_to(
    np.float32([0, 128, 255]), (1, *side, 3)
  )  # of its own size: nothing is resized
  tf, clean, half = (
    np.asarray(_inception.scaled(levels, resize))[0, 5, 7]
    for resize in ("tf", "clean", "halfpixel")
  )
  np.testing.assert_allclose(tf, [-1, 0, 127 / 128], atol=1e-6)
  np.testing.assert_allclose(clean, tf, atol=1e-6)
  np.testing.assert_allclose(half, [-1, 2 * 128 / 255 - 1, 1], atol=1e-6)


BLOCKS = {
  "A": lambda conv, x: _inception.block_a(conv, x, 0),
  "B": _inception.block_b,
  "C": lambda conv, x: _inception.block_c(conv, x, 0),
  "D": _inception.block_d,
  "E_1": lambda conv, x: _inception.block_e(conv, x, _inception.average),
  "E_2": lambda conv, x: _inception.block_e(conv, x, _inception.maximum_same),
}


def test_blocks(recorded):
  params = {
    name: _inception.convert(state(recorded, f"block{name}")) for name in BLOCKS
  }
  shown = {name: recorded[f"in/block{name}"] for name in BLOCKS}

  @jax.jit
  def run(params, shown):
    return {
      name: block(_inception.layer(params[name]), shown[name])
      for name, block in BLOCKS.items()
    }

  for name, got in run(params, shown).items():
    expected = recorded[f"out/block{name}"]
    np.testing.assert_allclose(
      got, expected, rtol=0, atol=1e-4 * expected.std(), err_msg=name
    )


def test_the_network(recorded):
  params = _inception.convert(state(recorded, "net"))

  @jax.jit
  def run(params, images):  # one program, three pipelines
    return [_inception.pooled(params, x) for x in images]

  levels = recorded["in/up/uint8"][None].astype(np.float32)
  shown = [_inception.scaled(levels, resize) for resize in PIPELINES]
  for name, maps in zip(PIPELINES.values(), run(params, shown)):
    for width, got in zip((64, 192, 768, 2048), maps):
      key = f"out/up/{name}/pool{width}"
      if key in recorded:
        expected = recorded[key]
        np.testing.assert_allclose(
          got[0], expected, rtol=0, atol=1e-3 * expected.std(), err_msg=key
        )
    if name == "tf1":
      expected = recorded["out/up/tf1/logits_unbiased"]
      np.testing.assert_allclose(
        maps[-1][0] @ params["fc"], expected, rtol=0, atol=1e-3 * expected.std()
      )


def test_the_published_file_and_no_other(tmp_path):
  arrays = {
    key: np.broadcast_to(np.float32(0), shape) for key, shape in published()
  }
  assert len(arrays) == 566
  used = _inception.check(arrays)
  assert sum(x.size for k, x in used.items() if "running" not in k) == 23850960
  assert _inception.check(used).keys() == used.keys()  # no counts of batches
  for change, expected in [
    ({"AuxLogits.fc.weight": np.zeros(3)}, "unexpected AuxLogits.fc.weight"),
    ({"fc.bias": np.zeros(1000)}, "mis-shaped fc.bias"),
    ({"fc.bias": np.full(1008, np.nan)}, "not finite fc.bias"),
  ]:
    with pytest.raises(errors.UsageError, match=expected):
      _inception.check({**arrays, **change})
  del arrays["Mixed_7c.branch_pool.bn.bias"]
  with pytest.raises(errors.UsageError, match="missing Mixed_7c.branch_pool"):
    _inception.check(arrays)


def test_evaluations_with_inception(recorded, tmp_path, monkeypatch):
  # A thin network stands in for the 95 MB of the published one.
  thin = state(recorded, "net")
  shapes = {k: x.shape for k, x in thin.items() if x.shape != ()}
  monkeypatch.setattr(_inception, "expected", lambda: shapes)
  monkeypatch.setattr(_inception, "FEATURES", 128)
  path = tmp_path / "thin.safetensors"
  digest = weights.save(path, {k: np.asarray(x) for k, x in thin.items()})
  options = {
    "features": "inception",
    "weights": str(path),
    "sha256": digest,
    "samples": 4,
    "batch": 8,
    "resize": "tf",
  }
  found, made = toy_judge.run("fid", dataset=few, **options)
  assert made.headline == "fid_inception_tf_4"
  # What it sees of the generated images is what it sees of the real ones.
  assert abs(found["fid_inception_tf_4"]) < 1e-4
  with pytest.raises(errors.UsageError, match="has sha256"):
    toy_judge.run("fid", **{**options, "sha256": "0" * 64})
  with pytest.raises(errors.UsageError, match="weights: given ''"):
    toy_judge.run("fid", features="inception")
  with pytest.raises(errors.UsageError, match="weights: given 'x'"):
    toy_judge.run("fid", weights="x")


@functools.cache
def few():
  whole = toy_judge.dataset()
  first = type(whole.test)(*(x[:4] for x in whole.test))
  return type(whole)("few", 2, (), whole.train, first)


def test_inception_score_recorded_and_closed(recorded):
  from genrep_jax.evaluations import _calibration

  shares = _calibration.softmax(recorded["in/metrics/logits"])
  for splits in (1, 10):
    mean, std = inception_score.inception_score(shares, splits=splits)
    for name, got in (("mean", mean), ("std", std)):
      np.testing.assert_allclose(
        got,
        recorded[f"out/metrics/is_{name}_splits{splits}"],
        rtol=1e-6,
        atol=1e-12,
      )
  one_hot = np.eye(2)[[0, 0, 0, 1]]
  mean, std = inception_score.inception_score(one_hot, splits=1)
  np.testing.assert_allclose((mean, std), (1.754765, 0), atol=1e-6)
  soft = [[0.9, 0.1], [0.1, 0.9]]
  mean, _ = inception_score.inception_score(soft, splits=1)
  np.testing.assert_allclose(mean, 1.444935, atol=1e-6)
  same = np.full((8, 4), 0.25)
  assert inception_score.inception_score(same, splits=2)[0] == pytest.approx(1)


def test_the_score_of_a_generator():
  found, made = toy_judge.run("inception_score", splits=2)
  assert made.headline == "inception_score_classifier_40_splits2"
  assert 1.5 < found[made.headline] <= 2  # two classes, well told apart
  noise, _ = toy_judge.run("inception_score", splits=2, noise=3.0)
  assert noise[made.headline] < found[made.headline]
  assert mesh_lib.make_mesh().size == 8
  with pytest.raises(errors.UsageError, match="splits: given 41"):
    toy_judge.run("inception_score", splits=41)

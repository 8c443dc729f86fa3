"""SGD probes: heads side by side, schedules, augmentation, the plug-in."""

import jax
import numpy as np
import pytest

from genrep_jax.evaluations import linear_sgd
from genrep_jax.lib import contracts, errors
from tests.evaluations import probes


def test_presets_are_what_their_papers_say():
  presets = linear_sgd.PRESETS
  assert len(presets["dinov2"].learning_rates) == 13
  assert len(presets["stablerep"].learning_rates) == 10
  rates = linear_sgd.rates(presets["moco"], 256)[:, 0]
  assert rates[[59, 60, 79, 80, 99]] == pytest.approx([30, 3, 3, 0.3, 0.3])
  rates = linear_sgd.rates(presets["genrep"], 300)[:, 0]  # two steps an epoch
  assert rates[[119, 120]] == pytest.approx([0.06, 0.012])
  assert rates[-1] == pytest.approx(0.06 * 0.2**3)
  rates = linear_sgd.rates(presets["simclr"], 4096)[:, 0]
  assert rates[[0, 45]] == pytest.approx([1.6, 0.8])  # .1 x 4096 / 256


def test_orders_and_starts():
  order = linear_sgd.orders(7, 3, 0)
  np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(7), (3, 1)))
  assert (order[0] != order[1]).any()
  np.testing.assert_array_equal(order, linear_sgd.orders(7, 3, 0))
  weights, bias = linear_sgd.start(0, 2, 4000, 3)
  assert weights.shape == (2, 3, 4000) and not bias.any()
  np.testing.assert_array_equal(weights[0], weights[1])
  assert weights.std() == pytest.approx(0.01, rel=0.05)


def test_a_flip_is_drawn_for_each_image_and_epoch():
  change = jax.jit(linear_sgd.augmentation("flip", 0, (2, 3, 1), 0))
  images = np.arange(6.0, dtype=np.float32).reshape(2, 3, 1) / 6
  many = np.broadcast_to(images, (64, 2, 3, 1))
  index = np.arange(64, dtype=np.int32)
  first, second = (np.asarray(change(many, index, e)) for e in (0, 1))
  flipped = [(x == images[:, ::-1]).all() for x in first]
  assert all(f or (x == images).all() for f, x in zip(flipped, first))
  assert 20 < sum(flipped) < 44 and (first != second).any()
  some = np.asarray(change(many[:3], index[5:8], 0))
  np.testing.assert_array_equal(some, first[5:8])  # whatever the batch


def test_crops_keep_the_range_and_need_a_square():
  change = jax.jit(linear_sgd.augmentation("rrc", 0, (6, 6, 1), 0))
  images = np.random.default_rng(0).uniform(-1, 1, (8, 6, 6, 1))
  index = np.arange(8, dtype=np.int32)
  got = np.asarray(change(np.float32(images), index, 0))
  assert got.shape == (8, 6, 6, 1) and np.abs(got).max() <= 1
  assert np.abs(got - images).max() > 0.1
  constant = np.asarray(change(np.full((8, 6, 6, 1), -0.3, "f4"), index, 0))
  np.testing.assert_allclose(constant, -0.3, atol=1e-6)
  with pytest.raises(
    errors.UsageError, match="augment: given 'rrc of images 4"
  ):
    linear_sgd.augmentation("rrc", 0, (4, 6, 1), 0)


@pytest.fixture
def make(monkeypatch):
  return probes.maker(
    monkeypatch, "linear_sgd", epochs=30, sgd_batch=16, held_out_share=0.5
  )


def test_the_plug_in(make):
  made = make()
  results = dict(made.run({}))
  assert set(results) == {
    "linear_sgd_dinov2_accuracy",
    "linear_sgd_dinov2_learning_rate",
    "linear_sgd_dinov2_held_out_accuracy",
  }
  assert results[made.headline] > 0.9
  assert results["linear_sgd_dinov2_held_out_accuracy"] > 0.9
  assert dict(made.run({})) == results  # same bits
  one = make(preset="moco")
  assert dict(one.run({})) == {"linear_sgd_moco_accuracy": 1.0}


def test_test_labels_choose_nothing(make):
  whole = probes.toy()
  wrong = whole.test._replace(labels=(whole.test.labels + 1) % 3)
  spoilt = contracts.Dataset("toy", 3, (), whole.train, wrong)
  honest, result = (dict(make(d).run({})) for d in (whole, spoilt))
  assert result.pop("linear_sgd_dinov2_accuracy") < 0.1
  honest.pop("linear_sgd_dinov2_accuracy")
  assert result == honest


def test_augmented_images_are_encoded_once_an_epoch(make):
  seen = []

  def encode(variables, images):
    jax.debug.callback(
      lambda x: seen.append(np.array(x)), images.sum((1, 2, 3))
    )
    return probes.raw_pixels(variables, images)

  made = make(encode=encode, preset="moco", augment="flip", epochs=3)
  assert dict(made.run({}))["linear_sgd_moco_accuracy"] > 0.9
  jax.effects_barrier()
  # 60 rows in two batches: train and test once, and train in three epochs.
  assert len(seen) == 2 * 2 + 3 * 2
  assert "on augmented features, 3 epochs" in made.about


@pytest.mark.parametrize(
  "options, expected",
  [
    ({"preset": "mine"}, "here.preset: given 'mine'; allowed: one of genrep,"),
    ({"learning_rates": (0.1, 0.1)}, "here.learning_rates: given (0.1, 0.1)"),
    ({"learning_rates": (0.0,)}, "here.learning_rates: given (0.0,)"),
    ({"epochs": -1}, "here.epochs: given -1"),
    (
      {"augment": "jitter"},
      "here.augment: given 'jitter'; allowed: one of non",
    ),
    ({"train_limit": 3}, "here.learning_rates: given (1e-05, "),
  ],
)
def test_bad_input(make, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    make(**options)
  assert expected in str(caught.value)

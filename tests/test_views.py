"""Which latents and which images a step shows: anchors, pools, T_x by view."""

import dataclasses

import jax
import numpy as np
import pytest

from genrep_jax.encoders import small as small_encoder
from genrep_jax.lib import (
  configs,
  errors,
  execution,
  heads,
  plugins,
  rendering,
  rng,
)
from genrep_jax.objectives import simclr
from tests import support

TINY = ("global_batch=8", "sampler.num_anchors=8")


def generator(config):
  return plugins.make("generators", config.generator, dtype=np.float32)


def test_a_finite_virtual_data_set_repeats_its_anchors_but_not_its_views():
  config = support.tiny("sampler.num_anchors=16", "global_batch=16")
  first, second = (support.shown(config, 1, s) for s in (0, 1))
  np.testing.assert_array_equal(first[0][:, 0], second[0][:, 0])
  assert np.abs(first[0][:, 1] - second[0][:, 1]).max() > 1e-3
  endless = support.shown(support.tiny("global_batch=16"), 1, 1)
  assert np.abs(first[0][:, 0] - endless[0][:, 0]).max() > 1e-3


def test_identity_latent_view_renders_once_and_shows_the_anchor_twice():
  before, views, _ = support.shown(support.tiny("views.latent.name=none"), 1, 0)
  np.testing.assert_array_equal(before[:, 0], before[:, 1])
  assert np.abs(views[:, 0] - views[:, 1]).max() > 1e-2  # T_x still differs


@pytest.mark.usefixtures("optimized")
def test_stored_latents_are_shown_as_if_drawn(tmp_path):
  config = support.tiny("sampler.num_anchors=24", "global_batch=16")
  z, y = rendering.draw(generator(config), config.seed, 24)
  np.savez(tmp_path / "z.npz", z=z, y=y)
  stored = support.tiny(f"sampler.file={tmp_path}/z.npz", "global_batch=16")
  for step in (0, 1):  # the second goes round
    live = support.shown(config, 1, step)
    replayed = support.shown(stored, 1, step)
    for one, other in zip(live, replayed, strict=True):
      np.testing.assert_array_equal(one, other)
  assert support.open_run(stored).stored_latents[1] == 24


@pytest.mark.usefixtures("optimized")
def test_a_pool_of_neighbors_is_a_function_of_seed_anchor_and_number():
  pool = 3
  config = support.tiny(
    *TINY, "views.num_views=3", f"views.num_neighbors={pool}"
  )
  z, _ = rendering.draw(generator(config), config.seed, 8)
  key = rng.stream(config.seed, "latent_view")

  def neighbor(i, j):
    key_ = jax.random.fold_in(jax.random.fold_in(key, i), 1 + j)
    move = rng.truncated_normal(
      key_, z[i].shape, sigma=config.views.latent.sigma
    )
    return z[i] + move

  known = np.array([[neighbor(i, j) for j in range(pool)] for i in range(8)])
  drawn = set()
  for step in range(4):
    latents = support.shown(config, 1, step)[2]
    np.testing.assert_array_equal(latents[:, 0], z)
    for i in range(8):
      gaps = np.abs(latents[i, 1:, None] - known[i][None]).max(-1)
      assert np.allclose(gaps.min(1), 0, atol=1e-6)
      one, other = gaps.argmin(1)
      assert one != other  # without replacement
      drawn |= {(i, one), (i, other)}
  assert len(drawn) == 8 * pool  # of eight visits, every neighbor in some


def test_pixel_views_can_be_left_out_of_some_views():
  options = (*TINY, "views.num_views=3", "views.pixel_on=(1,)")
  before, views, _ = support.shown(support.tiny(*options))
  for number in (0, 2):  # pixels in [-1, 1], mean and std 0.5: as they were
    np.testing.assert_allclose(views[:, number], before[:, number], atol=1e-6)
  assert np.abs(views[:, 1] - before[:, 1]).max() > 0.1
  everywhere = support.tiny(*TINY, "views.num_views=3")
  same = support.shown(everywhere)[1]
  np.testing.assert_allclose(views[:, 1], same[:, 1], atol=1e-5)


def test_views_can_share_a_rendering():
  """Two renderings, four views: what multi-crop wants."""
  options = (*TINY, "views.num_views=4", "views.rendering_of=(0,1,1,0)")
  before, views, latents = support.shown(support.tiny(*options))
  pairs = support.shown(support.tiny(*TINY))
  for shown, own in ((before, pairs[0]), (latents, pairs[2])):
    np.testing.assert_allclose(shown[:, :2], own, atol=2e-6)
    np.testing.assert_array_equal(shown[:, 2], shown[:, 1])
    np.testing.assert_array_equal(shown[:, 3], shown[:, 0])
  assert np.abs(views[:, 2] - views[:, 1]).max() > 1e-2  # T_x still differs
  assert np.abs(latents[:, 1] - latents[:, 0]).max() > 1e-2


MULTI_CROP = (
  *TINY,
  "views.num_views=4",
  "views.rendering_of=(0,1,1,0)",
  "views.pixel.name=multi_crop",
  "views.pixel.crop_px=20",
  "views.pixel.local_crop_px=12",
  "views.pixel.mean=(0.5,)",
  "views.pixel.std=(0.5,)",
)


def test_local_crops_are_views_like_the_others():
  """Two global, two local crops: the loss sees four views of each anchor."""
  config = support.tiny(*MULTI_CROP, "encoder.norm=batch")
  run = support.open_run(config)
  state = execution.initial(run.program)
  frozen = execution.put_frozen(run.program)

  @jax.jit
  def both(state, frozen):
    views, before = run.stages.views(state.step, frozen)
    return views, before, *run.program.step(state, frozen)

  views, before, new, measured = both(state, frozen)
  assert views.images.shape == (8, 2, 20, 20, 1)
  assert views.local_crops.shape == (8, 2, 12, 12, 1)
  assert before.shape == (8, 4, 28, 28, 1)
  assert views.latents.shape == (8, 4, 8)
  # Both batches of the encoder leave their mark on its running statistics.
  variables = {
    "params": state.params["encoder"],
    "batch_stats": state.batch_stats,
  }

  @jax.jit
  def encode(variables, images):
    images = images.reshape(16, *images.shape[2:])
    features, stats = run.encoder.apply(variables, images, train=True)
    return features.pooled.reshape(8, 2, -1), stats

  pooled = []
  for images in (views.images, views.local_crops):
    features, variables["batch_stats"] = encode(variables, images)
    pooled.append(features)
  want = support.leaves(variables["batch_stats"])
  for name, value in support.leaves(new.batch_stats).items():
    np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-6)
  z, _ = heads.mlp([0], 128).apply(
    {"params": state.params["head"], "batch_stats": {}},
    np.concatenate(pooled, axis=1),
    True,
  )
  loss = simclr.loss(z, temperature=config.objective.temperature)
  np.testing.assert_allclose(measured.compute()["loss"], loss, rtol=1e-4)


@pytest.mark.parametrize(
  "options, says",
  [
    (
      (*MULTI_CROP, "objective.name=dim"),
      "objective.name: given 'dim'; .* without local maps: .* two sizes",
    ),
    (
      (*MULTI_CROP, "views.pixel_on=(0,1,2)"),
      "one size, or of a first size and, for the last views, one other",
    ),
    (("views.rendering_of=(0,)",), r"given \(0,\); allowed: \(\) or 2 numbers"),
    (("views.rendering_of=(0,2)",), "counted from 0 without gaps"),
  ],
)
def test_impossible_views_are_refused(options, says):
  with pytest.raises(errors.UsageError, match=says) as raised:
    support.open_program(support.tiny(*options))
  assert "\n" not in str(raised.value)


def test_an_encoder_may_refuse_the_size_of_local_crops(monkeypatch):
  def make(cfg, *, dtype):
    encoder = made(cfg, dtype=dtype)

    def apply(variables, images, **options):
      assert images.shape[1:3] == (20, 20), "made for 20x20"
      return encoder.apply(variables, images, **options)

    return dataclasses.replace(encoder, apply=apply)

  made = small_encoder.make
  monkeypatch.setattr(small_encoder, "make", make)
  says = "plug-in encoders/small .*made for 20x20.*; .* images of 12x12x1"
  with pytest.raises(errors.UsageError, match=says):
    support.open_program(support.tiny(*MULTI_CROP))


def test_steps_of_a_run_are_counted_by_stored_latents(tmp_path):
  z = np.zeros((32, 8), np.float32)
  np.savez(tmp_path / "z.npz", z=z)
  config = configs.load(
    str(support.ROOT / "configs" / "quickstart.py"),
    [
      *support.TINY,
      f"sampler.file={tmp_path}/z.npz",
      "total_steps=0",
      "total_epochs=3",
    ],
  )
  run = support.open_run(config)
  assert run.total_steps == 6
  assert run.stored_latents[1] == 32

"""The quality tool: numbers in range, labels from the file, bad input."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import (
  contracts,
  errors,
  images as images_lib,
  plugins,
  rendering,
  weights,
)
from genrep_jax.tools import assess_generator


@pytest.fixture(scope="module")
def toy_weights(tmp_path_factory):
  """An untrained conditional generator's file."""
  config = {
    **plugins.defaults("generators", "small"),
    "num_classes": 10,
    "widths": (8, 4),
    "extra_convs": (0, 0),
  }
  generator = plugins.make("generators", config)
  variables = jax.jit(generator.init)(jax.random.key(0))
  path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
  weights.save(path, variables, {"generator": config, "steps": 0})
  return path


@pytest.mark.slow
def test_card_of_an_untrained_generator(toy_weights, tmp_path, capsys):
  out = tmp_path / "card.json"
  code = assess_generator.main(
    [
      f"--weights={toy_weights}",
      "--data=fashion_mnist_mini",
      "--samples=300",
      "--cas_samples=256",
      "--epochs=1",
      f"--out={out}",
      f"--picture={tmp_path / 'grid.png'}",
      f"--neighbors={tmp_path / 'rows.png'}",
    ]
  )
  assert code == 0
  card = json.loads(out.read_text())
  assert card["sha256"] == weights.sha256(toy_weights)
  assert card["made_by"]["steps"] == 0
  # One epoch of 5,000 images teaches something; noise teaches nothing.
  assert card["classifier_test_accuracy"] > 0.5
  fake, real = card["generated"], card["real_train"]
  assert fake["cas_classifier_256"] < 0.3
  # Real images are near real images, blobs of random weights are not.
  for name in ("fid_classifier_300", "kid_classifier_300"):
    assert real[name] < fake[name] / 10
  assert real["precision3_classifier_300"] > 0.6
  assert real["recall3_classifier_300"] > 0.6
  # A real image's ball has three others' share of the 10,000 on average.
  assert abs(real["density3_classifier_300"] - 1) < 0.3
  assert 0.06 < real["coverage3_classifier_300"] < 0.1
  assert fake["coverage3_classifier_300"] < 0.01
  assert fake["recall3_classifier_300"] < 0.2
  scores = [x["inception_score_classifier_300"] for x in (real, fake)]
  assert 10 > scores[0] > 2 * scores[1] > 1
  assert abs(sum(card["class_shares"]) - 1) < 1e-6
  assert fake["class_agreement"] < 0.4
  assert {"classifier, sampling", "cas", "kid"} <= card["seconds"].keys()
  printed = capsys.readouterr().out
  for name in ("generated/fid_classifier_300", "generated/cas", "seconds"):
    assert name in printed
  assert (tmp_path / "grid.png").stat().st_size > 1000
  assert (tmp_path / "rows.png").stat().st_size > 1000


def test_generated_image_i_is_the_anchor_of_its_index():
  generator = contracts.Generator(
    resolution=(1, 1),
    channels=1,
    latent_dim=1,
    num_classes=4,
    init=lambda key: {},
    sample=lambda key: (
      jax.random.uniform(key, (1,), minval=-1),
      jax.random.randint(key, (), 0, 4),
    ),
    apply=lambda variables, z, y: z[:, :, None, None],
  )
  model = assess_generator.model_of(generator, 0, "a")
  index = np.arange(40, dtype=np.uint32)
  whole, labels = model.generate({}, index)
  parts, part_labels = model.generate({}, index[::-1][:7])
  np.testing.assert_array_equal(whole[::-1][:7], parts)
  np.testing.assert_array_equal(labels[::-1][:7], part_labels)
  z, y = rendering.draw(generator, 0, 40, stream="a")
  np.testing.assert_array_equal(whole[:, 0, 0], z)
  np.testing.assert_array_equal(labels, y)
  assert len(np.unique(whole)) > 30


def test_real_images_are_judged_as_they_are():
  images = np.arange(256, dtype=np.uint8).reshape(64, 2, 2, 1)
  labels = np.arange(64)
  index = np.uint32([5, 0, 63])
  shown, classes = assess_generator.model_of_images().generate(
    (images, labels), index
  )
  np.testing.assert_array_equal(images_lib.to_uint8(shown), images[index])
  np.testing.assert_array_equal(classes, index)


def test_neighbors_start_at_the_anchor_and_widen(tmp_path, monkeypatch):
  seen = {}
  monkeypatch.setattr(
    "genrep_jax.lib.pictures.grid",
    lambda images, scale: seen.setdefault("images", images),
  )
  monkeypatch.setattr("genrep_jax.lib.pictures.save_png", lambda *_: None)
  generator = contracts.Generator(
    resolution=(1, 1),
    channels=1,
    latent_dim=1,
    num_classes=0,
    init=lambda key: {},
    sample=lambda key: (jax.random.normal(key, (1,)), jnp.int32(0)),
    apply=lambda variables, z, y: z[:, :, None, None],
  )
  flags = types.SimpleNamespace(picture=None, neighbors="rows.png", seed=0)
  assess_generator.pictures(flags, generator, {})
  rows = seen["images"][..., 0, 0, 0].reshape(4, 4, 10)
  np.testing.assert_array_equal(rows[:, :1, 0].repeat(4, 1), rows[:, :, 0])
  spread = np.abs(rows - rows[..., :1])
  for i, sigma in enumerate((0.2, 0.3, 0.5, 1.0)):
    assert 0 < spread[:, i, 1:].max() <= 2 * sigma
  assert np.all(np.diff(spread.mean((0, 2))) > 0)


def mini(weights, *words):
  return [f"--weights={weights}", "--data=fashion_mnist_mini", *words]


def test_bad_input(toy_weights, tmp_path):
  nameless = tmp_path / "nameless.safetensors"
  weights.save(nameless, {"x": np.zeros(3, np.float32)})
  for argv, words in [
    ([f"--weights={nameless}"], "does not name its generator"),
    (["--weights=nowhere"], "no file 'nowhere'"),
    ([f"--weights={toy_weights}", "--samples=0"], "--samples: 0"),
    ([f"--weights={toy_weights}", "--data_dir=/nowhere"], "/nowhere"),
    ([f"--weights={toy_weights}", "--config.seed=1"], "no --config"),
    (mini(toy_weights, "--cas_samples=1"), "samples: given 1"),
    (mini(toy_weights, "--inception=nowhere"), "no file 'nowhere'"),
    (
      mini(toy_weights, f"--inception={toy_weights}", "--resize=square"),
      "resize: given 'square'",
    ),
    (
      mini(toy_weights, f"--inception={toy_weights}"),
      "not the FID InceptionV3",
    ),
  ]:
    with pytest.raises(errors.UsageError) as caught:
      assess_generator.main(argv)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

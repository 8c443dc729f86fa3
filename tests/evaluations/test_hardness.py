"""The hardness curve: falls with sigma, starts at 1, sees classes change."""

import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.lib import contracts, errors
from tests.evaluations import toy_judge, toy_views

OPTIONS = {"samples": 40, "sigmas": (0.0, 0.3, 2.0)}


def test_cosines_fall_with_sigma():
  found, made = toy_views.run("hardness", **OPTIONS)
  curve = [found[f"view_cosine_sigma{s}_40"] for s in ("0", "0.3", "2")]
  assert curve[0] == pytest.approx(1) and curve[0] > curve[1] > curve[2] + 0.1
  assert made.headline == "view_cosine_40"
  np.testing.assert_allclose(found["view_cosine_40"], np.mean(curve))
  again, _ = toy_views.run("hardness", devices=8, batch=24, **OPTIONS)
  for name, value in found.items():
    np.testing.assert_allclose(value, again[name], rtol=1e-5, atol=1e-6)
  # A latent view that moves nothing is never hard.
  still, _ = toy_views.run("hardness", weights={"moves": [0] * 6}, **OPTIONS)
  assert still["view_cosine_40"] == pytest.approx(1)


def shown(shape=(12, 12, 1), count=toy_judge.COUNT):
  """Bright and dark real images, and a generator of them.

  Shapes and numbers are toy_judge's: the classifier's training compiles once.
  """
  labels = np.arange(count) % 2
  noise = np.random.default_rng(0).integers(0, 90, (count, *shape))
  images = noise + 160 * labels[:, None, None, None]
  split = contracts.Split(images.astype(np.uint8), labels)
  dataset = contracts.Dataset("tones", 2, (), split, split)

  def views(variables, index, count, **options):
    judged = toy_views.views(variables, index, count, **options)
    tone = np.tanh(1) * judged.latents[..., :1]
    images = tone.clip(-1, 1)[..., None, None] + np.zeros(shape, np.float32)
    return judged._replace(images=images)

  def encode(variables, images):
    return images.reshape(len(images), -1)[:, :3] + 2

  return dataset, contracts.Model(encode=encode, views=views, channels=1)


def test_classes_of_a_real_classifier(monkeypatch):
  dataset, model = shown()
  monkeypatch.setattr(data, "load", lambda entry, path: dataset)
  options = {"classes": True, "epochs": 12, **OPTIONS}
  found, _ = toy_views.run("hardness", model=model, **options)
  curve = [found[f"view_agreement_sigma{s}_40"] for s in ("0", "0.3", "2")]
  assert curve[0] == 1 and 1 > curve[1] > curve[2] > 0.4
  other = contracts.Model(
    encode=toy_views.encode, views=toy_views.views, channels=1
  )
  with pytest.raises(errors.UsageError, match=r"'tones'.*images \(2, 3, 1\)"):
    toy_views.run("hardness", model=other, **options)


@pytest.mark.parametrize(
  "options", [{"sigmas": ()}, {"sigmas": (1.0, 1.0)}, {"sigmas": (-1.0,)}]
)
def test_bad_input(options):
  with pytest.raises(errors.UsageError, match="sigmas: given"):
    toy_views.run("hardness", **options)

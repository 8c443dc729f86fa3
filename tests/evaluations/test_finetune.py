"""Fine-tuning: against a loop, what is trained and what is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.evaluations import finetune, linear_sgd
from genrep_jax.lib import errors, mesh as mesh_lib
from tests.evaluations import probes

VARIABLES = {
  "params": {"w": 0.3 * np.random.default_rng(0).normal(size=(16, 4))},
  "batch_stats": {"shift": np.float32(0.1)},
}


def encode(variables, images):
  rows = probes.raw_pixels(variables, images)
  return jnp.tanh(
    rows @ variables["params"]["w"] + variables["batch_stats"]["shift"]
  )


def loop(images, labels, order, batch, rates, steps):
  """SGD with momentum 0.9 on a cosine, one batch at a time, in float64."""
  x = images.reshape(len(images), -1) / 127.5 - 1
  p = [VARIABLES["params"]["w"].copy(), np.zeros((4, 3)), np.zeros(3)]
  v, step = [0.0] * 3, 0
  for rows in order:
    for start in range(0, len(rows), batch):
      part = rows[start : start + batch]
      h = np.tanh(x[part] @ p[0] + 0.1)
      logits = h @ p[1] + p[2]
      error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
      error = (error - np.eye(3)[labels[part]]) / len(part)
      back = (error @ p[1].T) * (1 - h**2)
      gradient = [x[part].T @ back, h.T @ error, error.sum(0)]
      factor = (1 + np.cos(np.pi * step / steps)) / 2
      v = [0.9 * a + g for a, g in zip(v, gradient)]
      p = [a - r * factor * m for a, r, m in zip(p, rates, v)]
      step += 1
  return p


def test_against_a_loop():
  dataset = probes.toy(4)
  images, labels = dataset.train
  order = linear_sgd.orders(12, 3, 0)
  variables = jax.device_put(jax.tree.map(np.float32, VARIABLES))
  tuned, head = finetune.tune(
    encode,
    variables,
    images,
    labels,
    num_classes=3,
    mesh=probes.mesh_of(2),
    order=order,
    batch=8,  # and a last one of four
    learning_rate=0.2,
    head_learning_rate=0.5,
  )
  want = loop(images, labels, order, 8, (0.2, 0.5, 0.5), 6)
  got = tuned["params"]["w"], *head
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, atol=2e-5)
  assert np.abs(got[0] - VARIABLES["params"]["w"]).max() > 0.01
  # Only params are trained, and not in place.
  assert tuned["batch_stats"] is variables["batch_stats"]
  np.testing.assert_array_equal(
    variables["params"]["w"], np.float32(VARIABLES["params"]["w"])
  )


def test_the_plug_in(monkeypatch):
  make = probes.maker(monkeypatch, "finetune", sgd_batch=16)
  made = make(encode=encode, labels_per_class=5, epochs=20, draws=2)
  everywhere = mesh_lib.replicated(probes.mesh_of(2))
  variables = jax.tree.map(np.float32, VARIABLES)
  results = dict(made.run(jax.device_put(variables, everywhere)))
  assert set(results) == {
    "finetune_5perclass_accuracy",
    "finetune_5perclass_accuracy_std",
  }
  assert results[made.headline] > 0.8
  assert "trained on 15 labeled images, frozen batch statistics" in made.about


def test_without_weights_only_the_head_learns(monkeypatch):
  make = probes.maker(monkeypatch, "finetune", sgd_batch=16, epochs=10)
  made = make(labels_per_class=0, share=0.1, augment="none")
  results = dict(made.run({}))
  assert list(results) == ["finetune_10percent_accuracy"]
  assert results["finetune_10percent_accuracy"] > 0.9
  assert "trained on 6 labeled images" in made.about


@pytest.mark.parametrize(
  "options, expected",
  [
    (
      {"labels_per_class": 21},
      "here.labels_per_class: given 21; allowed: at m",
    ),
    ({"share": 0.0}, "here.share: given 0.0"),
    ({"epochs": 0}, "here.epochs: given 0"),
    ({"learning_rate": 0.0}, "here.learning_rate: given 0.0"),
    ({"augment": "cut"}, "here.augment: given 'cut'"),
  ],
)
def test_bad_input(monkeypatch, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    probes.maker(monkeypatch, "finetune")(**{"labels_per_class": 5, **options})
  assert expected in str(caught.value)

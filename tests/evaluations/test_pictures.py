"""Pictures of features: what they show, and that they can be drawn."""

import numpy as np
from PIL import Image

from genrep_jax.evaluations import _pictures
from genrep_jax.lib import contracts

K = 4


def parts():
  """Features that tell four classes apart; images as gray as their class."""
  random = np.random.default_rng(0)

  def split(n):
    labels = random.permutation(np.arange(n) % K)
    images = np.broadcast_to(
      (60 * labels)[:, None, None, None], (n, 9, 9, 1)
    ).astype(np.uint8)
    features = np.eye(K)[labels] + 0.05 * random.standard_normal((n, K))
    return images, features.astype(np.float32), labels

  return split(60), split(40)


def test_neighbors_and_queries():
  (_, bank, labels), (_, features, classes) = parts()
  rows = _pictures.queries(classes)
  assert len(set(rows)) == len(rows) == 12
  np.testing.assert_array_equal(np.bincount(classes[rows]), [3] * K)
  found = _pictures.nearest(bank, features, rows)
  np.testing.assert_array_equal(
    labels[found], classes[rows][:, None].repeat(5, axis=1)
  )
  for row, neighbors in zip(rows, found):
    cosines = [
      b @ features[row] / np.linalg.norm(b) / np.linalg.norm(features[row])
      for b in bank
    ]
    assert list(neighbors) == list(np.argsort(cosines)[::-1][:5])


def test_confusions_of_a_class_add_up():
  labels, predicted = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 2, 1, 1])
  shares = _pictures.confusion(labels, predicted, 4)
  np.testing.assert_allclose(shares[0], [2 / 3, 0, 1 / 3, 0])
  np.testing.assert_allclose(shares[1:3], [[0, 1, 0, 0], [0, 1, 0, 0]])
  assert not shares[3].any()  # no image of this class


def test_the_plane_keeps_classes_together():
  _, (_, features, classes) = parts()
  points = _pictures.plane(features)
  assert points.shape == (40, 2) and np.isfinite(points).all()
  distance = np.linalg.norm(points[:, None] - points[None], axis=2)
  np.fill_diagonal(distance, np.inf)
  assert (classes[distance.argmin(axis=1)] == classes).mean() > 0.9
  few = _pictures.plane(features[:3])  # too few for t-SNE
  assert few.shape == (3, 2)


def test_all_are_drawn(tmp_path):
  train, judged = parts()
  split = contracts.Split(train[0], train[2])
  dataset = contracts.Dataset("grays", K, tuple("abcd"), split, split)
  rows = _pictures.queries(judged[2])
  nearest = _pictures.nearest(train[1], judged[1], rows)
  made = _pictures.of_features(dataset, train, judged, judged[2], nearest)
  assert set(made) == {"neighbors", "confusion", "classes", "map"}
  for name, picture in made.items():
    path = tmp_path / f"{name}.png"
    picture.draw(path)
    assert picture.caption and path.stat().st_size < 400_000
    with Image.open(path) as image:
      assert np.asarray(image.convert("RGB")).std() > 1
  with Image.open(tmp_path / "neighbors.png") as image:
    pixels = np.asarray(image)
  green = (pixels == (0, 150, 90)).all(axis=2).sum()
  red = (pixels == (200, 60, 40)).all(axis=2).sum()
  assert green > 0 and red == 0

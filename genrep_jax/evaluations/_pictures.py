"""What features look like: neighbors, confusions, a map."""

import functools

import numpy as np

from genrep_jax.lib import contracts, figures, images as images_lib, pictures

_QUERIES, _NEIGHBORS = 12, 5
_MAP_CELLS, _MAP_IMAGES, _MAP_PX = 28, 1200, 26
_RIGHT, _WRONG, _QUERY = (0, 150, 90), (200, 60, 40), (90, 90, 90)
_FRAME_PX = 2


def of_features(
  dataset: contracts.Dataset,
  train,
  judged,
  predicted: np.ndarray,
  nearest: np.ndarray,
) -> dict[str, contracts.Picture]:
  """Makes the pictures of features and of a classifier of them.

  Args:
    dataset: has the names of the classes.
    train: (images of the bank, features [N f], labels int [N]); images are cut
      or decoded where they are shown.
    judged: the same of the test images.
    predicted: int [M], of the test images.
    nearest: int [q k], rows of the bank: the nearest of the first images that
      `queries` names.
  """
  k = dataset.num_classes
  names = [str(name) for name in dataset.class_names or range(k)]
  labels = judged[2]
  shares = confusion(labels, predicted, k)
  recalls = [(names[c], 100 * shares[c, c], 0.0, ()) for c in np.unique(labels)]
  return {
    "neighbors": contracts.Picture(
      "left, test images; right of each, its nearest training images by "
      "cosine: green where the class is the same, red where not",
      functools.partial(_draw_neighbors, train, judged, nearest),
    ),
    "confusion": contracts.Picture(
      "what images of each class (rows) are taken for, in percent",
      functools.partial(
        figures.matrix_plot,
        shares=shares,
        names=names,
        title="Confusion matrix",
        x_label="predicted",
        y_label="class",
      ),
    ),
    "classes": contracts.Picture(
      "accuracy on the test images of each class",
      functools.partial(
        figures.dot_plot,
        rows=recalls,
        title="Accuracy by class",
        x_label="accuracy, %",
      ),
    ),
    "map": contracts.Picture(
      "test images where t-SNE of their features puts them (two principal "
      "components without scikit-learn), framed by class",
      functools.partial(_draw_map, names, judged),
    ),
  }


def queries(labels: np.ndarray) -> np.ndarray:
  """Chooses the images whose neighbors are shown: of all classes in turn."""
  order = np.argsort(labels, kind="stable")
  rank = np.empty(len(labels), np.int64)
  _, starts, counts = np.unique(
    labels[order], return_index=True, return_counts=True
  )
  rank[order] = np.arange(len(labels)) - np.repeat(starts, counts)
  return np.lexsort((labels, rank))[:_QUERIES]


def nearest(bank, features, rows) -> np.ndarray:
  """Returns the rows [q 5] of the bank that are nearest by cosine."""

  def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

  similarities = unit(features[rows]) @ unit(bank).T
  return np.argsort(-similarities, axis=1, kind="stable")[:, :_NEIGHBORS]


def confusion(labels, predicted, num_classes: int) -> np.ndarray:
  """Returns the shares [k k] of the images of each class, by prediction."""
  counts = np.zeros((num_classes, num_classes))
  np.add.at(counts, (labels, predicted), 1)
  return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def plane(features: np.ndarray) -> np.ndarray:
  """Maps features [n f] to two dimensions [n 2].

  By t-SNE (van der Maaten & Hinton 2008), where scikit-learn is installed, from
  the first principal components; else these.
  """
  x = np.asarray(features, np.float64)
  x = x - x.mean(axis=0)
  u, s, _ = np.linalg.svd(x, full_matrices=False)
  components = u[:, :32] * s[:32]
  try:
    from sklearn import manifold
  except ImportError:
    return np.pad(components, ((0, 0), (0, 1)))[:, :2]
  if len(x) < 8:
    return np.pad(components, ((0, 0), (0, 1)))[:, :2]
  made = manifold.TSNE(
    init="pca",
    perplexity=min(30.0, (len(x) - 1) / 3),
    random_state=0,
    max_iter=300,
    n_jobs=1,
  )
  return made.fit_transform(components.astype(np.float32))


def _framed(image, color) -> np.ndarray:
  """Returns uint8 [h+4 w+4 3]: an image in a frame."""
  image = np.broadcast_to(image, (*image.shape[:2], 3))
  w = _FRAME_PX
  framed = np.empty(
    (image.shape[0] + 2 * w, image.shape[1] + 2 * w, 3), np.uint8
  )
  framed[:] = color
  framed[w:-w, w:-w] = image
  return framed


def _draw_neighbors(train, judged, nearest, path):
  rows = []
  for query, bank in zip(queries(judged[2]), nearest, strict=True):
    line = [_framed(judged[0][query : query + 1][0], _QUERY)]
    for neighbor, image in zip(bank, train[0][bank], strict=True):
      same = train[2][neighbor] == judged[2][query]
      line.append(_framed(image, _RIGHT if same else _WRONG))
    rows.append(line)
  half = -(-len(rows) // 2)
  blank = [np.full_like(rows[0][0], 255)] * len(rows[0])
  rows += [blank] * (2 * half - len(rows))
  rows = [rows[i] + blank[:1] + rows[half + i] for i in range(half)]
  images = images_lib.from_uint8(np.array(rows))
  scale = max(1, 72 // images.shape[2])
  pictures.save_png(path, pictures.grid(images, scale=scale))


def _draw_map(names, judged, path):
  images, features, labels = judged
  some = np.arange(len(labels))
  if len(some) > _MAP_IMAGES:
    some = some[:: -(-len(some) // _MAP_IMAGES)]
  colors = figures.class_colors(len(names))
  points = plane(features[some])
  low, high = np.percentile(points, [1, 99], axis=0)
  cells = (points - low) / np.maximum(high - low, 1e-12) * (_MAP_CELLS - 1)
  cells = np.clip(np.rint(cells), 0, _MAP_CELLS - 1).astype(int)
  _, first = np.unique(cells, axis=0, return_index=True)
  side = _MAP_PX + 2 * _FRAME_PX
  canvas = np.full((_MAP_CELLS * side, _MAP_CELLS * side, 3), 255, np.uint8)
  for i in first:
    image = _thumbnail(images[some[i] : some[i] + 1][0])
    left, top = cells[i] * side
    framed = _framed(image, colors[labels[some[i]]])
    canvas[top : top + side, left : left + side] = framed
  figures.map_plot(
    path, canvas, names, colors, title="Test images by their features"
  )


def _thumbnail(image) -> np.ndarray:
  from PIL import Image

  pixels = np.broadcast_to(image, (*image.shape[:2], 3))
  size = (_MAP_PX, _MAP_PX)
  picture = Image.fromarray(np.ascontiguousarray(pixels))
  return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))

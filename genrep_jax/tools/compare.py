"""Compares finished runs or encoders on the same test images.

  python -m genrep_jax.tools.compare runs/a runs/b
  python -m genrep_jax.tools.compare simclr=runs/a0,runs/a1 vicreg=runs/b0

Every argument is a run's folder or an encoder's file, or NAME=X,Y,...: runs of
one method that differ in their seed. A probe is fitted to each encoder's
features of the training images; then all are paired image by image: accuracies,
McNemar's test of the first seeds, the difference over seeds and images with a
95 % bootstrap interval, the accuracy of every class, and, with --picture, the
images on which two methods differ.
"""

import itertools
import pathlib
from typing import NamedTuple

from genrep_jax.lib import errors, files
from genrep_jax.tools import _cli

_SHOWN = 20  # differing images of a row of the picture


class Method(NamedTuple):
  """One method.

  Attributes:
    name: as it is shown.
    paths: of its encoders, one for each seed.
  """

  name: str
  paths: tuple[str, ...]


def main(argv) -> int:
  """Compares what the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.compare", __doc__)
  add = arguments.add_argument
  add("methods", nargs="+", metavar="RUN", help="folder, file or NAME=X,Y,...")
  add("--data", default="", help="data room's entry; default: the first run's")
  add("--data_dir", help="folder of the images; default: that entry's")
  add("--probe", default="knn", choices=("knn", "linear"), help="what predicts")
  add("--k", type=int, default=20, help="neighbors of the probe knn")
  add(
    "--split",
    default="test",
    choices=("test", "selection"),
    help="the images that are paired; selection: to choose by",
  )
  add("--draws", type=int, default=2000, help="bootstrap resamples")
  add("--out", help="write the numbers to this JSON file")
  add("--picture", help="write images on which two methods differ to this PNG")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("compare: takes no --config")
  methods = [_method(words) for words in flags.methods]
  names = [one.name for one in methods]
  if len(methods) < 2 or len(set(names)) < len(names):
    raise errors.UsageError(
      f"compare: given {', '.join(names)}; allowed: two or more of different "
      "names"
    )
  for name, least in (("k", 1), ("draws", 100)):
    if getattr(flags, name) < least:
      raise errors.UsageError(
        f"--{name}: given {getattr(flags, name)}; allowed: at least {least}"
      )
  for path in filter(None, (flags.out, flags.picture)):
    _cli.check_writable(pathlib.Path(path).parent)
  found = compare(methods, flags)
  if flags.out:
    files.write_json(flags.out, found)
  return errors.EXIT_OK


def _method(words: str) -> Method:
  name, equals, paths = words.partition("=")
  if not equals:
    name, paths = pathlib.Path(words).name, words
    return Method(name, (words,))
  paths = tuple(filter(None, paths.split(",")))
  if not name or not paths:
    raise errors.UsageError(
      f"compare: given {words!r}; allowed: NAME=X,Y,..., folders or files"
    )
  return Method(name, paths)


def compare(methods, flags) -> dict:
  """Prints the comparison.

  Args:
    methods: Methods.
    flags: of `main`.

  Returns:
    {what: value}, plain values.
  """
  import numpy as np

  from genrep_jax.lib import environment, export, statistics

  environment.prepare()
  encoders = {
    one.name: [export.load_encoder(path) for path in one.paths]
    for one in methods
  }
  dataset, judged, train = _images(methods, encoders, flags)
  correct, labels = {}, np.asarray(judged.labels)
  for name, seeds in encoders.items():
    rows = [_predict(one, train, judged, dataset, flags) for one in seeds]
    correct[name] = np.stack(rows) == labels
  found = {
    "data": dataset.name,
    "split": flags.split,
    "images": len(labels),
    "probe": flags.probe if flags.probe != "knn" else f"knn{flags.k}",
    "methods": {},
    "pairs": [],
  }
  print(
    f"{found['probe']} on {len(labels)} images of {dataset.name} "
    f"({flags.split})"
  )
  for name, rows in correct.items():
    accuracies = rows.mean(axis=1)
    found["methods"][name] = {
      "accuracies": accuracies.tolist(),
      "per_class": _per_class(rows, labels, dataset.num_classes),
    }
    spread = ""
    if len(rows) > 1:
      spread = f" ± {100 * accuracies.std(ddof=1):.2f}"
    print(
      f"{name:<24} {100 * accuracies.mean():.2f}{spread} % "
      f"({len(rows)} seed(s))"
    )
  for first, second in itertools.combinations(correct, 2):
    test = statistics.mcnemar(correct[first][0], correct[second][0])
    interval = statistics.bootstrap(
      correct[first], correct[second], draws=flags.draws
    )
    found["pairs"].append(
      {
        "first": first,
        "second": second,
        **test._asdict(),
        **interval._asdict(),
      }
    )
    low, high = 100 * interval.low, 100 * interval.high
    print(
      f"{second} - {first}: {100 * interval.difference:+.2f} points, 95 % "
      f"[{low:+.2f}, {high:+.2f}]; McNemar {test.only_second}:"
      f"{test.only_first}, p = {test.p:.2g}"
    )
  _print_classes(found, dataset)
  if flags.picture:
    _picture(flags.picture, correct, judged, dataset)
  return found


def _images(methods, encoders, flags):
  """Returns (the data set, the Split that is judged, the training Split)."""
  import ml_collections

  from genrep_jax import data as data_lib, evaluations
  from genrep_jax.lib import plugins

  sizes = {}
  for one in methods:
    for path, encoder in zip(one.paths, encoders[one.name], strict=True):
      sizes.setdefault(encoder.image_shape, path)
  if len(sizes) > 1:
    raise errors.UsageError(
      "compare: encoders of images of different shapes: "
      + ", ".join(f"{path} {shape}" for shape, path in sizes.items())
    )
  if flags.data:
    entry = {"name": flags.data}
  else:
    first = next(iter(encoders.values()))[0]
    entry = dict(first.metadata.get("config", {}).get("data") or {})
    if not entry.get("name"):
      raise errors.UsageError(
        f"--data: given none; allowed: a data set: {methods[0].paths[0]} does "
        "not say which its run had"
      )
  if flags.data_dir:
    entry["data_dir"] = flags.data_dir
  dataset = data_lib.load(entry, "--data")
  if dataset.train.labels.ndim > 1:
    raise errors.UsageError(
      f"--data: given {dataset.name}, several classes an image; allowed: data "
      "with one class an image"
    )
  entry = plugins.defaults("evaluations", flags.probe)
  entry |= {"split": flags.split}
  train, judged = evaluations.splits(ml_collections.ConfigDict(entry), dataset)
  if flags.probe == "knn" and flags.k > len(train.labels):
    raise errors.UsageError(
      f"--k: given {flags.k}; allowed: at most the {len(train.labels)} "
      "training images"
    )
  return dataset, judged, train


def _predict(encoder, train, judged, dataset, flags):
  """Returns the predicted class of every judged image."""
  from genrep_jax.evaluations import knn, linear
  from genrep_jax.lib import mesh as mesh_lib, plugins

  mesh = mesh_lib.make_mesh()
  features = [encoder.encode(split.images[:]) for split in (train, judged)]
  labels = train.labels
  if flags.probe == "knn":
    return knn.classify(
      features[0],
      labels,
      features[1],
      k=flags.k,
      temperature=0.07,
      num_classes=dataset.num_classes,
      mesh=mesh,
    )
  fitted = linear.probe(
    features[0],
    labels,
    num_classes=dataset.num_classes,
    mesh=mesh,
    l2_grid=plugins.defaults("evaluations", "linear")["l2"],
  )
  return linear.predict(fitted.model, features[1]).argmax(axis=1)


def _per_class(rows, labels, num_classes):
  """Returns the mean accuracy of every class; None where it has no image."""
  return [
    float(rows[:, labels == k].mean()) if (labels == k).any() else None
    for k in range(num_classes)
  ]


def _print_classes(found, dataset):
  names = dataset.class_names or range(dataset.num_classes)
  columns = found["methods"]
  print(f"{'class':<24} " + " ".join(f"{name:>12.12}" for name in columns))
  for k, name in enumerate(names):
    cells = [one["per_class"][k] for one in columns.values()]
    words = ["-" if x is None else f"{100 * x:.2f}" for x in cells]
    print(f"{name!s:<24.24} " + " ".join(f"{word:>12}" for word in words))


def _picture(path, correct, judged, dataset):
  """Two rows for every pair: images that only one method gets right."""
  import numpy as np

  from genrep_jax.lib import images as images_lib, pictures

  rows = []
  for first, second in itertools.combinations(correct, 2):
    a, b = correct[first][0], correct[second][0]
    for right, wrong, name in ((a, b, first), (b, a, second)):
      chosen = np.flatnonzero(right & ~wrong)[:_SHOWN]
      images = images_lib.from_uint8(judged.images[chosen])
      blank = np.ones((_SHOWN - len(chosen), *images.shape[1:]), np.float32)
      rows.append(np.concatenate([images, blank]))
      print(f"{path}: row {len(rows)}: right in {name} only")
  side = judged.images.shape[1]
  picture = pictures.grid(np.stack(rows), scale=max(1, 56 // side))
  pictures.save_png(path, picture)


if __name__ == "__main__":
  _cli.run(main)

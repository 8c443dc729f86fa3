"""Measures a generator's weights against the real images they were trained on.

  python -m genrep_jax.tools.assess_generator --weights F [--data_dir D]

Prints, with the seconds each took: the test accuracy of a small classifier
trained here on the real training set; the Frechet distance and the improved
precision and recall in its features, of 10,000 generated against the 10,000
real test images, beside what 10,000 real training images score; and, for a
class-conditional generator, the classification accuracy score: the accuracy on
the real test set of the same classifier trained on 60,000 generated images
(Ravuri & Vinyals 2019). The weights file names its generator itself.
"""

import pathlib
import time

from genrep_jax.lib import errors, files
from genrep_jax.tools import _cli

_SIGMAS = (0.2, 0.3, 0.5, 1.0)  # of the latent neighbors in the picture
_COLUMNS = 10


def main(argv) -> int:
  """Assesses what the command line names; returns the exit code."""
  arguments = _cli.parser("genrep_jax.tools.assess_generator", __doc__)
  add = arguments.add_argument
  add("--weights", required=True, help="safetensors file, or asset:NAME")
  add("--data", default="fashion_mnist", help="entry of the data room")
  add("--data_dir", help="folder of the real images; default: that entry's")
  add("--seed", type=int, default=0, help="of the samples and the classifiers")
  add("--samples", type=int, default=10000, help="for FID, precision, recall")
  add("--cas_samples", type=int, default=60000, help="for CAS; 0: no CAS")
  add("--epochs", type=int, default=5, help="of the classifiers")
  add("--out", help="write the numbers to this JSON file")
  add("--picture", help="write a 10x10 grid of samples to this PNG")
  add("--neighbors", help="write rows of latent neighbors to this PNG")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("assess_generator: takes no --config")
  for name in ("samples", "epochs"):
    if getattr(flags, name) < 1:
      raise errors.UsageError(f"--{name}: {getattr(flags, name)} is not >= 1")
  card = assess(flags)
  if flags.out:
    files.write_json(flags.out, card)
  return errors.EXIT_OK


def draw(
  generator, variables, seed: int, stream: str, count: int, *, batch=500
):
  """Draws images of a generator.

  Args:
    generator: a contracts.Generator.
    variables: its weights.
    seed: with the stream, of the latents; image i is a function of both and i.
    stream: name of a stream of random numbers.
    count: how many.
    batch: images per device and call.

  Returns:
    (uint8 [count h w c], class int32 [count]), numpy.
  """
  from genrep_jax.lib import rendering

  z, y = rendering.draw(generator, seed, count, stream=stream)
  renderer = rendering.Renderer(
    generator, variables, batch, count, drawn=True, uint8=True
  )
  return renderer(z, y), y


def assess(flags) -> dict:
  """Measures everything; see the module docstring.

  Args:
    flags: of `main`.

  Returns:
    {what: value}, plain values.
  """
  import jax

  from genrep_jax import data as data_lib
  from genrep_jax.evaluations import _classifier, _precision_recall, fid
  from genrep_jax.lib import environment, frozen, versions, weights

  environment.prepare()
  made = frozen.from_file(flags.weights)
  generator, variables = made.generator, made.variables
  folder = {"data_dir": flags.data_dir} if flags.data_dir else {}
  data = data_lib.load({"name": flags.data, **folder})
  card = {
    "weights": pathlib.Path(weights.resolve(flags.weights)).name,
    "sha256": made.sha256,
    "parameters": sum(x.size for x in jax.tree.leaves(variables)),
    "made_by": made.metadata,
    "data": data.name,
    "samples": flags.samples,
    "seed": flags.seed,
    "devices": versions.devices(),
    "seconds": {},
  }

  def timed(name, function, *args, **kwargs):
    start = time.perf_counter()
    value = function(*args, **kwargs)
    card["seconds"][name] = round(time.perf_counter() - start, 1)
    return value

  def tell(name, value):
    card[name] = value
    print(f"{name:<28} {value:.4f}", flush=True)

  print(f"{'weights':<28} {card['weights']} sha256 {card['sha256']}")
  pictures(flags, generator, variables)
  fakes, labels = timed(
    "sampling", draw, generator, variables, flags.seed, "assess", flags.samples
  )
  classifier = timed(
    "classifier",
    _classifier.train,
    *data.train,
    data.num_classes,
    seed=flags.seed,
    epochs=flags.epochs,
  )
  tell("classifier_test_accuracy", _classifier.accuracy(classifier, *data.test))
  real, _ = _classifier.predict(classifier, data.test.images)
  shown = {
    "generated": fakes,
    "real_train": data.train.images[: flags.samples],
  }
  for name, images in shown.items():
    features, classes = _classifier.predict(classifier, images)
    tell(f"{name}_fid", timed(f"{name}_fid", fid.fid, real, features))
    precision, recall = timed(
      f"{name}_precision_recall",
      _precision_recall.precision_recall,
      real,
      features,
    )
    tell(f"{name}_precision", precision)
    tell(f"{name}_recall", recall)
    if name == "generated":
      shares = [float((classes == k).mean()) for k in range(data.num_classes)]
      card["class_shares"] = shares
      tell("class_share_min", min(shares))
      tell("class_share_max", max(shares))
      if generator.num_classes:
        tell("class_agreement", float((classes == labels).mean()))
  if generator.num_classes and flags.cas_samples:
    images, labels = draw(
      generator,
      variables,
      flags.seed,
      "assess_cas",
      flags.cas_samples,
    )
    student = timed(
      "cas",
      _classifier.train,
      images,
      labels,
      data.num_classes,
      seed=flags.seed,
      epochs=flags.epochs,
    )
    tell("cas", _classifier.accuracy(student, *data.test))
  spent = "  ".join(f"{k} {v}" for k, v in card["seconds"].items())
  print(f"{'seconds':<28} {spent}")
  return card


def pictures(flags, generator, variables) -> None:
  """Writes the sample grid and the rows of latent neighbors, if asked for."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from genrep_jax.lib import pictures as pictures_lib, rendering, rng

  count = _COLUMNS**2
  z, y = rendering.draw(generator, flags.seed, count, stream="assess")
  if generator.num_classes:  # a column per class
    y = jnp.arange(count, dtype=jnp.int32) % generator.num_classes
  z = generator.latents(variables, z, y)
  shape = (-1, _COLUMNS, *generator.resolution, generator.channels)
  apply = jax.jit(generator.apply)

  def save(path, z, y):
    images = np.asarray(apply(variables, z, y)).reshape(shape)
    pictures_lib.save_png(path, pictures_lib.grid(images, scale=2))

  if flags.picture:
    save(flags.picture, z, y)
  if flags.neighbors:
    # Four anchors, a row for each sigma; the first column is the anchor.
    anchors = jnp.repeat(z[:4], len(_SIGMAS) * _COLUMNS, axis=0)
    sigmas = jnp.tile(jnp.repeat(jnp.array(_SIGMAS), _COLUMNS), 4)
    key = jax.random.fold_in(rng.stream(flags.seed, "assess"), 1)
    moves = rng.truncated_normal(key, anchors.shape) * sigmas[:, None]
    moves = moves.at[::_COLUMNS].set(0.0)
    classes = jnp.repeat(y[:4], len(_SIGMAS) * _COLUMNS)
    save(flags.neighbors, anchors + moves, classes)


if __name__ == "__main__":
  _cli.run(main)

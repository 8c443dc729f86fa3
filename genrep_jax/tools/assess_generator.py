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

import json
import pathlib
import time

from genrep_jax.lib import errors
from genrep_jax.tools import _cli

_SIGMAS = (0.2, 0.3, 0.5, 1.0)  # of the latent neighbours in the picture
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
  add("--neighbours", help="write rows of latent neighbours to this PNG")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("assess_generator: takes no --config")
  for name in ("samples", "epochs"):
    if getattr(flags, name) < 1:
      raise errors.UsageError(f"--{name}: {getattr(flags, name)} is not >= 1")
  card = assess(flags)
  if flags.out:
    pathlib.Path(flags.out).write_text(json.dumps(card, indent=1) + "\n")
  return errors.EXIT_OK


def draw(generator, variables, key, count, *, batch=500):
  """Draws images of a generator.

  Args:
    generator: a contracts.Generator.
    variables: its weights.
    key: a PRNG key; image i is a function of (key, i).
    count: how many.
    batch: images per call.

  Returns:
    (uint8 [count h w c], class int32 [count]), numpy.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from genrep_jax.lib import rng

  @jax.jit
  def render(variables, first):
    indices = first + jnp.arange(batch, dtype=jnp.uint32)
    z, y = jax.vmap(generator.sample)(rng.per_index(key, indices))
    z = generator.latents(variables, z, y)
    images = generator.apply(variables, z, y)
    return jnp.rint((images + 1) * 127.5).astype(jnp.uint8), y

  parts = [
    jax.device_get(render(variables, jnp.uint32(first)))
    for first in range(0, count, batch)
  ]
  images, labels = zip(*parts, strict=True)
  return np.concatenate(images)[:count], np.concatenate(labels)[:count]


def assess(flags) -> dict:
  """Measures everything; see the module docstring.

  Args:
    flags: of `main`.

  Returns:
    {what: value}, plain values.
  """
  import jax
  import ml_collections

  from genrep_jax.evaluations import (
    _classifier,
    _precision_recall as precision_recall,
    fid,
  )
  from genrep_jax.lib import frozen, plugins, rng, versions, weights

  made = frozen.from_file(flags.weights)
  generator, variables = made.generator, made.variables
  room = plugins.resolve("data", flags.data)
  options = ml_collections.ConfigDict(room.default_config())
  if flags.data_dir:
    options.data_dir = flags.data_dir
  data = room.make(options)
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
  key = rng.stream(flags.seed, "assess")
  pictures(flags, generator, variables, key)
  fakes, labels = timed(
    "sampling", draw, generator, variables, key, flags.samples
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
      precision_recall.precision_recall,
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
      rng.stream(flags.seed, "assess_cas"),
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


def pictures(flags, generator, variables, key) -> None:
  """Writes the sample grid and the rows of latent neighbours, if asked for."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from genrep_jax.lib import pictures as pictures_lib, rng

  count = _COLUMNS**2
  keys = rng.per_index(key, jnp.arange(count, dtype=jnp.uint32))
  z, y = jax.vmap(generator.sample)(keys)
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
  if flags.neighbours:
    # Four anchors, a row for each sigma; the first column is the anchor.
    anchors = jnp.repeat(z[:4], len(_SIGMAS) * _COLUMNS, axis=0)
    sigmas = jnp.tile(jnp.repeat(jnp.array(_SIGMAS), _COLUMNS), 4)
    moves = rng.truncated_normal(jax.random.fold_in(key, 1), anchors.shape)
    moves = moves * sigmas[:, None]
    moves = moves.at[::_COLUMNS].set(0.0)
    classes = jnp.repeat(y[:4], len(_SIGMAS) * _COLUMNS)
    save(flags.neighbours, anchors + moves, classes)


if __name__ == "__main__":
  _cli.run(main)

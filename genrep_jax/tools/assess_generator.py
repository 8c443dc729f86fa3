"""Measures a generator's weights against the real images they were trained on.

  python -m genrep_jax.tools.assess_generator --weights F [--data_dir D]

Runs the evaluations of generated images and prints their metrics, named by
their protocols, and the seconds each took: fid, kid, precision_recall and
inception_score, in the features of a small classifier trained here on the real
training set, of 10,000 generated against the 10,000 real test images, beside
what 10,000 real training images score; and, for a class-conditional generator,
cas: the accuracy on the real test set of the same classifier trained on 60,000
generated images. --inception FILE adds the features of the FID InceptionV3.
The weights file names its generator itself.
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
  add("--samples", type=int, default=10000, help="for all but CAS")
  add("--cas_samples", type=int, default=60000, help="for CAS; 0: no CAS")
  add("--epochs", type=int, default=5, help="of the classifiers")
  add("--inception", help="file of the FID InceptionV3, to judge by it, too")
  add("--resize", default="clean", help="to its 299 px; an option of fid")
  add("--out", help="write the numbers to this JSON file")
  add("--picture", help="write a 10x10 grid of samples to this PNG")
  add("--neighbors", help="write rows of latent neighbors to this PNG")
  flags, overrides = _cli.parse(arguments, argv)
  if overrides:
    raise errors.UsageError("assess_generator: takes no --config")
  for name, least in (("samples", 4), ("epochs", 1), ("cas_samples", 0)):
    given = getattr(flags, name)
    if given < least:
      raise errors.UsageError(f"--{name}: {given} is not >= {least}")
  card = assess(flags)
  if flags.out:
    files.write_json(flags.out, card)
  return errors.EXIT_OK


def model_of(generator, seed: int, stream: str):
  """Returns a frozen generator as evaluations want it.

  Args:
    generator: a contracts.Generator.
    seed: with the stream, of the latents; image i is a function of both and i.
    stream: name of a stream of random numbers.
  """
  import jax
  import jax.numpy as jnp

  from genrep_jax.lib import contracts, rng

  def generate(variables, index):
    keys = rng.per_index(rng.stream(seed, stream), index)
    z, y = jax.vmap(generator.sample)(keys)
    latents = generator.latents(variables, z, y)
    return jnp.float32(generator.apply(variables, latents, y)), y

  return contracts.Model(generate=generate, channels=generator.channels)


def model_of_images():
  """Returns real images, the variables, as if they were generated."""
  from genrep_jax.lib import contracts, images

  def generate(variables, index):
    shown, labels = variables
    return images.from_uint8(shown[index]), labels[index]

  return contracts.Model(generate=generate)


def entries(flags, samples: int, real: int) -> list[dict]:
  """Returns the evaluations of generated images as entries of a config.

  Args:
    flags: of `main`.
    samples: generated images.
    real: real ones.
  """
  folder = {"data_dir": flags.data_dir} if flags.data_dir else {}
  shared = {
    "data": {"name": flags.data, **folder},
    "samples": samples,
    "seed": flags.seed,
    "epochs": flags.epochs,
  }
  fewest = min(samples, real)
  own = [
    {"name": "fid"},
    {"name": "kid", "subset_size": min(1000, fewest)},
    {"name": "precision_recall", "k": min(3, fewest - 1)},
    {"name": "inception_score", "splits": min(10, samples)},
  ]
  eyes = [{}]
  if flags.inception:
    inception = {"weights": flags.inception, "resize": flags.resize}
    eyes.append({"features": "inception", **inception})
  return [{**shared, **one, **seen} for seen in eyes for one in own]


def measure(entries, model, variables, mesh, seconds=None) -> dict:
  """Runs evaluations of one model.

  Args:
    entries: of the room "evaluations".
    model: what they judge.
    variables: what it wants, on the devices.
    mesh: the device mesh.
    seconds: {evaluation: seconds}, filled in.

  Returns:
    {metric: value}, named by their protocols.
  """
  from genrep_jax.lib import plugins

  found = {}
  for entry in entries:
    start = time.perf_counter()
    made = plugins.make("evaluations", entry, model, mesh)
    found |= dict(made.run(variables))
    if seconds is not None:
      name = f"{entry['name']} {entry.get('features', '')}".strip()
      seconds[name] = round(time.perf_counter() - start, 1)
  return found


def assess(flags) -> dict:
  """Measures everything; see the module docstring.

  Args:
    flags: of `main`.

  Returns:
    {what: value}, plain values; the metrics under "generated" and "real_train".
  """
  import jax
  import ml_collections
  import numpy as np

  from genrep_jax import data as data_lib
  from genrep_jax.evaluations import _generated
  from genrep_jax.lib import (
    environment,
    frozen,
    mesh as mesh_lib,
    plugins,
    versions,
    weights,
  )

  environment.prepare()
  made = frozen.from_file(flags.weights)
  generator, seconds = made.generator, {}
  mesh = mesh_lib.make_mesh()
  whole = mesh_lib.replicated(mesh)
  variables = jax.device_put(made.variables, whole)
  folder = {"data_dir": flags.data_dir} if flags.data_dir else {}
  data = data_lib.load({"name": flags.data, **folder})
  real = len(data.test.labels)
  card = {
    "weights": pathlib.Path(weights.resolve(flags.weights)).name,
    "sha256": made.sha256,
    "parameters": sum(x.size for x in jax.tree.leaves(variables)),
    "made_by": made.metadata,
    "data": data.name,
    "samples": flags.samples,
    "seed": flags.seed,
    "devices": versions.devices(),
    "seconds": seconds,
  }

  def tell(row, metrics):
    card.setdefault(row, {}).update(metrics)
    for name, value in metrics.items():
      print(f"{row + '/' + name:<48} {value:.4f}", flush=True)

  print(f"{'weights':<28} {card['weights']} sha256 {card['sha256']}")
  pictures(flags, generator, made.variables)
  model = model_of(generator, flags.seed, "assess")
  chosen = entries(flags, flags.samples, real)
  cas = []
  if generator.num_classes and flags.cas_samples:
    shared = {key: chosen[0][key] for key in ("data", "seed", "epochs")}
    cas = [{"name": "cas", "samples": flags.cas_samples, **shared}]
  for entry in (*chosen, *cas):  # what is wrong is said before anything runs
    plugins.make("evaluations", entry, model, mesh)
  judged = plugins.defaults("evaluations", "fid") | chosen[0]
  judge = _generated.Judge(ml_collections.ConfigDict(judged), model, mesh)
  start = time.perf_counter()
  test, fake = judge.see(variables)  # kept for the evaluations
  seconds["classifier, sampling"] = round(time.perf_counter() - start, 1)
  classes = fake.logits.argmax(axis=1)
  shares = [float((classes == k).mean()) for k in range(data.num_classes)]
  accuracy = float((test.logits.argmax(axis=1) == test.labels).mean())
  card |= {"classifier_test_accuracy": accuracy, "class_shares": shares}
  tell("classifier", {"test_accuracy": accuracy})
  tell("generated", measure(chosen, model, variables, mesh, seconds))
  tell(
    "generated",
    {"class_share_min": min(shares), "class_share_max": max(shares)},
  )
  if generator.num_classes:
    agreement = float((classes == fake.labels).mean())
    tell("generated", {"class_agreement": agreement})
  shown = (
    np.asarray(data.train.images[: flags.samples]),
    np.asarray(data.train.labels[: flags.samples], np.int32),
  )
  chosen = entries(flags, len(shown[1]), real)
  shown = jax.device_put(shown, whole)
  tell("real_train", measure(chosen, model_of_images(), shown, mesh))
  model = model_of(generator, flags.seed, "assess_cas")
  tell("generated", measure(cas, model, variables, mesh, seconds))
  spent = "  ".join(f"{k} {v}" for k, v in seconds.items())
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

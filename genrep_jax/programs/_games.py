"""What every game with a generator shares: draws, real images, the export."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, options, rng

GRID = 10  # samples are shown as GRID x GRID images
_STANDING_BATCHES = 40  # of _STANDING_SIZE latents each
_STANDING_SIZE = 500


@dataclasses.dataclass(frozen=True)
class Game:
  """A generator that learns from real images, and what is drawn for it.

  Attributes:
    seed: of the run.
    batch: b, images of each kind in an update.
    options: of the program.
    source: of the real images.
    generator: is trained and exported.
    split: shards arrays over the devices by their first axis.
  """

  seed: int
  batch: int
  options: Any
  source: contracts.Source
  generator: contracts.Generator
  split: Callable

  def sample(self, name, indices):
    """Draws (z [n sample_dim], y [n]) of the stream `name`."""
    keys = rng.per_index(rng.stream(self.seed, name), indices)
    return jax.vmap(self.generator.sample)(keys)

  def latents(self, name, update):
    """Draws (z [b sample_dim], y [b]) of one update of one player."""
    return self.split(self.sample(name, rng.indices(update, self.batch)))

  def real_batch(self, frozen, update, times=1):
    """Gathers (images [b h w c] in [-1, 1], labels [b]), epoch by epoch.

    Args:
      frozen: the source's.
      update: number of the batch.
      times: batches that a round takes, and is fed.
    """
    if "fed" in frozen and times > 1:
      turn = update % times
      fed = jax.tree.map(lambda x: x[turn], frozen["fed"])
      frozen = {**frozen, "fed": fed}
    draws = self.source.draw(update, frozen)
    images, labels = (
      self.source.show(draws, None, frozen)[:, 0],
      draws["labels"],
    )
    if not self.generator.num_classes:
      labels = jnp.zeros_like(labels)
    return self.split((images, labels))

  def generate_train(self, params, batch_stats, z, y):
    """The generator in training mode: (images, new batch statistics)."""
    variables = {"params": params, "batch_stats": batch_stats}
    images, updated = self.generator.train_apply(variables, z, y)
    return images, updated["batch_stats"]

  def samples(self, variables):
    """A grid of the generator's images, a column per class."""
    z, y = self.sample("preview", rng.indices(0, GRID**2))
    if self.generator.num_classes:
      y = jnp.arange(GRID**2, dtype=jnp.int32) % self.generator.num_classes
    images = self.generator.apply(variables, z, y)
    return images.reshape(GRID, GRID, *images.shape[1:])

  def generate(self, variables, index):
    """Draws (images [n h w c], classes [n]) of the numbers uint32 [n]."""
    z, y = self.sample("generate", index)
    return self.generator.apply(variables, z, y), y

  def standing(self, variables):
    """Measures a generator's batch-norm statistics anew.

    A moving average of the statistics lags behind the weights, and behind
    averaged ones more: it belongs to other weights. Means over 40 batches of
    500 latents fit (Brock et al. 2019, section 2: "standing statistics").

    Args:
      variables: the generator's.

    Returns:
      {"params", "batch_stats"}.
    """

    def measure(batch):
      indices = rng.indices(batch, _STANDING_SIZE)
      z, y = self.sample("standing_statistics", indices)
      _, new = self.generator.train_apply(variables, z, y, momentum=0.0)
      return new["batch_stats"]

    measured = jax.jit(jax.lax.map, static_argnums=0)(
      measure, jnp.arange(_STANDING_BATCHES, dtype=jnp.uint32)
    )
    statistics = jax.tree.map(lambda x: jnp.mean(x, axis=0), measured)
    return {"params": variables["params"], "batch_stats": statistics}


def check(source, generator, config, *, enlarged: bool = False) -> None:
  """Raises UsageError for parts that cannot play together.

  Args:
    source: of real images.
    generator: that is to be trained.
    config: of the experiment.
    enlarged: real images may be several times as wide as generated ones.
  """
  if generator.train_apply is None:
    options.refuse(
      "generator.name",
      config.generator.name,
      "a generator that has train_apply",
    )
  if source.generator is not None:
    options.refuse(
      "source.name", config.source.name, "real images alone: array"
    )
  shape = (*generator.resolution, generator.channels)
  times = source.image_shape[0] // shape[0] if enlarged else 1
  if source.image_shape != (times * shape[0], times * shape[1], shape[2]):
    options.refuse(
      "data.name",
      f"images {source.image_shape}",
      f"the generator's {shape}" + ", or k times as wide" * enlarged,
    )
  if generator.num_classes not in (0, source.num_classes):
    options.refuse(
      "generator.num_classes",
      generator.num_classes,
      f"0 or, as the real images have, {source.num_classes}",
    )


def export(run, variables, frozen, steps) -> tuple[Any, dict]:
  """Returns (arrays, metadata) of the file of a trained generator.

  Args:
    run: a genrep_jax.run.Run.
    variables: the generator's; its parameters are kept in float16.
    frozen: the program's, with the real images' labels.
    steps: rounds played.
  """
  half = jax.tree.map(lambda x: x.astype(np.float16), variables["params"])
  digest = hashlib.sha256()
  for array in (np.asarray(run.dataset.train.images), frozen["labels"]):
    digest.update(np.ascontiguousarray(array).tobytes())
  entry = run.plain("generator")
  for key in ("weights", "sha256"):  # of what was loaded, not of this file
    entry.pop(key, None)
  metadata = {
    "generator": entry,
    "program": run.plain("program"),
    "data": run.config.data.name,
    "data_sha256": digest.hexdigest(),
    "seed": run.seed,
    "global_batch": run.batch,
    "steps": int(steps),
  }
  return variables | {"params": half}, metadata

"""What sources draw: latents by their number, real images by their row."""

import jax
import jax.numpy as jnp
import numpy as np

from genrep_jax.lib import contracts, images, options, rng


def index(given: contracts.Given, step) -> contracts.Draws:
  """Draws the global sample indices of a step, uint32 [b]."""
  return {"index": given.split(rng.indices(step, given.batch))}


def latents(given: contracts.Given, index, frozen) -> contracts.Draws:
  """Draws "anchor" [b], "anchors" [b latent_dim] and "y" [b].

  The index of a virtual data set goes round.
  """
  anchor = index
  if given.num_anchors:
    anchor = index % jnp.uint32(given.num_anchors)
  if "latents" in frozen:
    z, y = (frozen["latents"][name][anchor] for name in ("z", "y"))
  else:
    keys = rng.per_index(rng.stream(given.seed, "sample"), anchor)
    z, y = jax.vmap(given.generator.sample)(keys)
  z, y = given.split((z, y))
  z = given.split(given.generator.latents(frozen["generator"], z, y))
  return {"anchor": anchor, "anchors": z, "y": y}


def rows(given: contracts.Given, index, frozen) -> contracts.Draws:
  """Draws "row" [b], each row once an epoch, and its "labels" [b]."""
  row = given.split(row_of(given, index, frozen["labels"].shape[0]))
  return {"row": row, "labels": frozen["labels"][row]}


def row_of(given: contracts.Given, index, size: int) -> jax.Array:
  """The rows int32 [b] of `size` that samples [b] see, here and on the host."""
  key = rng.stream(given.seed, "real_images")
  return jax.vmap(lambda i: rng.permuted_index(key, i, size))(index)


def real(draws: contracts.Draws, frozen) -> jax.Array:
  """Gathers real images [b r h w c] in [-1, 1]; r is 1 unless they are fed."""
  if "fed" in frozen:
    return images.from_uint8(frozen["fed"]["images"])
  return images.from_uint8(frozen["images"][draws["row"]])[:, None]


def check_size(given: contracts.Given, size: int, what: str) -> None:
  """Refuses a set that one batch would have to show twice.

  Args:
    given: has the batch.
    size: of the set.
    what: it is, in words.
  """
  if size < given.batch:
    options.refuse("global_batch", given.batch, f"at most the {size} {what}")


def classes_of(dataset: contracts.Dataset) -> int:
  """How many classes labels are of; 0 where an image can have several."""
  return dataset.num_classes if dataset.train.labels.ndim == 1 else 0


def frozen_of(given: contracts.Given, resident: bool = True) -> dict:
  """What a source reads of the parts that it was given.

  Args:
    given: the parts.
    resident: with the real images, else only with their labels.
  """
  frozen = {}
  if given.generator is not None:
    frozen["generator"] = given.variables
    if given.latents is not None:
      frozen["latents"] = given.latents
  if given.dataset is not None:
    split = given.dataset.train
    check_size(
      given, len(split.labels), f"training images of {given.dataset.name}"
    )
    if resident:
      frozen["images"] = np.asarray(split.images)
    single = classes_of(given.dataset) > 0
    labels = split.labels if single else np.zeros(len(split.labels))
    frozen["labels"] = np.asarray(labels, np.int32)
  return frozen


def shape_of(generator: contracts.Generator) -> tuple[int, int, int]:
  """Shape (h, w, c) of a generator's images."""
  return *generator.resolution, generator.channels


def facts_of(dataset: contracts.Dataset) -> dict[str, str]:
  """The banner's line on real images."""
  count = len(dataset.train.images)
  return {"real images": f"{dataset.name}, {count} in train"}

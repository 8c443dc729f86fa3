"""A generator's images and real ones in one batch."""

import jax
import jax.numpy as jnp

from genrep_jax.lib import contracts, options, rng
from genrep_jax.sources import _draws, _fed

NEEDS = frozenset({"generator", "data"})
OPTIONS = {
  "mix_ratio": options.number(
    0.5, "probability that an anchor is a real image", low=0, high=1
  ),
  "stream": options.flag(
    False, "the host feeds the real images, which else are on the devices"
  ),
  "prefetch": _fed.PREFETCH,
}


def make(cfg, given: contracts.Given) -> contracts.Source:
  """Makes the source: anchor i is real by a draw of its own.

  Views of a real anchor are T_x's alone. Labels exist where generator and real
  images have equally many classes; they are then taken to be the same.

  Raises:
    UsageError: images of two shapes.
  """
  generator, dataset = given.generator, given.dataset
  shape = _draws.shape_of(generator)
  real_shape = tuple(dataset.train.images.shape[1:])
  if real_shape != shape:
    options.refuse(
      "source.name",
      "mix",
      f"images of one shape; real images are {real_shape}, the generator's "
      f"{shape}",
    )
  classes = _draws.classes_of(dataset)
  same = generator.num_classes == classes

  def draw(step, frozen):
    draws = _draws.index(given, step)
    index = draws["index"]
    draws |= _draws.rows(given, index, frozen)
    draws |= _draws.latents(given, index, frozen)
    keys = rng.per_index(rng.stream(given.seed, "mix"), index)
    is_real = given.split(
      jax.vmap(lambda k: jax.random.bernoulli(k, cfg.mix_ratio))(keys)
    )
    labels = jnp.where(is_real, draws["labels"], draws["y"])
    return draws | {"is_real": is_real, "labels": labels}

  def show(draws, latents, frozen):
    images = given.render(frozen["generator"], latents, draws["y"])
    is_real = draws["is_real"][:, None, None, None, None]
    return jnp.where(is_real, _draws.real(draws, frozen), images)

  return contracts.Source(
    image_shape=shape,
    num_classes=classes if same else 0,
    epoch_size=given.num_anchors or len(dataset.train.images),
    frozen=_draws.frozen_of(given, resident=not cfg.stream),
    draw=draw,
    show=show,
    facts=_draws.facts_of(dataset),
    generator=generator,
    feed=_fed.whole(given, cfg.prefetch) if cfg.stream else None,
  )

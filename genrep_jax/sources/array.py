"""Real images that lie on the devices, each once an epoch."""

from genrep_jax.lib import contracts
from genrep_jax.sources import _draws

NEEDS = frozenset({"data"})


def make(cfg, given: contracts.Given) -> contracts.Source:
  """Makes the source of the training split; views are T_x's alone."""
  del cfg
  dataset = given.dataset

  def draw(step, frozen):
    draws = _draws.index(given, step)
    return draws | _draws.rows(given, draws["index"], frozen)

  def show(draws, latents, frozen):
    del latents
    return _draws.real(draws, frozen)

  return contracts.Source(
    image_shape=tuple(dataset.train.images.shape[1:]),
    num_classes=_draws.classes_of(dataset),
    epoch_size=len(dataset.train.images),
    frozen=_draws.frozen_of(given),
    draw=draw,
    show=show,
    facts=_draws.facts_of(dataset),
  )

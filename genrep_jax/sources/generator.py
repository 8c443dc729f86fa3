"""Images of a frozen generator, rendered inside the program."""

from genrep_jax.lib import contracts
from genrep_jax.sources import _draws

NEEDS = frozenset({"generator"})


def make(cfg, given: contracts.Given) -> contracts.Source:
  """Makes the source; its labels are the classes that are asked for."""
  del cfg
  generator = given.generator

  def draw(step, frozen):
    draws = _draws.index(given, step)
    draws |= _draws.latents(given, draws["index"], frozen)
    return draws | {"labels": draws["y"]}

  def show(draws, latents, frozen):
    return given.render(frozen["generator"], latents, draws["y"])

  return contracts.Source(
    image_shape=_draws.shape_of(generator),
    num_classes=generator.num_classes,
    epoch_size=given.num_anchors,
    frozen=_draws.frozen_of(given),
    draw=draw,
    show=show,
    facts={},
    generator=generator,
    differentiable=True,
  )

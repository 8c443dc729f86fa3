"""GenRep's T_x: SimCLR's, milder and without the blur.

Jahanian et al. 2021, code: RandomResizedCrop(112, scale (0.2, 1)), flip,
ColorJitter(.4, .4, .4, .1) with probability 0.8, RandomGrayscale(0.2),
ImageNet's mean and std.
"""

from genrep_jax.lib import contracts
from genrep_jax.views.pixel import _pipeline


def default_config() -> dict:
  """Returns GenRep's options, for 128 px images."""
  return _pipeline.options("genrep")


check = _pipeline.check


def make(cfg) -> contracts.PixelView:
  """Makes the view; see `_pipeline.make_view`."""
  return _pipeline.make_view(cfg)

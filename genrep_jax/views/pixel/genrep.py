"""GenRep's T_x: SimCLR's, milder and without the blur.

Jahanian et al. 2021, code: RandomResizedCrop(112, scale (0.2, 1)), flip,
ColorJitter(.4, .4, .4, .1) with probability 0.8, RandomGrayscale(0.2),
ImageNet's mean and std.
"""

from genrep_jax.views.pixel import _family

OPTIONS = _family.options()
make = _family.make

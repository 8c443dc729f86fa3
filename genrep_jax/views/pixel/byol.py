"""BYOL's T_x (Grill et al. 2020, table 6): its two views differ.

Both: SimCLR's crop and flip, colors .4, .4, .2, .1. View 0 is always blurred;
view 1 seldom, but is solarized with probability 0.2. Of more views, even ones
are drawn as view 0 and odd ones as view 1.
"""

from genrep_jax.views.pixel import _family

# For ImageNet's photographs at 224 px.
OPTIONS = _family.options(
  crop_px=224,
  scale=(0.08, 1.0),
  saturation=0.2,
  blur_probability=(1.0, 0.1),
  blur_kernel_px=0,
  solarize_probability=(0.0, 0.2),
)
make = _family.make

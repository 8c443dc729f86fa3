"""SimCLR's T_x (Chen et al. 2020, appendix A), at color strength 1.

Smaller boxes and colors of twice GenRep's strength, and a blur for every
second view, whose window is a tenth of the side. At strength s the colors are
.8 s, .8 s, .8 s, .2 s; the paper's for CIFAR: s = 0.5, no blur.
"""

from genrep_jax.views.pixel import _family

# For ImageNet's photographs at 224 px.
OPTIONS = _family.options(
  crop_px=224,
  scale=(0.08, 1.0),
  brightness=0.8,
  contrast=0.8,
  saturation=0.8,
  hue=0.2,
  blur_probability=0.5,
  blur_kernel_px=0,
)
make = _family.make

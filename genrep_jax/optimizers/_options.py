"""Options that several optimizers have."""

from genrep_jax.lib import options

MOMENTUM = {
  "momentum": options.number(
    0.9, "of the accumulated gradient", low=0, below=1
  ),
  "nesterov": options.flag(False, "look ahead along the momentum"),
}
MOMENTS = {
  "b1": options.number(0.9, "decay of the gradient's average", low=0, below=1),
  "b2": options.number(0.999, "decay of its square's", low=0, below=1),
  "eps": options.number(1e-8, "added to the root", above=0, high=1),
}

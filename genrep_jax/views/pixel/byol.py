"""BYOL's T_x (Grill et al. 2020, table 6): its two views differ.

Both: SimCLR's crop and flip, colours .4, .4, .2, .1. View 0 is always blurred;
view 1 seldom, but is solarised with probability 0.2. Of more views, even ones
are drawn as view 0 and odd ones as view 1.
"""

from genrep_jax.lib import contracts
from genrep_jax.views.pixel import _checks, _pipeline

_PER_VIEW = ("blur_probability", "solarize_probability")


def default_config() -> dict:
  """Returns BYOL's options, for ImageNet's photographs at 224 px."""
  return _pipeline.options(
    "byol",
    crop_px=224,
    scale=(0.08, 1.0),
    saturation=0.2,
    blur_probability=(1.0, 0.1),  # of view 0, of view 1, and so on in turn
    blur_kernel_px=0,
    solarize_probability=(0.0, 0.2),  # likewise
  )


def check(cfg, image_shape) -> None:
  """Raises UsageError where images of `image_shape` (h, w, c) do not fit."""
  for number in range(max(len(_values(cfg, key)) for key in _PER_VIEW)):
    _pipeline.check(_of_view(cfg, number), image_shape)


def make(cfg) -> contracts.PixelView:
  """Makes view 0."""
  return make_for_view(cfg, 0)


def make_for_view(cfg, number: int) -> contracts.PixelView:
  """Makes the view of a number.

  Args:
    cfg: options as in `default_config`.
    number: of the view, from 0.

  Returns:
    (key, image [h w c] in [-1, 1]) -> float32 [h' w' c], normalised; the same
    function for views that do not differ.

  Raises:
    UsageError: an option out of range.
  """
  return _pipeline.make_view(_of_view(cfg, number))


def _of_view(cfg, number):
  own = {key: _values(cfg, key) for key in _PER_VIEW}
  return _pipeline.changed(
    cfg, **{key: values[number % len(values)] for key, values in own.items()}
  )


def _values(cfg, key):
  """Returns an option's values by view: at least one."""
  value = cfg[key]
  values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
  if not values:
    _checks.refuse(cfg.name, key, values, "a probability per view, in turn")
  return values

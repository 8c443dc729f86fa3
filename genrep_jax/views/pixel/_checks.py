"""What the pixel views refuse at the door, each in one line."""

import math

from genrep_jax.lib import errors


def refuse(view: str, what: str, given, allowed: str):
  """Raises UsageError "views.pixel VIEW: WHAT=GIVEN; allowed: ALLOWED"."""
  raise errors.UsageError(
    f"views.pixel {view}: {what}={given!r}; allowed: {allowed}"
  )


def number(view, cfg, key, low, high=math.inf):
  """Checks low <= cfg[key] <= high; returns it as a float."""
  value = float(cfg[key])
  if not (math.isfinite(value) and low <= value <= high):
    upper = "" if high == math.inf else f" <= {high:g}"
    refuse(view, key, cfg[key], f"{low:g} <= {key}{upper}")
  return value


def interval(view, cfg, key, high=math.inf):
  """Checks 0 < minimum <= maximum <= high; returns (minimum, maximum)."""
  pair = tuple(float(x) for x in cfg[key])
  if (
    len(pair) != 2 or not 0 < pair[0] <= pair[1] <= high or math.isinf(pair[1])
  ):
    upper = "" if high == math.inf else f" <= {high:g}"
    refuse(view, key, tuple(cfg[key]), f"0 < minimum <= maximum{upper}")
  return pair


def normalisation(view, cfg):
  """Checks mean and std; returns them as tuples of floats."""
  mean = tuple(float(x) for x in cfg.mean)
  std = tuple(float(x) for x in cfg.std)
  for key, value in (("mean", mean), ("std", std)):
    if len(value) not in (1, 3) or not all(map(math.isfinite, value)):
      refuse(view, key, value, "1 or 3 finite numbers")
  if min(std) <= 0:
    refuse(view, "std", std, "positive numbers")
  return mean, std


def crop_px(view, cfg):
  """Checks crop_px alone; returns it as an int."""
  value = cfg.crop_px
  if int(value) != value or value < 0:
    refuse(view, "crop_px", value, "0 (keep the input's size) or more pixels")
  return int(value)


def channels(view, cfg, num_channels):
  """Checks that mean and std fit an image of `num_channels`."""
  for key in ("mean", "std"):
    if len(cfg[key]) not in (1, num_channels):
      refuse(
        view,
        key,
        tuple(cfg[key]),
        f"1 or {num_channels} numbers for images of {num_channels} channel(s)",
      )


def crop_fits(view, cfg, image_shape):
  """Checks that a crop of crop_px pixels is not larger than the image."""
  height, width, _ = image_shape
  if cfg.crop_px > min(height, width):
    refuse(
      view,
      "crop_px",
      cfg.crop_px,
      f"at most {min(height, width)}, the side of the {height}x{width} images",
    )

"""Options that all pixel views have, and what the images must be for them."""

from genrep_jax.lib import options

CROP_PX = options.integer(
  112,
  "side of the result; 0: as large as the input",
  low=0,
  high=4096,
  only=("not 1, 2 or 3", lambda px: px not in (1, 2, 3)),
  unit="px",
)
NORMALIZATION = {
  "mean": options.several(
    (0.485, 0.456, 0.406),
    options.number(low=0, high=1),
    "of pixels in [0, 1]; one for all channels, or for each",
    lengths=(1, 3),
  ),
  "std": options.several(
    (0.229, 0.224, 0.225),
    options.number(low=0.001, high=10),
    "likewise; what is shown is (x - mean) / std",
    lengths=(1, 3),
  ),
}


def side(cfg, image_shape, path: str = "views.pixel.crop_px") -> int:
  """Returns the shortest side of the views of images of a shape (h, w, c).

  Raises:
    UsageError: a crop larger than the image, which the resampler could enlarge
      (but the config was written for other images), or a mean or std for other
      channels.
  """
  height, width, channels = image_shape
  if cfg.crop_px > min(height, width):
    options.refuse(
      path,
      cfg.crop_px,
      f"at most {min(height, width)}, the side of the {height}x{width} images",
    )
  for key in ("mean", "std"):
    if len(cfg[key]) not in (1, channels):
      options.refuse(
        f"views.pixel.{key}",
        tuple(cfg[key]),
        f"1 or {channels} numbers for images of {channels} channel(s)",
      )
  return cfg.crop_px or min(height, width)

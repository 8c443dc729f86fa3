"""Real images that the host decodes and feeds, each once an epoch.

For sets that do not fit on the devices. Which image sample k shows is the same
function of the seed and k as where they are resident (`array`): a run that is
resumed needs no state of a loader.
"""

from genrep_jax.lib import contracts, options
from genrep_jax.sources import _draws, _fed

NEEDS = frozenset({"data"})
OPTIONS = {
  "crop": options.choice(
    "device",
    ("device", "decode"),
    "where T_x's crop is cut: on the devices, of images of one size, or of the "
    "original image while it is decoded, as ImageNet's recipes do",
  ),
  "prefetch": _fed.PREFETCH,
}


def make(cfg, given: contracts.Given) -> contracts.Source:
  """Makes the source of the training split; views are T_x's alone.

  Raises:
    UsageError: crop="decode" with images or a T_x that cannot be cut.
  """
  dataset = given.dataset
  shape = tuple(dataset.train.images.shape[1:])
  decode = cfg.crop == "decode"
  if decode:
    side, boxes = _cut(given)
    shape = (side, side, shape[-1])
    feed = _fed.crops(given, cfg.prefetch, side, boxes)
  else:
    feed = _fed.whole(given, cfg.prefetch)

  def draw(step, frozen):
    draws = _draws.index(given, step)
    return draws | _draws.rows(given, draws["index"], frozen)

  def show(draws, latents, frozen):
    del latents
    return _draws.real(draws, frozen)

  return contracts.Source(
    image_shape=shape,
    num_classes=_draws.classes_of(dataset),
    epoch_size=len(dataset.train.images),
    frozen=_draws.frozen_of(given, resident=False),
    draw=draw,
    show=show,
    facts=_draws.facts_of(dataset),
    feed=feed,
    own_images=decode,
    cropped=decode,
  )


def _cut(given):
  """Returns (side of the crops in pixels, PixelViews.boxes)."""
  path = "source.crop"
  images = given.dataset.train.images
  if not hasattr(images, "crops"):
    options.refuse(
      path,
      "decode",
      f"'device': {given.dataset.name} is not decoded from files",
    )
  made = given.pixel_views(tuple(images.shape[1:]), given.renderings)
  if not made.boxes:
    options.refuse(
      path,
      "decode",
      "'device', or a views.pixel that cuts crops of one size for every view",
    )
  return made.crop_px, made.boxes

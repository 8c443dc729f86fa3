"""Image files to pixels, whole or boxes of them.

JPEG, PNG, WebP and BMP, told by their first bytes and not by their names. What
a picture shows is what comes out: turned as its EXIF says, CMYK and palettes as
RGB, alpha over white, of 16 bits the upper 8. ICC profiles are not read. Gray
is ITU-R 601 luma. What is animated, truncated, damaged or too large is refused
in one line; of a camera's multi-picture JPEG the first picture counts.
"""

import concurrent.futures
import functools
import io
import math
import os
import warnings

import numpy as np
from PIL import (
  BmpImagePlugin,
  Image,
  JpegImagePlugin,
  PngImagePlugin,
  WebPImagePlugin,
)

from genrep_jax.lib import errors, files, untrusted

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp")
MAX_PIXELS = 89_478_485  # of an image; above it Pillow, too, warns of bombs
MAX_BYTES = 1 << 28  # of a file
_ORIENTATION = 0x0112  # EXIF tag
_READERS = (  # as Image.open would choose, without its global state
  (b"\xff\xd8\xff", JpegImagePlugin.jpeg_factory),
  (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
  (b"RIFF", WebPImagePlugin.WebPImageFile),
  (b"BM", BmpImagePlugin.BmpImageFile),
)
# Of odd metadata: the pixels are what counts, and damage to them raises.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(errors.UsageError):
  """An image that cannot be decoded; the message names it and says why."""


def is_image(name: str) -> bool:
  """Says whether a file is an image by its name; hidden ones are not."""
  return name[:1] != "." and name.lower().endswith(EXTENSIONS)


def cores() -> int:
  """Returns how many cores this process may use."""
  return len(os.sched_getaffinity(0))


@functools.cache
def pool() -> concurrent.futures.ThreadPoolExecutor:
  """Returns the threads that decode, one for each core of this process.

  A task must not wait for another one of these threads.
  """
  return concurrent.futures.ThreadPoolExecutor(cores(), "decode")


def read(path: str | os.PathLike) -> bytes:
  """Reads a file.

  Raises:
    Unreadable: there is none, it is no regular file, or of over `MAX_BYTES`.
  """
  try:
    with open(files.regular(path), "rb") as file:
      content = file.read(MAX_BYTES + 1)
  except OSError as error:
    raise _unreadable(path, error.strerror or error) from error
  if len(content) > MAX_BYTES:
    raise _unreadable(path, f"allowed: {MAX_BYTES} bytes")
  return content


def decode(
  source: str | os.PathLike | bytes | np.ndarray,
  channels: int,
  *,
  image_px: int = 0,
  resize_px: int = 0,
  boxes=None,
  name: str = "an image",
) -> np.ndarray:
  """Decodes an image.

  Args:
    source: a path, the content of a file, or pixels, uint8 [h w 1 or 3].
    channels: 1 (gray) or 3 (RGB).
    image_px: side of the result; 0: the image as it is.
    resize_px: without boxes, the shorter side after a bicubic resize and before
      the central square is cut out; 0: image_px. ImageNet's habit is 256 for
      224.
    boxes: v times (top, left, height, width) in pixels of the whole image, as
      shown: what is cut out and resized to image_px, bilinear with
      antialiasing. A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its
      size that enlarges no box.
    name: of the content, for messages.

  Returns:
    uint8 [h w c], of boxes [v h w c].

  Raises:
    Unreadable: see the module.
  """
  image, turn, name = _opened(source, name)
  try:
    if boxes is not None:
      pictures = _boxes(image, turn, boxes, channels, image_px)
    else:
      picture = _converted(image, channels)
      if image_px:
        picture = _center(picture, turn, image_px, resize_px or image_px)
      pictures = [picture]
    pixels = [np.asarray(one) for one in pictures]
  except Exception as error:  # Pillow raises nearly anything over damage
    raise _unreadable(name, error) from error
  shown = [_turned(x.reshape(*x.shape[:2], channels), turn) for x in pixels]
  return shown[0] if boxes is None else np.stack(shown)


def examine(
  source: str | os.PathLike | bytes | np.ndarray, name: str = "an image"
) -> tuple[int, int]:
  """Decodes an image to see whether it can be, as cheaply as that goes.

  Args:
    source: see `decode`.
    name: see `decode`.

  Returns:
    (height, width), as it is shown.

  Raises:
    Unreadable: as `decode` would.
  """
  image, turn, name = _opened(source, name)
  width, height = image.size
  try:
    image.draft(None, (1, 1))
    image.load()
  except Exception as error:
    raise _unreadable(name, error) from error
  return (width, height) if turn >= 5 else (height, width)


def _unreadable(name, reason) -> Unreadable:
  text = reason if isinstance(reason, str) else " ".join(str(reason).split())
  text = text or type(reason).__name__
  text = text if text.isprintable() else ascii(text)
  return Unreadable(f"{untrusted.named(name)}: {text[:200]}")


def _opened(source, name):
  """Returns (image, its EXIF orientation 1..8, its name)."""
  if isinstance(source, np.ndarray):
    plain = source[..., 0] if source.shape[2:] == (1,) else source
    try:
      return Image.fromarray(plain), 1, name
    except Exception as error:
      given = f"{source.dtype}{list(source.shape)}"
      raise _unreadable(name, f"{given}, not uint8 [h w 1 or 3]") from error
  if not isinstance(source, bytes):
    source, name = read(source), os.fspath(source)
  reader = next(
    (to for magic, to in _READERS if source.startswith(magic)), None
  )
  if reader is None:
    raise _unreadable(name, "not a JPEG, PNG, WebP or BMP image")
  try:
    image = reader(io.BytesIO(source), "")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
  except Exception as error:
    raise _unreadable(name, error) from error
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise _unreadable(
      name, f"{width}x{height} pixels; allowed: {MAX_PIXELS} in all"
    )
  if frames > 1:
    raise _unreadable(name, f"animated ({frames} frames); allowed: one image")
  return image, _orientation(image), name


def _orientation(image) -> int:
  if "exif" not in image.info:
    return 1
  try:
    turn = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # metadata may be wrong in any way
    return 1
  return turn if turn in range(1, 9) else 1


def _flips(turn):
  """(rows, columns) are reversed before rows and columns swap (turn >= 5)."""
  return turn in (3, 4, 6, 7), turn in (2, 3, 7, 8)


def _turned(pixels, turn):
  """Returns stored pixels [h w c] as they are shown."""
  rows, columns = _flips(turn)
  pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
  return pixels.swapaxes(0, 1) if turn >= 5 else pixels


def _stored(box, turn, height, width):
  """Returns a box of the image as shown as one of it as stored [h w]."""
  top, left, tall, wide = box
  if turn >= 5:
    top, left, tall, wide = left, top, wide, tall
  rows, columns = _flips(turn)
  top = height - top - tall if rows else top
  left = width - left - wide if columns else left
  return top, left, tall, wide


def _boxes(image, turn, boxes, channels, side):
  """Cuts boxes (as shown) out and resizes them, still turned as stored."""
  width, height = image.size
  boxes = [_stored(box, turn, height, width) for box in boxes]
  tall, wide = (min(box[axis] for box in boxes) for axis in (2, 3))
  most = (math.ceil(width * side / wide), math.ceil(height * side / tall))
  drafted = image.draft(None, most)
  if drafted is not None:
    share = drafted[1][2] / width
    boxes = [[x * share for x in box] for box in boxes]
  return [_cut(image, box, channels, side) for box in boxes]


def _cut(image, box, channels, side):
  """Cuts a box (as stored) out and resizes it."""
  top, left, tall, wide = box
  width, height = image.size
  x, y = max(0, math.floor(left)), max(0, math.floor(top))
  right, bottom = math.ceil(left + wide), math.ceil(top + tall)
  picture = image.crop((x, y, min(right, width), min(bottom, height)))
  x, y = left - x, top - y
  within = x, y, min(x + wide, picture.width), min(y + tall, picture.height)
  return _converted(picture, channels).resize(
    (side, side), Image.Resampling.BILINEAR, box=within
  )


def _center(picture, turn, side, shorter):
  """Resizes the shorter side and cuts the central square out."""
  width, height = picture.size
  scale = shorter / min(width, height)
  size = max(shorter, round(width * scale)), max(shorter, round(height * scale))
  wide, tall = size[::-1] if turn >= 5 else size
  shown = (tall - side) // 2, (wide - side) // 2, side, side
  top, left, _, _ = _stored(shown, turn, size[1], size[0])
  box = left, top, left + side, top + side
  if size == picture.size:
    return picture.crop(box)
  # Nothing but the square is computed, of the same pixels around it.
  scales = 2 * (width / size[0], height / size[1])
  box = tuple(x * scale for x, scale in zip(box, scales, strict=True))
  return picture.resize((side, side), Image.Resampling.BICUBIC, box=box)


def _converted(image, channels):
  """Returns an image of mode "L" or "RGB"."""
  if image.mode[:1] == "I":  # 16 bits, perhaps in 32
    pixels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
    image = Image.fromarray(pixels.astype(np.uint8))
  if image.mode[-1:] in "Aa" or "transparency" in image.info:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image)
    if channels == 1:
      image = image.convert("RGB")
  return image.convert("L" if channels == 1 else "RGB")

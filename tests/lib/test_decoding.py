"""Image files of every kind, and every kind of damage, by one function."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from genrep_jax.lib import decoding

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}}
JPEG = {"quality": 95, "subsampling": 0}


def picture(height=60, width=80):
  """A smooth picture, in which no direction looks like another."""
  coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3))
  return Image.fromarray(coarse.astype(np.uint8)).resize(
    (width, height), Image.Resampling.BICUBIC
  )


def encoded(image, kind="PNG", **how):
  file = io.BytesIO()
  image.save(file, kind, **how)
  return file.getvalue()


def decoded(content, channels=3, **how):
  return decoding.decode(content, channels, **how).astype(int)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_pixels_are_those_that_were_written(kind, tmp_path):
  content = encoded(picture(), kind, **LOSSLESS[kind])
  np.testing.assert_array_equal(decoded(content), np.asarray(picture()))
  assert decoding.examine(content) == (60, 80)
  path = tmp_path / "misnamed.jpg"  # ImageNet has one
  path.write_bytes(content)
  np.testing.assert_array_equal(decoded(path), decoded(content))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_exif_rotation_against_pillows(kind, turn):
  exif = Image.Exif()
  exif[0x0112] = turn
  how = JPEG if kind == "JPEG" else {}
  content = encoded(picture(), kind, exif=exif, **how)
  shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
  np.testing.assert_array_equal(decoded(content), np.asarray(shown))
  assert decoding.examine(content) == shown.size[::-1]
  top, left, tall, wide = 10, 4, 41, 31  # larger than the crop: no draft
  by_hand = shown.crop((left, top, left + wide, top + tall))
  by_hand = by_hand.resize((29, 29), Image.Resampling.BILINEAR)
  (box,) = decoded(content, image_px=29, boxes=[(top, left, tall, wide)])
  np.testing.assert_allclose(box, np.asarray(by_hand), atol=1)
  center = decoded(content, image_px=33, resize_px=40)
  by_hand = shown.resize(
    (53, 40) if shown.width > shown.height else (40, 53),
    Image.Resampling.BICUBIC,
  )
  left, top = (by_hand.width - 33) // 2, (by_hand.height - 33) // 2
  by_hand = by_hand.crop((left, top, left + 33, top + 33))
  np.testing.assert_allclose(center, np.asarray(by_hand), atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_modes(channels):
  rgb = picture()
  gray = rgb.convert("L")
  mode = "L" if channels == 1 else "RGB"

  def same(content, image, atol=0):
    expected = np.asarray(image.convert(mode)).reshape(60, 80, channels)
    np.testing.assert_allclose(decoded(content, channels), expected, atol=atol)

  same(encoded(rgb), rgb)
  same(encoded(gray), gray)
  palette = rgb.quantize(16)
  same(encoded(palette), palette.convert("RGB"))
  same(encoded(gray.convert("1")), gray.convert("1"))
  deep = Image.fromarray((np.asarray(gray).astype(np.uint16) << 8) + 77)
  same(encoded(deep), gray)
  cmyk = encoded(rgb.convert("CMYK"), "JPEG", **JPEG)
  same(cmyk, rgb, atol=9)


def test_alpha_lies_over_white():
  rgba = picture().convert("RGBA")
  rgba.putalpha(Image.fromarray(np.full((60, 80), 102, np.uint8)))
  by_hand = np.asarray(picture()) * 0.4 + 255 * 0.6
  np.testing.assert_allclose(decoded(encoded(rgba)), by_hand, atol=1)
  gray = Image.new("LA", (4, 4), (0, 0))
  assert (decoded(encoded(gray), 1) == 255).all()
  see_through = Image.new("P", (4, 4), 0)
  see_through.putpalette([9, 9, 9, 200, 0, 0])
  assert (decoded(encoded(see_through, transparency=0)) == 255).all()
  assert (decoded(encoded(see_through, transparency=1)) == 9).all()


def test_draft_mode_is_near_the_whole():
  content = encoded(picture(480, 640), "JPEG", **JPEG)
  for box in ((0, 0, 480, 640), (101, 3, 333, 411), (200, 300, 80, 60)):
    whole = decoded(
      encoded(Image.open(io.BytesIO(content))), image_px=40, boxes=[box]
    )
    draft = decoded(content, image_px=40, boxes=[box])
    assert np.abs(draft - whole).mean() < 1.5, box
    # To be off by a pixel of 480 would show.
    moved = (box[0], box[1] + 12, box[2], box[3] - 12)
    other = decoded(content, image_px=40, boxes=[moved])
    assert np.abs(other - whole).mean() > np.abs(draft - whole).mean()


def test_resize_crops_the_center():
  wide = np.zeros((8, 24, 3), np.uint8)
  wide[:4, 8:16] = 200  # the central square: bright above, darker below
  wide[4:, 8:16] = 100
  image = decoding.decode(wide, 3, image_px=4).astype(int)
  assert image.shape == (4, 4, 3)
  assert (abs(image[0, 1:3] - 200) < 12).all()
  assert (abs(image[3, 1:3] - 100) < 12).all()
  square = wide[:, 8:16]
  same = decoding.decode(square, 3, image_px=8)
  np.testing.assert_array_equal(same, square)
  gray = decoding.decode(square[..., :1], 1, image_px=4)
  np.testing.assert_allclose(
    gray[..., 0], image[:, 1:3].mean((1, 2))[:, None].repeat(4, 1), atol=12
  )


def test_pixels_are_treated_as_files_are():
  content = encoded(picture())
  for channels in (1, 3):
    for how in (
      {"image_px": 21, "resize_px": 30},
      {"image_px": 9, "boxes": [(3, 4, 20, 30)]},
      {},
    ):
      np.testing.assert_array_equal(
        decoded(np.asarray(picture()), channels, **how),
        decoded(content, channels, **how),
      )
  gray = np.asarray(picture().convert("L"))[..., None]
  assert decoded(gray, 3, image_px=8).shape == (8, 8, 3)
  assert decoding.examine(gray) == (60, 80)
  assert "int64[2, 2, 2], not uint8" in refused(np.zeros((2, 2, 2), np.int64))


def refused(content, **how):
  lines = []
  for read in (
    lambda: decoding.decode(content, 3, name="it.png", **how),
    lambda: decoding.examine(content, "it.png"),
  ):
    with pytest.raises(decoding.Unreadable) as caught:
      read()
    lines.append(str(caught.value))
    assert "\n" not in lines[-1]
  return lines[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_files_are_refused_wherever_they_end(kind):
  content = encoded(picture(), kind)  # what ends a PNG holds no pixels
  last = len(content) - (32 if kind == "PNG" else 1)
  for end in np.linspace(0, last, 17).astype(int):
    assert refused(content[:end]).startswith("it.png: ")


def test_what_is_no_image(tmp_path):
  line = "it.png: not a JPEG, PNG, WebP or BMP image"
  assert refused(b"") == refused(b"GIF89a") == refused(b"<html>") == line
  assert refused(b"RIFF....WAVEfmt ") != line
  animated = encoded(
    picture(), save_all=True, append_images=[Image.new("RGB", (80, 60))]
  )
  assert refused(animated) == (
    "it.png: animated (2 frames); allowed: one image"
  )
  os.mkfifo(tmp_path / "fifo.png")
  for name, reason in (
    ("none.png", "No such file or directory"),
    ("fifo.png", "it is a fifo, not a file"),
    ("", "it is a folder, not a file"),
  ):
    with pytest.raises(decoding.Unreadable) as caught:
      decoding.decode(tmp_path / name, 3)
    assert str(caught.value) == f"{tmp_path / name}: {reason}"


def test_a_bomb_is_refused_before_it_is_decoded():
  content = bytearray(encoded(Image.new("L", (1, 1))))
  content[16:24] = struct.pack(">II", 60_000, 60_000)
  content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
  assert "60000x60000 pixels; allowed: 89478485" in refused(bytes(content))


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
def test_wrong_metadata_does_not_matter():
  for exif in (
    b"Exif\0\0",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01",
    b"\xff" * 40,
  ):
    content = encoded(picture(), "JPEG", exif=exif)
    assert decoded(content).shape == (60, 80, 3)
  exif = Image.Exif()
  exif[0x0112] = 99
  assert decoded(encoded(picture(), exif=exif)).shape == (60, 80, 3)


def test_boxes_of_one_decode_are_those_of_several():
  content = encoded(picture(60, 80))
  boxes = [(0, 0, 60, 80), (3, 4, 20, 30), (30, 40, 30, 40)]
  together = decoded(content, image_px=12, boxes=boxes)
  assert together.shape == (3, 12, 12, 3)
  for box, cut in zip(boxes, together, strict=True):
    np.testing.assert_array_equal(
      decoded(content, image_px=12, boxes=[box])[0], cut
    )
  # Of a JPEG the smallest box says how small it may be decoded: the large one
  # comes out as near to the whole image, or nearer.
  large = encoded(picture(480, 640), "JPEG", **JPEG)
  for pair in ([boxes[0], boxes[1]], [boxes[1], boxes[0]]):
    cut = decoded(large, image_px=12, boxes=pair)
    small = decoded(large, image_px=12, boxes=[boxes[1]])[0]
    np.testing.assert_array_equal(cut[pair.index(boxes[1])], small)


def test_names():
  assert all(map(decoding.is_image, ("a.jpg", "B.JPEG", "ü.PnG", "x.y.webp")))
  assert not any(map(decoding.is_image, (".a.jpg", "jpg", "a.jpg.txt", "")))


def test_threads_decode_what_one_does():
  contents = [encoded(picture(20 + n, 30), "JPEG") for n in range(16)]
  read = lambda content: decoding.decode(content, 3, image_px=16)  # noqa: E731
  for one, other in zip(
    decoding.pool().map(read, contents), map(read, contents), strict=True
  ):
    np.testing.assert_array_equal(one, other)

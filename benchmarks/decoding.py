"""How fast images are decoded: images per second by kind, size and threads.

`python -m benchmarks.decoding` takes scikit-learn's two photographs, saves them
in each format, and decodes them whole (resized and center-cropped) and as
random crops, beside what torchvision's loader does with Pillow. simplejpeg and
Grain are measured, too, where they are installed. The first column is of one
core, by the process's own time, the others are what threads did by the clock;
each is the best of some rounds: what a machine can do when nobody else is on
it.
"""

import argparse
import concurrent.futures
import hashlib
import io
import time

import numpy as np
from PIL import Image

from genrep_jax.lib import decoding

_KINDS = (  # (format, its options, shorter side, side of the result)
  ("JPEG", {"quality": 90}, 375, 224),
  ("JPEG", {"quality": 90}, 375, 112),
  ("JPEG", {"quality": 90}, 256, 112),
  ("PNG", {}, 256, 112),
  ("PNG", {}, 32, 32),
  ("WEBP", {"quality": 90}, 375, 112),
)


def contents(kind, options, shorter) -> list[bytes]:
  """Returns both photographs as files."""
  from sklearn import datasets

  found = []
  for name in ("china.jpg", "flower.jpg"):
    image = Image.fromarray(datasets.load_sample_image(name))
    scale = shorter / min(image.size)
    image = image.resize(tuple(round(scale * x) for x in image.size))
    file = io.BytesIO()
    image.save(file, kind, **options)
    found.append(file.getvalue())
  return found


def boxes(content, count) -> np.ndarray:
  """Draws boxes as RandomResizedCrop(scale=(0.2, 1)) would, [count 4]."""
  height, width = decoding.examine(content)
  random = np.random.default_rng(0)
  area = height * width * random.uniform(0.2, 1, count)
  ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), count))
  tall = np.minimum(np.rint(np.sqrt(area / ratio)), height)
  wide = np.minimum(np.rint(np.sqrt(area * ratio)), width)
  top = np.floor(random.uniform(size=count) * (height - tall + 1))
  left = np.floor(random.uniform(size=count) * (width - wide + 1))
  return np.stack([top, left, tall, wide], axis=1)


def ours(side):
  """Returns what `data` does: (whole, crop)."""

  def whole(content, box):
    return decoding.decode(content, 3, image_px=side)

  def crop(content, box):
    return decoding.decode(content, 3, image_px=side, boxes=[box])

  return whole, crop


def pillows(side):
  """Returns what torchvision does with Pillow: (whole, crop)."""

  def whole(content, box):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = side / min(image.size)
    size = tuple(max(side, round(scale * x)) for x in image.size)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = ((x - side) // 2 for x in size)
    return np.asarray(image.crop((left, top, left + side, top + side)))

  def crop(content, box):
    top, left, tall, wide = box
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = image.crop((left, top, left + wide, top + tall))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))

  return whole, crop


def turbo(content, box):
  """Decodes with libjpeg-turbo directly, at full size; no resize."""
  import simplejpeg

  return simplejpeg.decode_jpeg(content)


def rate(function, jobs, threads, rounds, clock=time.perf_counter) -> float:
  """Returns images per second of a clock, of the best round."""
  best = 0.0
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for _ in range(rounds):
      start = clock()
      for _ in pool.map(function, *zip(*jobs, strict=True)):
        pass
      best = max(best, len(jobs) / (clock() - start))
  return best


def grains(function, jobs, threads, rounds, clock=time.perf_counter) -> float:
  """Like `rate`, by Grain's own threads."""
  import grain

  best = 0.0
  for _ in range(rounds):
    source = grain.MapDataset.source(jobs).map(lambda job: function(*job))
    options = grain.ReadOptions(threads, prefetch_buffer_size=8 * threads)
    start = clock()
    for _ in source.to_iter_dataset(options):
      pass
    best = max(best, len(jobs) / (clock() - start))
  return best


def row(name, function, jobs, flags, rate=rate):
  """Prints one line of the table; none where a package is missing."""
  try:
    rates = [rate(function, jobs, 1, flags.rounds, time.process_time)]
    rates += [rate(function, jobs, n, flags.rounds) for n in flags.threads]
  except ImportError:
    return
  print(f"| {name} | {' | '.join(f'{x:.0f}' for x in rates)} |", flush=True)


def main():
  """Prints a table in Markdown."""
  arguments = argparse.ArgumentParser(description=__doc__)
  arguments.add_argument("--threads", nargs="+", type=int, default=[1, 2])
  arguments.add_argument("--images", type=int, default=120)
  arguments.add_argument("--rounds", type=int, default=5)
  flags = arguments.parse_args()
  header = ["a core", *(f"{n} thread(s)" for n in flags.threads)]
  print(f"| what, images/s | {' | '.join(header)} |")
  print(f"| --- |{' --- |' * len(header)}")
  for kind, options, shorter, side in _KINDS:
    files = contents(kind, options, shorter)
    drawn = [boxes(content, flags.images) for content in files]
    jobs = [
      (files[n % 2], drawn[n % 2][n].tolist()) for n in range(flags.images)
    ]
    about = f"{kind} {shorter} -> {side} px"
    for maker, who in ((ours, "ours"), (pillows, "as torchvision")):
      for function, what in zip(maker(side), ("whole", "crop"), strict=True):
        row(f"{about}, {what}, {who}", function, jobs, flags)
    row(f"{about}, crop, ours by Grain", ours(side)[1], jobs, flags, grains)
    row(f"{about}, examined", lambda c, _: decoding.examine(c), jobs, flags)
    if kind == "JPEG":
      row(f"{about}, simplejpeg alone", turbo, jobs, flags)
    row(
      f"{about}, sha256", lambda c, _: hashlib.sha256(c).digest(), jobs, flags
    )


if __name__ == "__main__":
  main()

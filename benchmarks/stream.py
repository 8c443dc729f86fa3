"""Training from a folder of JPEGs: memory, images a second, who waits.

`python -m benchmarks.stream --dir DIR` writes --images JPEGs of --side px in
ten class folders into DIR, unless they are there, and trains the quick start's
encoder on them for --steps steps from `sources/stream`, with crops cut while
decoding; it prints the seconds of the first and of a second indexing, images
decoded a second, the share of the time in which the device waited, and the
peak of the process's memory. --crop=device feeds whole images.

`--loader torchvision` times torch's DataLoader over torchvision's ImageFolder
on the same files with the same crops instead (RandomResizedCrop, flip; twice),
with --workers processes: in an environment that has torch and torchvision. JAX
is not needed. Run both in one sitting, on an idle machine.
"""

import argparse
import pathlib
import resource
import time


def write(root: pathlib.Path, count: int, side: int) -> None:
  """Writes smooth random JPEGs, a tenth in each class folder."""
  import numpy as np
  from PIL import Image

  done = root / f"{count}_{side}"
  if done.exists():
    return
  random = np.random.default_rng(0)
  for split, number in (("train", count), ("val", 100)):
    for i in range(number):
      folder = root / split / f"class{i % 10}"
      folder.mkdir(parents=True, exist_ok=True)
      small = random.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
      image = Image.fromarray(small).resize((side, side), Image.BICUBIC)
      image.save(folder / f"{i:06d}.jpg", quality=90)
  done.touch()


def ours(flags) -> None:
  """Trains from the stream."""
  import tempfile

  from genrep_jax import data, train
  from genrep_jax.lib import clock as clock_lib, configs, mesh, writers
  from genrep_jax.run import Run

  config = configs.load(
    "configs/quickstart.py",
    [
      *("source.name=stream", f"source.crop={flags.crop}"),
      *("data.name=folder", f"data.data_dir={flags.dir}"),
      f"data.image_px={flags.side}",
      *("evaluations.knn.name=knn", f"global_batch={flags.batch}"),
      *(f"views.pixel.crop_px={flags.px}", f"total_steps={flags.steps}"),
      f"encoder.width={flags.width}",
      f"log_every_steps={flags.steps // 2}",
      *("checkpoint.every_steps=0", "writers.tensorboard=False"),
    ],
  )
  config.evaluations = {}
  for number in (1, 2):
    start = time.perf_counter()
    data._cache.clear()
    images = len(data.load(config.data).train.images)
    print(
      f"index {number}: {time.perf_counter() - start:.1f} s, {images} files"
    )
  run = Run(config, mesh.make_mesh())
  clock = clock_lib.Clock()
  clock.plan(run.program.total_steps, run.program.images_per_step)
  with tempfile.TemporaryDirectory() as folder:
    train.train(run, folder, {"config": run.plain()}, clock)
    log = writers.read_jsonl(pathlib.Path(folder) / "metrics.jsonl")
  last = [record for record in log if "waiting_share" in record][-1]
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(
    f"crop={flags.crop}: {last['views_per_second'] / 2:.0f} anchors/s, "
    f"{last['views_per_second']:.0f} views/s, waiting share "
    f"{last['waiting_share']:.2f}, peak {peak:.0f} MiB"
  )


def torchvisions(flags) -> None:
  """Iterates over torch's DataLoader."""
  import torch
  from torchvision import datasets, transforms

  one = transforms.Compose(
    [
      transforms.RandomResizedCrop(flags.px, scale=(0.5, 1.0)),
      transforms.RandomHorizontalFlip(),
      transforms.PILToTensor(),
    ]
  )
  images = datasets.ImageFolder(
    f"{flags.dir}/train", lambda image: torch.stack([one(image), one(image)])
  )
  loader = torch.utils.data.DataLoader(
    images, flags.batch, shuffle=True, num_workers=flags.workers, drop_last=True
  )
  start = None
  for step, _ in enumerate(loader):
    if start is None:  # workers are up
      start = time.perf_counter()
    if step == flags.steps:
      break
  seconds = time.perf_counter() - start
  print(
    f"torchvision, {flags.workers} workers: {step * flags.batch / seconds:.0f} "
    f"anchors/s, {2 * step * flags.batch / seconds:.0f} views/s"
  )


def main() -> None:
  """Command line."""
  arguments = argparse.ArgumentParser(description=__doc__)
  add = arguments.add_argument
  add("--dir", required=True)
  add("--images", type=int, default=20000)
  add("--side", type=int, default=64, help="of the files, px")
  add("--px", type=int, default=32, help="of the crops")
  add("--batch", type=int, default=256)
  add("--steps", type=int, default=60)
  add("--width", type=float, default=1.0, help="of the encoder")
  add("--crop", default="decode", choices=("decode", "device"))
  add("--loader", default="ours", choices=("ours", "torchvision"))
  add("--workers", type=int, default=2)
  flags = arguments.parse_args()
  write(pathlib.Path(flags.dir), flags.images, flags.side)
  (ours if flags.loader == "ours" else torchvisions)(flags)


if __name__ == "__main__":
  main()

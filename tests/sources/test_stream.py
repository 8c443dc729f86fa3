"""Images that the host feeds: the run is the resident one's, bit for bit."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax import data, train as train_lib
from genrep_jax.lib import (
  clock as clock_lib,
  contracts,
  errors,
  execution,
  feeding,
)
from tests import support

STEPS = ("total_steps=4", "log_every_steps=2", "checkpoint.every_steps=2")


class Lazy:
  """Images that are handed out row by row, and who asked for which."""

  def __init__(self, images):
    self.images, self.asked = images, []
    self.shape, self.dtype = images.shape, images.dtype
    self.sizes = np.tile(images.shape[1:3], (len(images), 1))

  def __len__(self):
    return len(self.images)

  def __getitem__(self, rows):
    self.asked.append((threading.current_thread(), rows))
    return self.images[rows]

  def __array__(self, *_, **__):
    raise AssertionError("all of it was decoded")

  def crops(self, rows, boxes, side):
    """Cuts without resizing: boxes are as large as crops here."""
    np.testing.assert_array_equal(boxes[..., 2:], side)
    return np.stack(
      [
        [
          self.images[row, int(top) : int(top) + side, int(left) :][:, :side]
          for top, left, *_ in views
        ]
        for row, views in zip(rows, boxes, strict=True)
      ]
    )


@pytest.fixture
def lazy(monkeypatch):
  """Makes the embedded training images lazy; returns them."""
  entry = support.tiny().data
  real = data.load(entry)
  images = Lazy(real.train.images)
  split = contracts.Split(images, real.train.labels)
  made = contracts.Dataset(
    real.name, real.num_classes, real.class_names, split, real.test
  )
  monkeypatch.setattr(data, "load", lambda *_: made)
  return images


def config(name, *overrides):
  made = support.tiny(f"source.name={name}", *STEPS, *support.SGD, *overrides)
  made.evaluations = {}
  return made


def train(tmp_path, name, *overrides, devices=2):
  run = support.open_run(config(name, *overrides), devices)
  clock = clock_lib.Clock()
  clock.plan(run.program.total_steps, run.program.images_per_step)
  metadata = {"config": run.plain()}
  ran = train_lib.train(run, tmp_path / name, metadata, clock)
  return run, support.leaves(ran["state"].params)


@pytest.mark.parametrize(
  "overrides",
  [pytest.param((), marks=pytest.mark.slow), ("steps_per_call=2",)],
  ids=["a step a call", "two steps a call"],
)
def test_a_streamed_run_is_the_resident_run(tmp_path, overrides):
  _, resident = train(tmp_path, "array", *overrides)
  _, streamed = train(tmp_path, "stream", *overrides)
  for name, value in resident.items():
    np.testing.assert_array_equal(streamed[name], value, err_msg=name)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
  _, whole = train(tmp_path / "whole", "stream")
  with pytest.raises(errors.Preempted):
    train(tmp_path / "half", "stream", "stop_at_step=2")
  _, resumed = train(tmp_path / "half", "stream")
  for name, value in whole.items():
    np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_nothing_but_the_rows_of_a_step_is_read_and_the_waiting_is_told(
  tmp_path, lazy
):
  run, _ = train(tmp_path, "stream")
  read = np.concatenate([rows for _, rows in lazy.asked])
  drawn = [
    run.source.draw(jnp.int32(step), run.source.frozen)["row"]
    for step in range(4)
  ]
  # Step 0's rows are placed once more, for the checks before the first step.
  np.testing.assert_array_equal(read[16:], np.concatenate(drawn))
  np.testing.assert_array_equal(read[:16], drawn[0])
  threads = {thread for thread, _ in lazy.asked[1:]}
  assert len(threads) == 1 and threading.main_thread() not in threads
  assert not any(thread.is_alive() for thread in threads)
  text = (tmp_path / "stream" / "metrics.jsonl").read_text()
  assert text.count('"waiting_share"') == 2


def test_a_process_reads_the_rows_of_its_own_devices():
  """Of a mesh over two processes, each one's half: rows are disjoint."""
  read = support.open_run(config("stream")).source.feed.read
  whole = read(3, np.arange(16))["images"]
  halves = [read(3, np.arange(i, i + 8))["images"] for i in (0, 8)]
  np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_mixed_streams_are_mixed_arrays():
  shown = {}
  for stream in (False, True):
    run = support.open_run(config("mix", f"source.stream={stream}"))
    frozen = execution.put_frozen(run.program, 3)
    views, _ = jax.jit(run.stages.views)(jnp.int32(3), frozen)
    shown[stream] = np.asarray(views.images)
    assert ("images" in frozen) != stream
  np.testing.assert_array_equal(*shown.values())


def test_a_game_with_several_real_batches_a_step_is_fed_all_of_them():
  states = []
  for name in ("array", "stream"):
    made = support.tiny(
      *("program.name=gan", f"source.name={name}", "program.d_steps=2"),
      *("program.d_widths=(4,)", "program.d_extra_convs=(0,)"),
      "global_batch=4",
    )
    made.evaluations = {}
    program = support.open_run(made, 2).program
    state = execution.initial(program)
    step = execution.jit(program)
    for i in range(2):
      frozen = execution.put_frozen(program, i)
      state, _ = step(state, frozen)
    states.append(support.leaves(state.params))
  for name, value in states[0].items():
    np.testing.assert_array_equal(states[1][name], value, err_msg=name)


def test_crops_cut_while_decoding_are_those_of_the_devices(lazy, monkeypatch):
  """Boxes as large as the crop are not resized: views are the same pixels."""
  views = (
    "views.pixel.crop_px=14",
    "views.pixel.scale=(0.25, 0.25)",
    "views.pixel.ratio=(1.0, 1.0)",
  )
  shown = []
  for crop in ("device", "decode"):
    run = support.open_run(config("stream", f"source.crop={crop}", *views))
    frozen = execution.put_frozen(run.program, 1)
    one, _ = jax.jit(run.stages.views)(jnp.int32(1), frozen)
    shown.append(np.asarray(one.images))
  assert shown[0].shape == (16, 2, 14, 14, 1)
  np.testing.assert_allclose(*shown, atol=2e-6)
  assert run.program.feed.shapes["images"].shape == (16, 2, 14, 14, 1)


@pytest.mark.parametrize("name", ["array", "stream", "mix"])
def test_a_set_smaller_than_a_batch_is_refused(name):
  made = config(name, "global_batch=8192")
  with pytest.raises(
    errors.UsageError, match="global_batch: given 8192; .* most the 5000 train"
  ):
    _ = support.open_run(made).source


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ((), "source.crop: given 'decode'; allowed: 'device': Fashion-MNIST"),
    (("source.prefetch=0",), "source.prefetch: given 0"),
  ],
)
def test_what_cannot_be_cut_is_refused(overrides, message):
  with pytest.raises(errors.UsageError, match=message):
    _ = support.open_run(
      config("stream", "source.crop=decode", *overrides)
    ).source


@pytest.mark.parametrize(
  "overrides",
  [
    support.NO_PIXEL_VIEW,
    ("views.pixel_on=(0,)",),
    ("views.rendering_of=(0, 0)",),
  ],
)
def test_views_that_cannot_be_cut_apart_are_refused(lazy, overrides):
  made = config("stream", "source.crop=decode", *overrides)
  with pytest.raises(errors.UsageError, match="allowed: .*(decod|'device')"):
    _ = support.open_run(made).program


def test_what_reading_raises_ends_the_run(tmp_path, lazy, monkeypatch):
  def read(rows):
    if len(lazy.asked) > 2:
      raise errors.UsageError("picture.jpg: truncated")
    lazy.asked.append(rows)
    return lazy.images[rows]

  monkeypatch.setattr(Lazy, "__getitem__", lambda _, rows: read(rows))
  with pytest.raises(errors.UsageError, match="picture.jpg: truncated"):
    train(tmp_path, "stream")
  names = [thread.name for thread in threading.enumerate()]
  assert not any("feeder" in name for name in names)


def test_devices_that_are_busy_do_not_wait():
  """Only time in which nothing is computed counts as waiting."""

  class Busy:
    def is_ready(self):
      return False

  release = threading.Event()

  def read(number, positions):
    assert release.wait(10)
    return {"images": np.zeros((len(positions), 1), np.uint8)}

  shapes = {"images": jax.ShapeDtypeStruct((4, 1), np.uint8)}
  program = support.open_run(config("array")).program
  program = contracts.dataclasses.replace(
    program, feed=contracts.Feed(shapes, read)
  )
  feeder = feeding.feeder(program, 0, 1)
  threading.Timer(0.2, release.set).start()
  fed = feeder.next({}, {"loss": Busy()})["fed"]["images"]
  assert fed.shape == (4, 1) and feeder.shares()["waiting_share"] == 0
  release.clear()
  while True:  # what was read ahead
    threading.Timer(0.2, release.set).start()
    feeder.next({}, None)
    if (share := feeder.shares()["waiting_share"]) > 0.5:
      break
    release.clear()
  assert share <= 1
  release.set()
  feeder.close()

"""The clock, with a time that the test moves."""

import contextlib

import pytest

from genrep_jax.lib import clock


class _Time:
  def __init__(self):
    self.seconds = 100.0

  def __call__(self):
    return self.seconds


@contextlib.contextmanager
def _clock(total=600, views=512):
  now = _Time()
  it = clock.Clock(now=now)
  it.plan(total, views)
  yield it, now


def test_progress_line():
  with _clock() as (it, now):
    it.start(0)
    now.seconds += 100.0
    rate = it.measure(200)
    assert rate == 1024.0
    assert it.line(200, {"loss": 4.2104}, rate) == (
      "step 200/600 33% loss 4.21 views/s 1024 ETA 3m20s"
    )


def test_rate_is_that_of_the_last_window():
  with _clock() as (it, now):
    it.start(0)
    now.seconds += 100.0
    it.measure(200)
    now.seconds += 10.0
    assert it.measure(300) == 512 * 100 / 10.0
    assert it.eta_seconds(300) == 300 * 0.1


def test_compile_and_pauses_do_not_count_in_the_rate():
  with _clock() as (it, now):
    with it.pause("compile"):
      now.seconds += 50.0
    it.start(1)
    now.seconds += 4.0
    with it.pause("evaluate"):
      now.seconds += 1000.0
      with it.pause("checkpoint"):
        now.seconds += 7.0
      now.seconds += 1.0
    now.seconds += 6.0
    assert it.measure(11) == 512.0
    assert it.seconds() == {
      "setup": 0.0,
      "compile": 50.0,
      "train": 10.0,
      "evaluate": 1001.0,
      "checkpoint": 7.0,
    }


def test_seconds_add_up_also_after_an_exception():
  with _clock() as (it, now):
    now.seconds += 3.0
    with contextlib.suppress(KeyError), it.pause("compile"):
      now.seconds += 2.0
      raise KeyError
    now.seconds += 5.0
    assert it.seconds() == {"setup": 8.0, "compile": 2.0}


def test_nothing_measured():
  with _clock() as (it, now):
    assert it.measure(3) is None
    it.start(5)
    assert it.measure(5) is None
    assert it.line(5, {}, None) == "step 5/600 0% views/s ? ETA ?"


def test_at_the_end():
  with _clock() as (it, now):
    it.start(599)
    now.seconds += 512 / 3.24
    line = it.line(600, {"loss": 0.5, "knn": 1 / 3}, it.measure(600))
    assert line == "step 600/600 100% loss 0.5 knn 0.3333 views/s 3.2 ETA 0s"


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0s"),
    (59.4, "59s"),
    (59.5, "1m00s"),
    (65, "1m05s"),
    (3599.6, "1h00m"),
    (7380, "2h03m"),
    (3 * 86400 + 4 * 3600, "3d04h"),
  ],
)
def test_duration(seconds, text):
  assert clock.duration(seconds) == text

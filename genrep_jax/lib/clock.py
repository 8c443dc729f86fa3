"""How fast it goes, how long it takes, and where the time went.

Time is attributed to one phase at a time. The rate counts only the phase
"train": compilation, evaluations and checkpoints do not make a run look slow.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

SETUP = "setup"
TRAIN = "train"


def duration(seconds: float) -> str:
  """Formats a duration: "12s", "1m05s", "2h03m", "3d04h".

  Args:
    seconds: >= 0; halves are rounded up.
  """
  whole = int(seconds + 0.5)
  minutes, second = divmod(whole, 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  if days:
    return f"{days}d{hour:02d}h"
  if hours:
    return f"{hours}h{minute:02d}m"
  if minutes:
    return f"{minutes}m{second:02d}s"
  return f"{second}s"


class Clock:
  """Counts seconds by phase and formats progress lines."""

  def __init__(self, *, now: Callable[[], float] = time.perf_counter):
    """Starts in the phase "setup".

    Args:
      now: monotonic time in seconds.
    """
    self._total_steps = 0
    self._views_per_step = 0.0
    self._now = now
    self._phase = SETUP
    self._since = now()
    self._seconds: dict[str, float] = {}
    self._window: tuple[int, float] | None = None
    self._seconds_per_step: float | None = None

  def _switch(self, phase: str) -> str:
    """Books the time since the last switch; returns the phase left."""
    now = self._now()
    self._seconds[self._phase] = (
      self._seconds.get(self._phase, 0.0) + now - self._since
    )
    left, self._phase, self._since = self._phase, phase, now
    return left

  def plan(self, total_steps: int, views_per_step: float) -> None:
    """Says how long the run is, once that is known.

    Args:
      total_steps: steps of the whole run, > 0.
      views_per_step: images one step shows to the trained network.
    """
    self._total_steps = total_steps
    self._views_per_step = views_per_step

  def start(self, step: int) -> None:
    """Enters the phase "train" and opens a measuring window.

    Call it after the first (compiling) call, so that neither the compilation
    nor the steps of that call count.

    Args:
      step: steps done so far.
    """
    self._switch(TRAIN)
    self._window = (step, self._seconds.get(TRAIN, 0.0))

  @contextlib.contextmanager
  def pause(self, phase: str) -> Iterator[None]:
    """Attributes the time inside to `phase`; may be nested.

    Args:
      phase: "compile", "evaluate", "checkpoint", ...
    """
    outer = self._switch(phase)
    try:
      yield
    finally:
      self._switch(outer)

  def seconds(self) -> dict[str, float]:
    """Returns seconds by phase until now; they add up to the whole time."""
    self._switch(self._phase)
    return dict(self._seconds)

  def measure(self, step: int) -> float | None:
    """Closes the window at `step` and opens the next.

    The device must have finished `step` (its metrics were fetched).

    Args:
      step: steps done so far.

    Returns:
      Views per second of training time in the window; None if nothing was
      measured (no step or no time since the window opened).
    """
    trained = self.seconds().get(TRAIN, 0.0)
    window, self._window = self._window, (step, trained)
    if window is None:
      return None
    steps, elapsed = step - window[0], trained - window[1]
    if steps <= 0 or elapsed <= 0:
      return None
    self._seconds_per_step = elapsed / steps
    return self._views_per_step / self._seconds_per_step

  def eta_seconds(self, step: int) -> float | None:
    """Estimates the training seconds left, from the last measured window."""
    if step >= self._total_steps:
      return 0.0
    if self._seconds_per_step is None:
      return None
    return (self._total_steps - step) * self._seconds_per_step

  def line(
    self, step: int, scalars: Mapping[str, float], rate: float | None
  ) -> str:
    """Formats a progress line, e.g.

    `step 200/600 33% loss 4.21 views/s 1234 ETA 1m05s`

    Args:
      step: steps done so far.
      scalars: what to show, in this order.
      rate: views per second, as `measure` returned it.
    """
    parts = [
      f"step {step}/{self._total_steps}",
      f"{100 * step // self._total_steps}%",
    ]
    parts += [f"{name} {value:.4g}" for name, value in scalars.items()]
    if rate is None:
      parts.append("views/s ?")
    else:
      parts.append(
        f"views/s {rate:.0f}" if rate >= 10 else f"views/s {rate:.2g}"
      )
    eta = self.eta_seconds(step)
    parts.append("ETA ?" if eta is None else f"ETA {duration(eta)}")
    return " ".join(parts)

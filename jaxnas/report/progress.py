"""Progress with rate and time left: a bar on a terminal, a line now and then elsewhere."""

import collections
import io
import sys
import threading
import time
from typing import Any

from jaxnas.terminal import say, silence

COMPILING = "compiling"  # the note while a program is compiled
SILENCE = 30.0  # seconds after which a line is due where there is no terminal
_RATE_WINDOW = 30.0  # seconds that the rate looks back


class Progress:
  """Shows how many of `total` units are done.

      with Progress(324, "kernels", label="round 1") as progress:
        for chunk in chunks:
          ...
          progress.advance(len(chunk))

  What a unit that takes long is at can be noted meanwhile; `advance` and `note` may be called from any thread. The time
  in which "compiling" is noted counts in no rate: it does not come again with every unit.

  Args:
    total: units of the whole job.
    unit: what is counted, in the plural.
    label: shown first.
    stream: where to write; standard error if None.
    enabled: False for silence; may also be set on the object before it is entered.
    interval: seconds between two lines where there is no terminal; after `SILENCE` seconds there is one, whatever
      happens.
  """

  def __init__(
    self,
    total: int,
    unit: str,
    *,
    label: str = "",
    stream: io.TextIOBase | None = None,
    enabled: bool = True,
    interval: float = 5.0,
  ) -> None:
    self.total, self.unit, self.label = total, unit, label
    self.done = self._earlier = 0
    self.interval = interval
    self._stream: Any = sys.stderr if stream is None else stream
    self.enabled = enabled
    self._bar: Any = None
    self._task: Any = None
    self._notes: list[str] = []
    self._notes_on_line: list[str] = []
    self._compilation = self._compiling = 0.0  # seconds that are over, and when the present one began
    self._lock = threading.Lock()
    self._over = threading.Event()

  def __enter__(self) -> "Progress":
    self._start = self._last_line = time.monotonic()
    self._marks = collections.deque([(self._start, 0)])
    if self.enabled and self._stream is not None and self._stream.isatty():
      self._open_bar()
    elif self.enabled:
      threading.Thread(target=self._break_silence, name="progress", daemon=True).start()
    return self

  def advance(self, n: int = 1, *, earlier: bool = False) -> None:
    """Counts `n` more units as done; those that an `earlier`, interrupted run had done do not count in the rate."""
    with self._lock:
      now = time.monotonic()
      self.done += n
      if earlier:
        self._earlier += n
      self._marks.append((now - self._compiled(now), self.done - self._earlier))
      self._show(now)

  def note(self, text: str, level: int = 0) -> None:
    """Shows `text` behind the numbers until another replaces it; "" takes it away.

    Args:
      level: of a part of a part: its text stands behind that of the levels below, and goes when one of them changes.
    """
    with self._lock:
      now = time.monotonic()
      first = self._bar is None and self._last_line == self._start  # what is noted at the beginning may take long
      self._notes = [*self._notes[:level], *[""] * (level - len(self._notes)), text]
      if COMPILING in self._notes and not self._compiling:
        self._compiling = now
      elif COMPILING not in self._notes and self._compiling:
        self._compilation, self._compiling = self._compiled(now), 0.0
      new = text and self._notes != self._notes_on_line  # a line says neither the same again nor that nothing is noted
      if self._bar is not None or new:
        self._show(now, first)

  def _compiled(self, now: float) -> float:
    """Seconds spent compiling until now."""
    return self._compilation + (now - self._compiling if self._compiling else 0.0)

  def _break_silence(self) -> None:
    while not self._over.wait(1.0):
      with self._lock:
        now = time.monotonic()
        if now - self._last_line >= SILENCE:
          self._show(now)

  def _show(self, now: float, at_once: bool = False) -> None:
    while len(self._marks) > 2 and now - self._compiled(now) - self._marks[1][0] > _RATE_WINDOW:
      self._marks.popleft()
    status = ", ".join(filter(None, (self._status(now), *self._notes)))
    if self._bar is not None:
      self._bar.update(self._task, completed=self.done, status=status)
    elif at_once or now - self._last_line >= self.interval:
      self._last_line, self._notes_on_line = now, self._notes
      self._line(status)

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    self._over.set()
    self._close_bar()
    if kind is not None and not self.done and self._last_line == self._start:
      return  # refused before anything was shown
    verb = "" if kind is None else "stopped at "
    self._line(f"{verb}{self._summary()}")

  def stopped(self) -> str:
    """Ends the display from another thread, for the moment before the program is left; says how far it came."""
    self.enabled = False
    self._over.set()
    self._close_bar()
    return f"{self.label} stopped at {self._summary()}"

  def _summary(self) -> str:
    seconds = time.monotonic() - self._start
    new = self.done - self._earlier
    return f"{self._count()} in {format_duration(seconds)}{self._speed(new / seconds) if new and seconds > 0 else ''}"

  def _close_bar(self) -> None:
    bar, self._bar = self._bar, None
    if bar is not None:
      try:
        bar.stop()
      except OSError:  # the terminal is gone
        silence(self._stream)

  def _count(self) -> str:
    return f"{self.done}/{self.total} {self.unit}"

  def _speed(self, rate: float) -> str:
    return f", {rate:.3g} {self.unit}/s" if 0 < rate < 1000 else f", {rate:.0f} {self.unit}/s"

  def _status(self, now: float) -> str:
    (then, before), (last, done) = self._marks[0], self._marks[-1]
    if last <= then or done <= before:
      return self._count() if self._compiling else f"{self._count()}, estimating"
    rate = (done - before) / (now - self._compiled(now) - then)  # it falls while a unit takes long
    left = format_duration(max(self.total - self.done, 0) / rate)
    return f"{self._count()}{self._speed(rate)}, {left} left"

  def _line(self, text: str) -> None:
    if self.enabled and self._stream is not None:
      say(f"{self.label}: {text}" if self.label else text, self._stream)

  def _open_bar(self) -> None:
    from rich import console, progress

    self._bar = progress.Progress(
      progress.TextColumn("{task.description}", markup=False),
      progress.BarColumn(bar_width=24),
      progress.TextColumn("{task.fields[status]}", markup=False),
      progress.TimeElapsedColumn(),
      console=console.Console(file=self._stream),
      refresh_per_second=4,
      transient=True,  # The last line takes its place.
    )
    self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, status=self._count())
    self._bar.start()


def format_duration(seconds: float) -> str:
  """Seconds as "0:07", "12:34" or "1:02:03"."""
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

"""Ctrl-C and SIGTERM end the program at once, also while it imports, compiles or waits for a device.

Python itself would wait until the call into XLA returns, half a minute perhaps, and then tear down threads that still
compute. A run may be killed at any byte (see `workdir`), so nothing is lost by leaving without delay.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from jaxnas.terminal import complain

_CALLED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_last_words: list[Callable[[], str]] = []


def watch() -> None:
  """Watches for the signals, which another thread answers; for the main program, called by its main thread."""
  read, write = os.pipe()
  os.set_blocking(write, False)
  heard = [number for number in _CALLED if signal.getsignal(number) != signal.SIG_IGN]
  for number in heard:
    signal.signal(number, lambda *_: None)  # so that Python notes it in the pipe
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  threading.Thread(target=_answer, args=(read,), name="stopping", daemon=True).start()


@contextlib.contextmanager
def last_words(make: Callable[[], str]):
  """While the block runs, a stop says what `make` gives; "" says nothing."""
  _last_words.append(make)
  try:
    yield
  finally:
    _last_words.remove(make)


def _answer(pipe: int) -> None:
  number = 0
  while number not in _CALLED:
    number = os.read(pipe, 1)[0]
  leave(_CALLED[signal.Signals(number)], 128 + number)


def leave(what: str, code: int) -> NoReturn:
  """Says what happened (nothing of ""), with the last words, and ends the program at once, from any thread."""
  if what:
    complain("; ".join([f"jaxnas: {what}", *(text for make in reversed(_last_words) if (text := _calmly(make)))]))
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  os._exit(code)


def _calmly(make: Callable[[], str]) -> str:
  try:
    return make()
  except Exception:
    return ""

"""What a run says. A terminal that is gone, full or knows few characters silences it and never ends it."""

import contextlib
import os
import sys
from typing import Any


def say(text: str, stream: Any = None) -> None:
  """Prints a line.

  Args:
    stream: default standard output. One that cannot be written to is silent from then on; characters that it lacks are
      replaced.
  """
  text = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)  # a value may hold escapes
  stream = sys.stdout if stream is None else stream
  if stream is None:  # a process that was started without one
    return
  try:
    try:
      print(text, file=stream, flush=True)
    except UnicodeEncodeError:
      coding = stream.encoding or "ascii"
      print(text.replace("±", "+-").encode(coding, "replace").decode(coding), file=stream, flush=True)
  except (OSError, ValueError):  # ValueError: a stream that was closed
    silence(stream)


def complain(text: str) -> None:
  """Prints a line on standard error, as `say`."""
  if sys.stderr is not None:
    say(text, sys.stderr)


def silence(stream: Any) -> None:
  """Sends to nowhere what the stream still holds and what is yet written to it, so that the end of Python is calm."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

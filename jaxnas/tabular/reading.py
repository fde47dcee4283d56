"""What the readers of all spaces' benchmarks check of a path, and the form of their errors."""

import os
import pathlib

from jaxnas.errors import BenchmarkError

FLAG = "--benchmark="


def problem(path: str | os.PathLike[str], what: str, fix: str) -> BenchmarkError:
  """The error for a benchmark that cannot be used: one line with the flag, the path, the fix."""
  return BenchmarkError(f"{FLAG}{os.fspath(path)}: {' '.join(what.split())}; {fix}")


def elsewhere(space: str) -> str:
  """What to do about a file that may be one of another space than `space`, for messages."""
  return f"if it is a benchmark of another space, give that one instead of --space={space}"


def first_bytes(path: pathlib.Path, fix: str, space: str) -> bytes:
  """The first four bytes of a file that there is and that can be read.

  Args:
    fix: ends the messages: what the space takes.
    space: the name of that space.

  Raises:
    BenchmarkError: no file, a folder, empty, or not to be read.
  """
  if path.is_dir():
    raise problem(path, "a folder", f"{fix}; {elsewhere(space)}")
  if not path.exists():
    raise problem(path, "no such file or folder", fix)
  if not path.is_file():
    raise problem(path, "neither a file nor a folder", fix)
  try:
    with path.open("rb") as stream:
      magic = stream.read(4)
  except OSError as error:
    raise problem(path, f"cannot be read ({error.strerror})", "check its permissions") from error
  if not magic:
    raise problem(path, "an empty file", fix)
  return magic

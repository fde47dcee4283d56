"""Files that are whole or absent, and JSON with every float: for all rooms.

JSON has no NaN and no infinity: non-finite floats are written as the strings "NaN", "Infinity" and
"-Infinity" and come back as floats (so a string with exactly one of these texts does too).
"""

import contextlib
import errno
import importlib.util
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from jaxnas.errors import ConfigError, WorkdirError

PART = ".part"  # ends the names of files that are being written
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def user_path(text: str | os.PathLike[str], flag: str) -> pathlib.Path:
  """The path that a user gave, with ~ for a home.

  Args:
    flag: whose value it is, for messages.

  Raises:
    ConfigError: empty, of no user, or no path at all.
  """
  name = os.fspath(text)
  if not name.strip():
    raise ConfigError(f"{flag}={name!r}: an empty path (a variable that is not set?); give one, or drop the flag")
  if "\0" in name or not name.isprintable():
    raise ConfigError(f"{flag}={name!r}: a path of printable characters in UTF-8 is needed; give another")
  try:
    return pathlib.Path(name).expanduser()
  except RuntimeError as error:  # ~somebody, or ~ of a user id without a home
    raise ConfigError(f"{flag}={name!r}: {error}; give the whole path") from error


def of_distribution(module: str, *inside: str) -> pathlib.Path | None:
  """A path inside an installed package, which is looked up and not imported; None where it is not installed."""
  found = importlib.util.find_spec(module)
  if found is None or found.origin is None:
    return None
  return pathlib.Path(found.origin).parent.joinpath(*inside)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> pathlib.Path:
  """Writes a file beside its place, forces it to disk, renames it; returns its path.

  Raises:
    WorkdirError: it could not be written; a file that stood there before is untouched.
  """
  path = pathlib.Path(path)
  with refusing(path):
    replace(path, data)
  return path


def replace(path: pathlib.Path, data: bytes) -> None:
  """As `write_atomically`, with errors as the system has them.

  Raises:
    OSError: it could not be written.
  """
  part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")  # a name that nobody can prepare
  descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    with open(descriptor, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except BaseException:
    with contextlib.suppress(OSError):  # of two failures, the first is the one to report
      os.unlink(part)
    raise


def remove_parts(folder: pathlib.Path) -> None:
  """Removes what kills in the middle of `replace` left behind."""
  for part in folder.glob(f".*{PART}"):
    with contextlib.suppress(OSError):
      part.unlink()


def open_here(path: str | os.PathLike[str], flags: int) -> int:
  """Opens a file itself, not what a link of its name leads to; as `opener` of `open`."""
  return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def encode(value: Any, indent: int | None = None) -> str:
  """JSON text of a value made of dicts, sequences, numbers, strings, paths and arrays."""
  return json.dumps(plain(value), indent=indent, allow_nan=False)


def decode(text: str | bytes) -> Any:
  """The value of a text that `encode` wrote (tuples and arrays come back as lists).

  Raises:
    ValueError: it is no JSON.
  """
  try:
    return _restore(json.loads(text))
  except RecursionError as error:
    raise ValueError("nested too deeply") from error


def read_json(file: pathlib.Path, flag: str = "--workdir") -> Any:
  """The value in a file of a work directory; None where there is no file.

  Args:
    flag: what messages say of the folder.

  Raises:
    WorkdirError: it cannot be read, or is not JSON.
  """
  try:
    with refusing(file):
      return decode(file.read_bytes()) if file.exists() else None
  except ValueError as error:
    raise WorkdirError(f"{flag}: {file} is not valid JSON ({error}); give another {flag}") from error


def plain(value: Any) -> Any:
  """The same value of JSON's own types."""
  if isinstance(value, dict):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  if value is None or isinstance(value, (str, bool, int)):
    return value
  if isinstance(value, float):
    if math.isnan(value):
      return "NaN"
    return float(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, "tolist"):
    return plain(value.tolist())
  raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")


def _restore(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _restore(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_restore(item) for item in value]
  return _NON_FINITE.get(value, value) if isinstance(value, str) else value


@contextlib.contextmanager
def refusing(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError into the one line that says what would not be written, why, what to do."""
  try:
    yield
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      fix = "free some space and start again with the same flags: the run continues"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP):  # ELOOP: a link, not followed
      fix = "something else stands in its place; give another --workdir"
    else:
      fix = "give a --workdir that can be written"
    of_folder = error.errno in (errno.ELOOP, errno.EISDIR)  # which of a folder's files it is
    where = (error.filename2 or error.filename or path) if of_folder else path
    reason = error.strerror or str(error)
    raise WorkdirError(f"--workdir: cannot write {where} ({reason}); {fix}") from error

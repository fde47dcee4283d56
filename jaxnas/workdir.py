"""The folder of one run: settings, scores appended as they come, results, log.

A run may be killed at any byte. Scores are appended one JSON line at a time and forced to disk;
every other file is written beside its place and renamed into it, so it is whole or absent.
See `files` for how non-finite floats are written.
"""

import datetime
import errno
import importlib.metadata
import io
import json
import logging
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

import jaxnas
from jaxnas.errors import WorkdirError
from jaxnas.files import (
  decode,
  encode,
  open_here,
  plain,
  read_json,
  refusing,
  remove_parts,
  user_path,
  write_atomically,
)

try:
  import fcntl
except ImportError:  # Windows has no flock: two runs in one folder go unnoticed there.
  fcntl = None

Complete = Callable[[dict[str, Any]], dict[str, Any]]  # adds what an older run could not record yet

_NOT_SET = "not set"
_LISTED = 8  # settings that a refusal names

_NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class _LogHandler(logging.FileHandler):
  """A file handler that stays quiet on a full disk: the next score to be saved reports it."""

  def _open(self) -> io.TextIOWrapper:
    descriptor = open_here(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return io.TextIOWrapper(open(descriptor, "ab"), encoding=self.encoding)

  def handleError(self, record: logging.LogRecord) -> None:
    pass


class Workdir:
  """One run's folder, locked against a second run for as long as this process lives.

  Attributes:
    path: the folder.
    resumed: whether an earlier run with the same settings had begun here.
    log: a `logging.FileHandler` on the file `log`; add it to the loggers that should write there.
  """

  path: pathlib.Path
  resumed: bool
  log: logging.FileHandler
  _lock: int = -1  # File descriptors; -1 while closed.
  _scores: int = -1

  @classmethod
  def open(
    cls,
    path: str | os.PathLike[str],
    config: dict[str, Any],
    *,
    ignore: Sequence[str] = ("workdir",),
    may_lack: bool = False,
    complete: Complete = dict,
  ) -> "Workdir":
    """Creates the folder or continues in it.

    Args:
      path: the folder; parents are made too.
      config: every setting of the run, JSON-able; kept in config.json beside `provenance()`.
      ignore: keys of `config` that may differ between a run and its continuation.
      may_lack: whether either may also lack keys of the other, such as the settings of proxies that it does not
        measure; config.json keeps them, so that they bind a later continuation.
      complete: adds to the settings of an older run what it could not record yet, see `settings.completed`.

    Raises:
      WorkdirError: the folder cannot be written, is in use by another process, holds a run with
        other settings (each difference is listed), or its files are damaged.
    """
    self = cls()
    self.path = user_path(path, "--workdir")
    try:
      with refusing(self.path):
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        remove_parts(self.path)
        self.resumed = _claim(self.path, config, ignore, may_lack, complete)
        self._scores = open_here(self.path / "scores.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self.log = _LogHandler(self.path / "log", encoding="utf-8")
      self.log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
      self.records()  # Cuts a torn tail now, before anything is appended to it.
    except BaseException:
      self.close()
      raise
    return self

  def append(self, *records: dict[str, Any]) -> None:
    """Adds a line per record to scores.jsonl and forces them to disk; on failure the file is as before.

    Raises:
      WorkdirError: the lines could not be written (a full disk, say).
      TypeError: a record is not JSON-able.
    """
    line = b"".join(encode(record).encode() + b"\n" for record in records)
    with refusing(self.path / "scores.jsonl"):
      before = os.fstat(self._scores).st_size
      try:
        while line:
          line = line[os.write(self._scores, line) :]
        os.fsync(self._scores)
      except BaseException:
        os.ftruncate(self._scores, before)
        raise
      gone = os.fstat(self._scores).st_nlink == 0
    if gone:
      raise WorkdirError(
        f"--workdir={self.path} was removed while the run was writing to it, and what was scored with it; start again "
        "with another --workdir"
      )

  def records(self) -> list[dict[str, Any]]:
    """All records of scores.jsonl, in order.

    A last line that a kill cut short is removed from the file: its score is computed again.

    Raises:
      WorkdirError: any other line is damaged; the message gives its number.
    """
    file = self.path / "scores.jsonl"
    with refusing(file):
      lines = file.read_bytes().splitlines(keepends=True)
    found, end = [], 0
    for number, line in enumerate(lines, start=1):
      record = _record(line)
      if record is None and number < len(lines):
        raise WorkdirError(
          f"--workdir: line {number} of {file} is damaged ({line[:40]!r}); delete that line to "
          "have its score computed again, or give another --workdir"
        )
      if record is None:
        logging.getLogger(__name__).warning("line %d of %s was cut short; removed", number, file)
        with refusing(file):
          os.ftruncate(self._scores, end)
      else:
        found.append(record)
        end += len(line)
    return found

  def write_bytes(self, name: str, data: bytes) -> pathlib.Path:
    """Writes a file of the folder, whole or not at all, and returns its path."""
    return write_atomically(self.path / name, data)

  def write_text(self, name: str, text: str) -> pathlib.Path:
    """As `write_bytes`, for UTF-8 text."""
    return self.write_bytes(name, text.encode())

  def write_json(self, name: str, value: Any) -> pathlib.Path:
    """As `write_bytes`, for a JSON-able value; numpy and JAX arrays become lists."""
    return self.write_text(name, encode(value, indent=2) + "\n")

  def close(self) -> None:
    """Closes the files and lets go of the lock (the end of the process does so too)."""
    if hasattr(self, "log"):
      self.log.close()
    for descriptor in (self._scores, self._lock):
      if descriptor >= 0:
        os.close(descriptor)
    self._scores = self._lock = -1

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def provenance() -> dict[str, Any]:
  """What produced a result: versions, devices, git revision (None outside a checkout), OS, date."""
  device = jax.devices()[0]
  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "jaxnas": jaxnas.__version__,
    "revision": _revision(pathlib.Path(jaxnas.__file__).resolve().parents[1]),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
    "platform": device.platform,
    "device_kind": device.device_kind,
    "device_count": jax.device_count(),
    "os": platform.platform(),
  }


def _record(line: bytes) -> dict[str, Any] | None:
  """The record on one line; None if the line is not whole."""
  if not line.endswith(b"\n"):
    return None
  try:
    value = decode(line)
  except ValueError:
    return None
  return value if isinstance(value, dict) else None


def _claim(
  path: pathlib.Path,
  config: dict[str, Any],
  ignore: Sequence[str],
  may_lack: bool,
  complete: Complete,
) -> bool:
  """Writes config.json, or compares with it; returns whether a run had begun here.

  The settings of a run that has computed nothing yet, refused or stopped before, bind nobody.
  """
  saved = read_json(path / "config.json")
  if saved is None:
    if (path / "scores.jsonl").exists():
      raise WorkdirError(
        f"--workdir={path} has a scores.jsonl but no config.json, so its settings are unknown; give another --workdir"
      )
    write_atomically(path / "config.json", _config(config))
    return False
  if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
    raise WorkdirError(f"--workdir={path} has a config.json that no run of jaxnas wrote; give another --workdir")
  if not _has_begun(path):
    write_atomically(path / "config.json", _config(config))
    return False
  before = complete(saved["config"])
  if may_lack:
    config = {**before, **config}
    before = {**config, **before}
  differing = list(_differences(before, config))
  others = [(key, was, now) for key, was, now in differing if key.split(".")[0] not in ignore]
  if others:
    others.sort(key=lambda one: _NOT_SET in one[1:])  # those that say most first
    listed = [f"--{key}: was {was}, now {now}" for key, was, now in others[:_LISTED]]
    more = [f"{len(others) - _LISTED} more"] if len(others) > _LISTED else []
    raise WorkdirError(
      f"--workdir={path} holds a run with other settings ({'; '.join(listed + more)}); "
      "give the same flags to continue it, or another --workdir"
    )
  if differing:
    write_atomically(path / "config.json", _config(config))
  return True


def _has_begun(path: pathlib.Path) -> bool:
  """Whether the folder holds more than a run leaves that was stopped before it had computed anything."""
  scores = path / "scores.jsonl"
  others = {file.name for file in path.iterdir()} - {"config.json", "scores.jsonl", "log", ".lock"}
  return bool(others) or (scores.exists() and scores.stat().st_size > 0)


def _config(config: dict[str, Any]) -> bytes:
  return (encode({"config": config, "provenance": provenance()}, indent=2) + "\n").encode()


def _differences(was: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
  """(key, old value, new value) of what differs; keys inside a dict are joined by dots."""
  before, after = _flat(plain(was)), _flat(plain(now))
  for key in sorted(before.keys() | after.keys()):
    if key not in before or key not in after or before[key] != after[key]:
      old, new = (json.dumps(s[key]) if key in s else _NOT_SET for s in (before, after))
      yield key, old, new


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in config.items():
    flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
  return flat


def _lock(path: pathlib.Path) -> int:
  """Takes the folder's lock; returns the descriptor that holds it."""
  descriptor = open_here(path / ".lock", os.O_RDWR | os.O_CREAT)
  try:
    if fcntl is not None:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
  except BlockingIOError as error:
    holder = os.read(descriptor, 32).decode() or "unknown"
    os.close(descriptor)
    raise WorkdirError(
      f"--workdir={path} is in use by another run (pid {holder}); wait for it to end, or give another --workdir"
    ) from error
  except OSError as error:
    if error.errno in _NO_LOCKS_HERE:  # Some network file systems: run on, unguarded.
      logging.getLogger(__name__).warning("%s cannot be locked: %s", path, error.strerror)
      return descriptor
    os.close(descriptor)
    raise
  return descriptor


def _revision(checkout: pathlib.Path) -> str | None:
  if not (checkout / ".git").exists():  # An installed copy; git would find a stranger's checkout.
    return None
  command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
  try:
    answer = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True)
  except (OSError, subprocess.SubprocessError):
    return None
  return answer.stdout.strip() or None

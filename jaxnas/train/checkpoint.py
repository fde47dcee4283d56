"""The folder of one training: its settings, metrics.jsonl and Orbax checkpoints.

A checkpoint holds the state and the history up to its epoch, and appears by one rename: a kill leaves it whole or
absent. metrics.jsonl has one line an epoch, forced to disk. On resuming it is written again from the checkpoint's
history, so an epoch that is trained twice has one line.
"""

import contextlib
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxtyping import PyTree

from jaxnas.errors import WorkdirError
from jaxnas.files import decode, encode, write_atomically
from jaxnas.workdir import Complete, Workdir

MAY_DIFFER = ("checkpoint_every",)
_KEPT = 2  # the newest, and one to fall back to should a power cut have spoilt it

_log = logging.getLogger(__name__)


class Store:
  """Checkpoints and metrics in a folder that is locked against a second run; see `opened`."""

  def __init__(self, path: pathlib.Path, manager: Any, identity: dict[str, Any], complete: Complete):
    self.path, self._manager, self._identity, self._complete = path, manager, identity, complete

  def restore(self, state: PyTree) -> tuple[PyTree, list[dict[str, Any]]]:
    """The newest readable checkpoint as (state, history), shaped and placed like `state`; (`state`, []) without one.

    A checkpoint that does not open is renamed, with a warning: its epochs are trained again.

    Raises:
      WorkdirError: the checkpoint is of another training; what differs is named.
    """
    import orbax.checkpoint as ocp

    history: list[dict[str, Any]] = []
    for epoch in sorted(self._manager.all_steps(), reverse=True):
      try:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = decode(self._manager.restore(epoch, args=args).record["text"])
        self._check(record["identity"])
        args = ocp.args.Composite(state=ocp.args.StandardRestore(state))
        state, history = self._manager.restore(epoch, args=args).state, record["history"]
        break
      except WorkdirError:
        raise
      except Exception as error:  # Orbax and TensorStore raise nearly anything on a folder they do not expect
        kept = self._set_aside(epoch)
        _log.warning("checkpoint %d in %s does not open (%s); kept as %s", epoch, self.path, _why(error), kept)
    write_atomically(self.path / "metrics.jsonl", "".join(encode(line) + "\n" for line in history).encode())
    return state, history

  def _set_aside(self, epoch: int) -> str:
    """Renames a checkpoint's folder so that the manager does not see it; returns the new name."""
    folder = self.path / "checkpoints" / str(epoch)
    names = (f"damaged-{epoch}" + (f"-{number}" if number else "") for number in itertools.count())
    name = next(name for name in names if not (self.path / name).exists())
    with _refusing(folder):
      folder.rename(self.path / name)
    self._manager.reload()
    return name

  def append(self, line: dict[str, Any]) -> None:
    """Adds an epoch to metrics.jsonl and forces it to disk. Raises WorkdirError if it cannot be written."""
    with _refusing(self.path / "metrics.jsonl") as file, file.open("ab") as stream:
      stream.write(encode(line).encode() + b"\n")
      stream.flush()
      os.fsync(stream.fileno())

  def save(self, epoch: int, state: PyTree, history: list[dict[str, Any]]) -> None:
    """Writes a checkpoint, whole when this returns, and removes the older ones but one. Raises as `append`."""
    import orbax.checkpoint as ocp

    record = {"text": encode({"identity": self._identity, "history": history})}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
    with _refusing(self.path / "checkpoints"):
      self._manager.save(epoch, args=args, force=True)

  def _check(self, found: dict[str, Any]) -> None:
    wanted, found = decode(encode(self._identity)), decode(encode(self._complete(found)))
    differing = [
      f"{key}: was {found.get(key)}, now {wanted.get(key)}"
      for key in sorted(found.keys() | wanted.keys())
      if key not in MAY_DIFFER and found.get(key) != wanted.get(key)
    ]
    if differing:
      raise WorkdirError(
        f"--workdir: the checkpoints in {self.path} are of another training ({'; '.join(differing)}); "
        "give another --workdir"
      )


def _why(error: Exception) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextlib.contextmanager
def opened(workdir: str | os.PathLike[str], identity: dict[str, Any], *, complete: Complete = dict) -> Iterator[Store]:
  """Creates or continues the folder of the training that `identity` (JSON-able) describes; `complete` as of `Workdir`.

  Raises:
    WorkdirError: the folder cannot be written, is in use, or holds another training; what differs is named.
  """
  import orbax.checkpoint as ocp

  options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
  with Workdir.open(workdir, identity, ignore=MAY_DIFFER, complete=complete) as folder:
    path = folder.path.resolve()
    with _refusing(path / "checkpoints"):
      manager = ocp.CheckpointManager(path / "checkpoints", options=options)
    with manager:
      yield Store(path, manager, identity, complete)


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  try:
    yield path
  except OSError as error:
    raise WorkdirError(
      f"--workdir: cannot write {path} ({error.strerror or error}); make room or give another --workdir, "
      "the training continues from its last checkpoint"
    ) from error

"""Several processes, a host each, that make one run: all compute, the first alone reads and writes --workdir."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnas import stopping
from jaxnas.errors import ConfigError, JaxnasError
from jaxnas.files import decode, encode
from jaxnas.peers import Peers
from jaxnas.rendezvous import meet

_peers: Peers | None = None  # the others of this process's run, where this program knows them
_joined = False


def join(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int = 60) -> None:
  """Joins the other processes; must come before anything else that JAX does. What is None, JAX finds out.

  Args:
    timeout: seconds to wait for the others.

  Raises:
    ConfigError: it cannot be found out, or the others do not come.
  """
  global _peers, _joined
  if coordinator is not None and num_processes is not None and process_id is not None:
    links = meet(coordinator, num_processes, process_id, timeout)
    _peers = Peers(links, process_id, num_processes)
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
  except (ValueError, RuntimeError) as error:
    raise ConfigError(
      f"--distributed: the other processes cannot be joined ({str(error).splitlines()[0]}); where there is no TPU pod, "
      "Slurm or MPI that tells them, give each --coordinator=HOST:PORT (of process 0), --num_processes and --process_id"
    ) from error
  _joined = True


def leave(code: int) -> None:
  """Must come last before this process ends with that exit code: the other processes learn of it.

  After an error it ends here, where JAX would wait for the others: any error where they are known by --coordinator,
  else those that are no refusal, which comes to all of them.
  """
  if _peers is not None:
    _peers.leave(code)
  elif code == 1 and _joined:
    stopping.leave("", code)


def hear() -> None:
  """To be called where something failed, perhaps because another process is gone: that is said then, and all ends."""
  if _peers is not None:
    time.sleep(1)  # of the thread that listens to them


def leads() -> bool:
  """Whether this process is the first, or the only one."""
  return jax.process_index() == 0


def from_lead(make: Callable[[], Any]) -> Any:
  """What `make()` gives in the first process, JSON-able, in all of them. All must call this, nothing else in flight.

  Raises:
    JaxnasError: it raised one there.
  """
  if jax.process_count() == 1:
    return make()
  message: dict[str, Any] = {}
  if leads():
    try:
      message = {"value": make()}
    except JaxnasError as error:
      message = {"error": str(error)}
  text = np.frombuffer(encode(message).encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  own = np.resize(text, length) if leads() else np.zeros(length, np.uint8)
  message = decode(bytes(np.asarray(multihost_utils.broadcast_one_to_all(own))).decode())
  if "error" in message:
    raise JaxnasError(message["error"])
  return message["value"]


def refuse_several(what: str) -> None:
  """For what knows the devices of one host only, such as "a training".

  Raises:
    ConfigError: this process is one of several.
  """
  if jax.process_count() > 1:
    raise ConfigError(
      f"--distributed has {jax.process_count()} processes, and {what} knows one; start it on one host without "
      "--distributed, with --data_parallel for all of that host's devices"
    )

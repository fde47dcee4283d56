"""Processes of one run wait for one another and say so, before JAX joins them: its own wait is silent and ends badly.

Process 0 listens where JAX's coordinator will, the others knock until it answers and send their number; when all have
come, it tells them to go on. One line of text each way, no code and no data of the run. The connections stay open for
`peers`.
"""

import contextlib
import select
import socket
import time

from jaxnas.errors import ConfigError
from jaxnas.terminal import complain

_HELLO, _GO = "jaxnas {number} of {processes}\n", b"go\n"
_EVERY = 10.0  # seconds from one word of waiting to the next
_KNOCK = 0.2  # seconds from one knock to the next


def meet(coordinator: str, processes: int, number: int, timeout: float) -> dict[int, socket.socket]:
  """Returns when all processes have called this, with open connections, see `peers`, by number: process 0 has one to
  each of the others, and they to process 0.

  Args:
    coordinator: HOST:PORT of process 0.
    processes, number: how many there are, and which one this is.
    timeout: seconds to wait.

  Raises:
    ConfigError: some do not come, with their numbers and what to do; a port that is taken; processes that disagree.
  """
  host, colon, port = coordinator.rpartition(":")
  if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
    raise ConfigError(f"--coordinator={coordinator!r}: give HOST:PORT of process 0")
  if not 0 <= number < processes:
    raise ConfigError(f"--process_id={number} must lie in [0, {processes - 1}], --num_processes={processes}")
  deadline = time.monotonic() + timeout
  if number == 0:
    return _receive(coordinator, int(port), processes, deadline, timeout) if processes > 1 else {}
  return {0: _knock(coordinator, (host.strip("[]"), int(port)), (number, processes), deadline, timeout)}


def _receive(coordinator: str, port: int, processes: int, deadline: float, timeout: float) -> dict[int, socket.socket]:
  come: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack, contextlib.ExitStack() as listening:
    try:
      both = socket.has_dualstack_ipv6()
      family = socket.AF_INET6 if both else socket.AF_INET
      server = listening.enter_context(socket.create_server(("", port), family=family, dualstack_ipv6=both))
    except OSError as error:
      raise ConfigError(
        f"--coordinator={coordinator}: process 0 cannot listen there ({error.strerror}); give another port to all"
      ) from error
    said = time.monotonic()
    while len(come) < processes - 1:
      missing = [str(i) for i in range(1, processes) if i not in come]
      if time.monotonic() > deadline:
        raise ConfigError(
          f"--distributed: {_counted(missing, processes)} did not come to --coordinator={coordinator} in {timeout:g} "
          "s; start the same command on each with its own --process_id, or give a longer --distributed_timeout"
        )
      if time.monotonic() - said > _EVERY:
        said = time.monotonic()
        complain(f"jaxnas: waiting for {len(missing)} of {processes} processes: {', '.join(missing[:8])}")
      if not select.select([server], [], [], _KNOCK)[0]:
        continue
      connection = stack.enter_context(server.accept()[0])
      number = _hello(connection, processes)
      if number in come and not select.select([come[number]], [], [], 0)[0]:  # else that one has left meanwhile
        raise ConfigError(f"--process_id={number}: two processes have this number; give each its own")
      if number is None:
        connection.close()
      else:
        come[number] = connection
    for connection in come.values():
      with contextlib.suppress(OSError):  # one that died meanwhile is JAX's to miss
        connection.sendall(_GO)
    stack.pop_all()  # they stay open
  return come


def _hello(connection: socket.socket, processes: int) -> int | None:
  """The number of a process of this run; None of a stranger."""
  connection.settimeout(2)
  try:
    greeting, number, _, count = connection.recv(100).decode().split()
    who, theirs = int(number), int(count)
  except (OSError, ValueError):
    return None
  if greeting != "jaxnas":
    return None
  if theirs != processes:
    with contextlib.suppress(OSError):
      connection.sendall(f"process 0 has --num_processes={processes}, not {theirs}\n".encode())
    raise ConfigError(f"--num_processes={processes} here, {theirs} in process {who}; give all the same")
  return who if 0 < who < processes else None


def _knock(
  coordinator: str, address: tuple[str, int], who: tuple[int, int], deadline: float, timeout: float
) -> socket.socket:
  said = time.monotonic()
  why = "nobody answers"
  while time.monotonic() < deadline:
    if time.monotonic() - said > _EVERY:
      said = time.monotonic()
      complain(f"jaxnas: waiting for process 0 at {coordinator} ({why})")
    try:
      with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(address, timeout=2))
        connection.sendall(_HELLO.format(number=who[0], processes=who[1]).encode())
        connection.settimeout(max(0.1, deadline - time.monotonic()) + 5)
        answer = connection.recv(len(_GO))  # and no more: what follows is for `peers`
        if answer == _GO:
          stack.pop_all()  # it stays open
          return connection
        answer += connection.recv(200)
      if answer:
        raise ConfigError(f"--distributed: {answer.decode(errors='replace').strip()}; give all the same")
      why = "it closed the connection"
    except UnicodeError as error:
      raise ConfigError(f"--coordinator={coordinator!r}: no name of a host ({error}); give HOST:PORT") from error
    except OSError as error:
      why = error.strerror or str(error)
    time.sleep(_KNOCK)
  raise ConfigError(
    f"--distributed: process 0 did not come to --coordinator={coordinator} in {timeout:g} s ({why}); start it there, "
    "with --process_id=0, or give a longer --distributed_timeout"
  )


def _counted(missing: list[str], processes: int) -> str:
  what = "process" if len(missing) == 1 else "processes"
  return f"{what} {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''} of {processes}"

"""What the processes of one run tell one another besides their results: how they end.

JAX tells of a process that died by an abort of this one, with a stack trace, after up to a minute or two. So the
connections of `rendezvous.meet`, between process 0 and each of the others, stay open. A process that ends says how, one
line of text; one that is killed, or whose host goes down, closes them without a word. Whoever learns of an end that is
not its own says so and ends too, since no process can go on alone.
"""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Mapping

from jaxnas import stopping

DONE, FAILED, LOST = "done", "failed", "lost"  # after a good end, after another; "lost N", by process 0 of another's
_WAIT = {True: 4.0, False: 2.0}  # seconds, process 0 or not, to fail too after another has: refusals come to all
_SILENT = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a host that is gone is missed in 40 s


class Peers:
  """The other processes, to whom a thread listens until this process ends.

  Args:
    links: the connections of `rendezvous.meet`, by number of the process at their other end.
    number, processes: which one this is, and how many there are.
  """

  def __init__(self, links: Mapping[int, socket.socket], number: int, processes: int):
    self._links = dict(links)
    self._leads = number == 0
    self._processes = processes
    self._said: dict[int, str] = {}
    self._lost: tuple[float, int, str] | None = None  # when to end, of whom, why
    self._leaving = threading.Event()
    self._free = threading.Event()  # nobody is left whom this process should wait for when it leaves
    for link in self._links.values():
      link.settimeout(None)
      link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
      for name, value in _SILENT.items():
        if hasattr(socket, name):  # macOS has others
          link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    threading.Thread(target=self._listen, name="peers", daemon=True).start()

  def leave(self, code: int) -> None:
    """Tells the others how this process ends. Where that is not well it ends here, since JAX would wait for the others.

    Process 0 goes last: JAX aborts the others when it is gone.
    """
    self._tell(FAILED if code else DONE)
    if code:
      self._leaving.set()
      self._free.wait(_WAIT[self._leads])
      stopping.leave("", code)

  def _tell(self, line: str) -> None:
    for link in list(self._links.values()):
      with contextlib.suppress(OSError):  # `_listen` notices one that is gone
        link.sendall(f"{line}\n".encode())

  def _listen(self) -> None:
    unread = dict.fromkeys(self._links, "")
    while self._links or (self._lost and not self._leaving.is_set()):
      ready = select.select(list(self._links.values()), [], [], 0.1 if self._lost else None)[0]
      for number in [n for n, link in self._links.items() if link in ready]:
        try:
          text = self._links[number].recv(200).decode(errors="replace")
        except OSError:  # reset, or silent for too long
          text = ""
        *lines, unread[number] = (unread[number] + text).split("\n")
        for line in lines:
          self._hear(number, line)
        if not text:
          del self._links[number]
          self._miss(number)
      if self._lost and self._lost[0] <= time.monotonic() and not self._leaving.is_set():
        self._end(*self._lost[1:])
    self._free.set()

  def _hear(self, number: int, line: str) -> None:
    self._said[number] = word = line.partition(" ")[0]
    if word == FAILED:
      self._lost = (time.monotonic() + _WAIT[self._leads], number, "ended by an error, which it says itself")
      if not self._leads:  # what process 0 refuses, all refuse
        self._free.set()
    elif word == LOST:
      self._lost = (0.0, int(line.partition(" ")[2]), "ended")

  def _miss(self, number: int) -> None:
    """The connection has ended."""
    if number not in self._said:
      self._lost = (0.0, number, "ended without a word: killed or stopped, or its host is down")

  def _end(self, number: int, why: str) -> None:
    self._tell(f"{LOST} {number}")
    if self._leads:
      time.sleep(0.5)  # the others go first
    fix = "start all again with the same command, which continues in its --workdir"
    stopping.leave(f"error: process {number} of {self._processes} {why}; {fix}", 1)

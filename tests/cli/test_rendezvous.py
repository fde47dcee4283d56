"""Processes that wait for one another: all come, some do not, some disagree."""

import socket
import threading
import time

import pytest
from helpers import free_port

from jaxnas import rendezvous
from jaxnas.errors import ConfigError


def met(own, timeout=5.0):
  """What `meet` gives to each of (processes, number), all at once: None, or the message of its error."""
  address, found = f"127.0.0.1:{free_port()}", [None] * len(own)

  def one(place):
    try:
      rendezvous.meet(address, *own[place], timeout)
    except ConfigError as error:
      found[place] = str(error)

  threads = [threading.Thread(target=one, args=(i,)) for i in range(len(own))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return found


def test_all_meet():
  assert met([(4, 0), (4, 1), (4, 2), (4, 3)]) == [None] * 4
  assert met([(1, 0)]) == [None]


def test_who_is_missing_is_said():
  begin = time.monotonic()
  first, second = met([(4, 0), (4, 2)], timeout=1.0)
  assert "processes 1, 3 of 4 did not come" in first and "--process_id" in first and "--distributed_timeout" in first
  assert "process 0" in second and "--distributed_timeout" in second
  assert time.monotonic() - begin < 10
  (alone,) = met([(2, 1)], timeout=0.5)
  assert "process 0 did not come" in alone and "--process_id=0" in alone


def test_waiting_is_said(monkeypatch, capsys):
  monkeypatch.setattr(rendezvous, "_EVERY", 0.2)
  met([(3, 0), (3, 2)], timeout=1.0)
  assert "jaxnas: waiting for 1 of 3 processes: 1\n" in capsys.readouterr().err


def test_processes_that_disagree():
  first, second = met([(2, 0), (3, 1)])
  assert "--num_processes=2 here, 3 in process 1" in first
  assert "--num_processes=2, not 3" in second
  found = met([(3, 0), (3, 1), (3, 1)])
  assert "--process_id=1: two processes have this number" in found[0]


@pytest.mark.slow
def test_a_process_that_left_may_come_again():
  port, done = free_port(), []
  lead = threading.Thread(target=lambda: done.append(rendezvous.meet(f"127.0.0.1:{port}", 3, 0, 20.0)))
  lead.start()
  for _ in range(100):
    try:
      with socket.create_connection(("127.0.0.1", port), timeout=2) as dying:
        dying.sendall(b"jaxnas 1 of 3\n")
      break
    except ConnectionRefusedError:
      time.sleep(0.05)
  time.sleep(0.5)
  others = [threading.Thread(target=rendezvous.meet, args=(f"127.0.0.1:{port}", 3, i, 20.0)) for i in (1, 2)]
  for thread in others:
    thread.start()
  for thread in (*others, lead):
    thread.join(30)
  assert [sorted(links) for links in done] == [[1, 2]]


def test_strangers_are_ignored():
  port, done = free_port(), []
  lead = threading.Thread(target=lambda: done.append(rendezvous.meet(f"127.0.0.1:{port}", 2, 0, 20.0)))
  lead.start()
  for words in (b"GET / HTTP/1.1\r\n", b"", b"jaxnas 7 of 2\n", b"\xff\xfe"):
    for _ in range(100):
      try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as stranger:
          stranger.sendall(words)
        break
      except ConnectionRefusedError:
        time.sleep(0.05)
  rendezvous.meet(f"127.0.0.1:{port}", 2, 1, 20.0)
  lead.join(20)
  assert [sorted(links) for links in done] == [[1]]


@pytest.mark.parametrize(
  ("coordinator", "processes", "number", "words"),
  [
    ("nowhere", 2, 0, "--coordinator='nowhere': give HOST:PORT"),
    ("host:x", 2, 0, "--coordinator='host:x'"),
    (":80", 2, 0, "--coordinator=':80'"),
    ("host:99999", 2, 0, "--coordinator='host:99999'"),
    ("host:80", 2, 2, r"--process_id=2 must lie in \[0, 1\]"),
  ],
)
def test_bad_addresses(coordinator, processes, number, words):
  with pytest.raises(ConfigError, match=words):
    rendezvous.meet(coordinator, processes, number, 1.0)


def test_a_port_that_is_taken():
  with socket.create_server(("", 0)) as server, pytest.raises(ConfigError, match="cannot listen there"):
    rendezvous.meet(f"127.0.0.1:{server.getsockname()[1]}", 2, 0, 1.0)

"""Processes that hear how the others of their run end: well, by an error, or without a word."""

import socket
import threading
import time

import pytest

from jaxnas import peers


@pytest.fixture
def said(monkeypatch):
  """What each process said when it left, and its exit code; nobody really leaves, and nobody waits for long."""
  found = []

  def leave(what, code):
    found.append((what, code))
    raise SystemExit  # of this thread

  monkeypatch.setattr(peers.stopping, "leave", leave)
  monkeypatch.setattr(peers, "_WAIT", {True: 0.6, False: 0.3})
  return found


def pair():
  """Two ends of a connection."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    one = socket.create_connection(server.getsockname())
    return one, server.accept()[0]


def linked(processes):
  """The lead of several processes, and the other ends of its connections."""
  pairs = {number: pair() for number in range(1, processes)}
  lead = peers.Peers({number: pair[0] for number, pair in pairs.items()}, 0, processes)
  return lead, {number: pair[1] for number, pair in pairs.items()}


def until(condition, seconds=5.0):
  end = time.monotonic() + seconds
  while not condition() and time.monotonic() < end:
    time.sleep(0.01)
  return condition()


def test_one_that_is_killed_ends_all(said):
  _, ends = linked(3)
  ends[1].close()
  assert until(lambda: said)
  ((what, code),) = said
  assert code == 1 and what.startswith("error: process 1 of 3 ended without a word") and "same command" in what
  assert ends[2].recv(100) == b"lost 1\n"


def test_one_that_the_lead_tells_of_ends_the_others(said):
  ours, theirs = pair()
  peers.Peers({0: ours}, 2, 3)
  theirs.sendall(b"lost 1\n")
  assert until(lambda: said)
  assert said[0][1] == 1 and said[0][0].startswith("error: process 1 of 3 ended;")


def test_a_lead_that_is_killed_ends_the_others(said):
  ours, theirs = pair()
  peers.Peers({0: ours}, 1, 2)
  theirs.close()
  assert until(lambda: said)
  assert said[0][1] == 1 and said[0][0].startswith("error: process 0 of 2 ended without a word")


def test_a_good_end_ends_nobody(said):
  lead, ends = linked(3)
  for number, end in ends.items():
    peers.Peers({0: end}, number, 3).leave(0)
  lead.leave(0)
  time.sleep(0.5)
  assert said == []


def test_one_that_fails_alone_is_waited_for_and_named(said):
  _, ends = linked(2)
  begin = time.monotonic()
  ends[1].sendall(b"failed\n")
  ends[1].close()
  assert until(lambda: said)
  assert time.monotonic() - begin > 0.5
  assert said[0][1] == 1 and said[0][0].startswith("error: process 1 of 2 ended by an error, which it says itself")


def test_a_refusal_of_all_keeps_everyones_own_code_and_words(said):
  lead, ends = linked(2)
  other = peers.Peers({0: ends[1]}, 1, 2)

  def left(own):
    with pytest.raises(SystemExit):
      own.leave(2)
    if own is other:
      ends[1].shutdown(socket.SHUT_RDWR)  # as the end of the process does

  threads = [threading.Thread(target=left, args=(own,)) for own in (lead, other)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(5)
  time.sleep(0.7)
  assert said == [("", 2), ("", 2)]

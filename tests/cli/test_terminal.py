"""A terminal that is gone, full, or knows no ±; a user's matplotlib; Ctrl-C: results stay, and the end is calm."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, command, environment, jaxnas

from jaxnas import figures, terminal

QUICK = ("--algorithm=score", "--proxies=params,l2_norm", "--archs=6111,9930", "--score_channels=4", "--score_batch=2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def broken():
  """The writing end of a pipe that nobody reads."""
  read, write = os.pipe()
  os.close(read)
  return write


@pytest.mark.parametrize("kind", ["nobody reads", "full"])
def test_results_are_written_before_the_terminal_and_whatever_becomes_of_it(cache, tmp_path, kind):
  """With a matplotlib of which the backend is not installed and that would call LaTeX."""
  (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.figsize: 90, 90\n")
  strange = {"MPLBACKEND": "module://not.installed", "MPLCONFIGDIR": str(tmp_path)}
  if kind == "full" and not os.path.exists("/dev/full"):
    pytest.skip("there is no /dev/full")
  end = broken() if kind == "nobody reads" else os.open("/dev/full", os.O_WRONLY)
  folder = tmp_path / "run"
  try:
    done = subprocess.run(
      command(*QUICK, f"--workdir={folder}"),
      env=environment(cache=cache) | strange, cwd=ROOT, stdout=end, stderr=end, timeout=300,
    )  # fmt: skip
  finally:
    os.close(end)
  assert done.returncode == 0
  assert {"result.json", "report.html", "cell.png"} <= {file.name for file in folder.iterdir()}
  assert "could not be drawn" not in (folder / "log").read_text()


def test_an_ascii_terminal_is_told_all(cache):
  done = subprocess.run(
    command(*QUICK[:2], "--archs=6111", "--seeds=0,1", "--score_batch=2"),
    env=environment(cache=cache) | {"PYTHONIOENCODING": "ascii"},
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0
  assert "mean +- std" in done.stdout and done.stdout.isascii()


def test_say_to_what_cannot_hear(monkeypatch):
  for stream in (io.StringIO(), os.fdopen(broken(), "w"), os.fdopen(broken(), "w", buffering=1)):
    terminal.say("twice", stream)
    terminal.say("twice", stream)
    if isinstance(stream, io.StringIO):
      assert stream.getvalue() == "twice\ntwice\n"
    stream.close()
    terminal.say("closed", stream)
  monkeypatch.setattr(sys, "stdout", None)
  terminal.say("nowhere")


def test_own_settings_leave_the_users_as_they_are(monkeypatch):
  import matplotlib

  monkeypatch.setenv("MPLBACKEND", "module://not.installed")
  with matplotlib.rc_context({"text.usetex": True}):
    with figures.own_settings():
      assert not matplotlib.rcParams["text.usetex"]
    assert matplotlib.rcParams["text.usetex"]
  assert os.environ["MPLBACKEND"] == "module://not.installed"


def started(cache, *flags):
  own = environment(cache=cache)
  return subprocess.Popen(command(*flags), env=own, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, number):
  """The standard error of a process that is sent a signal and must end at once."""
  begin = time.monotonic()
  process.send_signal(number)
  _, error = process.communicate(timeout=60)
  assert time.monotonic() - begin < 3  # on a loaded machine; alone it takes less than 0.1 s
  assert process.returncode == 128 + number
  return error


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads in /proc")
def test_ctrl_c_in_the_imports(cache):
  process = started(cache)
  deadline = time.monotonic() + 60
  while len(os.listdir(f"/proc/{process.pid}/task")) == 1:  # until the thread that answers is there
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.005)
  assert ended(process, signal.SIGINT) == "jaxnas: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_signals_while_compiling(cache, tmp_path, number):
  """A run that has computed nothing binds nobody: the corrected command may follow in the same folder."""
  folder = tmp_path / "run"
  flags = ("--algorithm=score", "--proxies=mgm", "--archs=random:20", "--score_channels=4", f"--workdir={folder}")
  process = started(tmp_path / "no cache", *flags)
  for line in process.stderr:
    if "compiling" in line:
      break
  time.sleep(1)
  error = ended(process, number)
  called = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
  assert error.startswith(f"jaxnas: {called}; score stopped at 0/20 architectures in 0:")
  assert error.endswith(f"; the same command continues in {folder}\n") and error.count("\n") == 1
  if number == signal.SIGINT:
    jaxnas(*QUICK, f"--workdir={folder}", cache=cache)

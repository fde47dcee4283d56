"""Architectures shared among devices and processes: the same readings as one device gives, whatever their number."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, environment, free_port

DEVICES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import jax
if len(sys.argv) > 2:
  address, count, own = sys.argv[2:]
  jax.distributed.initialize(address, int(count), int(own))
from test_scoring import KERNEL, NETWORK, REGIONS, archs, batch_of, own_params
from jaxnas.scoring import Engine
assert len(jax.devices()) == 4

def readings(engine, proxy, **kwargs):
  done, params = [], None if kwargs else own_params()
  (found,) = engine.score([proxy], NETWORK, params, archs(), batch_of(proxy), advance=done.append, **kwargs)
  return [found, done]

draws = {"init_keys": jax.random.split(jax.random.key(5), len(archs()))}
found = {}
for name, devices in (("all", None), ("one", jax.local_devices()[:1])):
  if name == "all" or jax.process_index() == 0:  # a process may also work alone
    own = Engine(block=2, devices=devices)
    runs = [readings(own, REGIONS), readings(own, KERNEL), readings(own, REGIONS, **draws)]
    found[name] = [readings for readings, _ in runs], [done for _, done in runs]
print(json.dumps(found))
"""


def started(arguments, devices):
  env = environment(devices=devices)
  command = [sys.executable, *arguments]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT)


def finished(process):
  out, error = process.communicate(timeout=300)
  assert process.returncode == 0, error
  return out


@pytest.fixture(scope="module")
def four_devices():
  return json.loads(finished(started(["-c", DEVICES, str(ROOT / "tests" / "scoring")], 4)).splitlines()[-1])


def test_four_devices_read_what_one_does(four_devices):
  (one, alone), (many, together) = four_devices["one"], four_devices["all"]
  assert one == many  # to the last bit
  assert len({value for value, _ in many[0]}) > 3
  for few, all_at_once in zip(alone, together, strict=True):
    assert sum(few) == sum(all_at_once) == 7
    assert max(few) <= 2 and max(all_at_once) >= 4


def test_two_processes_read_what_one_does(four_devices):
  address = f"127.0.0.1:{free_port()}"
  hosts = [started(["-c", DEVICES, str(ROOT / "tests" / "scoring"), address, "2", str(i)], 2) for i in range(2)]
  first, second = (json.loads(finished(host).splitlines()[-1]) for host in hosts)
  assert first["all"][0] == second["all"][0] == first["one"][0] == four_devices["one"][0]
  assert "one" not in second


# The command line


COMMAND = "--algorithm=score --archs=6111,9930,13,14000 --proxies=params,l2_norm --score_channels=4 --score_cells=1"


def hosts_of(workdir, *extra):
  """(exit code, out, error) of two processes that make one run."""
  address = f"127.0.0.1:{free_port()}"
  own = ["--distributed", f"--coordinator={address}", "--num_processes=2", f"--workdir={workdir}", *extra]
  command = ["-m", "jaxnas.main", *COMMAND.split(), *own]
  hosts = [started([*command, f"--process_id={i}"], 1) for i in range(2)]
  found = [host.communicate(timeout=300) for host in hosts]
  own = [[line for line in out.splitlines() if "[Gloo]" not in line] for out, _ in found]  # XLA's own words
  return [(host.returncode, "\n".join(o), e) for host, o, (_, e) in zip(hosts, own, found, strict=True)]


def scores(workdir):
  lines = [json.loads(line) for line in (workdir / "scores.jsonl").read_text().splitlines()]
  return {(line["arch"], line["proxy"]): line["value"] for line in lines}, len(lines)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
  """Two processes' run, in whose folder the first one's last lines were never written, continued by two others."""
  folder = tmp_path_factory.mktemp("hosts") / "out"
  first = hosts_of(folder)
  whole = scores(folder)
  lines = (folder / "scores.jsonl").read_text().splitlines(keepends=True)
  (folder / "scores.jsonl").write_text("".join(lines[:5]))
  return folder, first, whole, hosts_of(folder)


def test_two_processes_make_one_run(one_run, tmp_path):
  _, (lead, other), (values, count), _ = one_run
  assert (lead[0], other[0]) == (0, 0), lead[2] + other[2]
  assert "l2_norm" in lead[1] and other[1] == ""
  alone = started(["-m", "jaxnas.main", *COMMAND.split(), f"--workdir={tmp_path / 'alone'}"], 1)
  finished(alone)
  expected, number = scores(tmp_path / "alone")
  assert count == number == 8
  assert values == expected


def test_two_processes_continue_it(one_run):
  folder, _, whole, (lead, other) = one_run
  assert (lead[0], other[0]) == (0, 0), lead[2] + other[2]
  assert scores(folder) == whole


def test_an_error_of_the_first_ends_both(one_run):
  folder, *_ = one_run
  for code, out, error in hosts_of(folder, "--score_cells=2"):
    assert (code, out) == (2, "") and "score_cells" in error and "another --workdir" in error


@pytest.mark.parametrize("victim", [0, 1], ids=["the first", "the other"])
def test_one_that_is_killed_ends_the_other(tmp_path, victim):
  """Soon, by one line that says who is gone and how to go on; what was scored is kept."""
  own = [
    "--distributed",
    f"--coordinator=127.0.0.1:{free_port()}",
    "--num_processes=2",
    f"--workdir={tmp_path / 'out'}",
  ]
  command = ["-m", "jaxnas.main", *COMMAND.replace("6111,9930,13,14000", "all").split(), *own]
  hosts = [started([*command, f"--process_id={i}"], 1) for i in range(2)]
  scored = tmp_path / "out" / "scores.jsonl"
  deadline = time.monotonic() + 200
  while not (scored.exists() and scored.stat().st_size):
    assert time.monotonic() < deadline and hosts[0].poll() is None and hosts[1].poll() is None
    time.sleep(0.05)
  begin = time.monotonic()
  hosts[victim].kill()
  _, error = hosts[1 - victim].communicate(timeout=60)
  assert time.monotonic() - begin < 15
  # JAX aborts the others when the first is gone, if it is faster: its own words may stand there too
  assert hosts[1 - victim].returncode in ((1,) if victim else (1, -signal.SIGABRT)), error
  assert victim == 0 or ("Traceback" not in error and "Fatal Python error" not in error)
  (line,) = [line for line in error.splitlines() if line.startswith("jaxnas: error: ")]
  assert (
    f"process {victim} of 2 ended without a word" in line and "same command, which continues in its --workdir" in line
  )
  hosts[victim].communicate()
  assert scores(tmp_path / "out")[1] >= 2


@pytest.mark.parametrize(
  ("extra", "words"),
  [
    (["--process_id=1"], "--process_id=1 has no meaning without --distributed"),
    (["--distributed"], "--distributed: .*--coordinator=HOST:PORT"),
  ],
)
def test_flags_of_hosts_that_do_not_fit(extra, words):
  process = started(["-m", "jaxnas.main", *COMMAND.split(), *extra], 1)
  _, error = process.communicate(timeout=120)
  assert process.returncode == 2 and len(error.strip().splitlines()) == 1
  assert re.search(words, error)

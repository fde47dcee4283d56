"""Strict JAX modes, quick compilation and reference numbers, for every test.

The numbers that the tests must reproduce are committed in `tests/fixtures/`: every test of them runs in every checkout.
Data sets and benchmark tables are not ours to give away: tests that read them look in `../shared/data` beside the
checkout and are skipped, with that reason, where it is not.
"""

import importlib.metadata
import os
import pathlib

# Compiling is most of the tests' time: LLVM without its expensive passes, and fusions by the older emitters, which are
# twice as quick, where there are any: XLA ends a process that gives it a flag which it does not know. Set before JAX is
# imported; inherited by the programs that tests start.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
  + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10.")),
)

os.environ["COLUMNS"] = "400"  # tables whose titles are not broken

import jax
import jaxtyping
import pytest

from jaxnas import registry

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser):
  parser.addoption(
    "--plugins", dest="user_files", default="", help="your own files, as of jaxnas: tests/conformance tries them too"
  )


def pytest_configure(config):
  registry.load_plugins(filter(None, config.getoption("user_files").split(",")))


TESTS = pathlib.Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"


@pytest.fixture(scope="session")
def fixtures() -> pathlib.Path:
  """The committed numbers that the official TE-NAS and GenNAS code produced; each folder's README says how."""
  return TESTS / "fixtures"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder with `data/` (data sets, benchmark tables) beside a developer's checkout; skips without it."""
  if not SHARED.is_dir():
    pytest.skip("reads data sets or benchmark tables in ../shared/data, which is not beside this checkout")
  return SHARED


@pytest.fixture
def x64():
  """Runs the test with JAX's 64-bit types on."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def unchecked(monkeypatch):
  """For tests that pass what the annotations forbid, as users may: their runs do not enforce annotations, ours do."""
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

"""Strict JAX modes, quick compilation and the shared fixtures, for every test."""

import os
import pathlib

# Compiling is most of the tests' time: LLVM without its expensive passes. Set before JAX is imported; inherited by the
# programs that tests start.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference numbers and data beside a developer's checkout; skips without it."""
  if not SHARED.is_dir():
    pytest.skip("../shared (reference fixtures and data) is not beside this checkout")
  return SHARED


@pytest.fixture
def x64():
  """Runs the test with JAX's 64-bit types on."""
  with jax.enable_x64(True):
    yield

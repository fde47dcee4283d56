"""Kernel-target alignment against the formulas with both kernels written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError

N, K = 6, 3


def cosine(a, b):
  return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


def centre(matrix, averages):
  """(I - P) matrix (I - P)."""
  keep = np.eye(len(matrix)) - averages
  return keep @ matrix @ keep


def case(seed=0):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(N, K, 20)) + 0.5
  return np.einsum("ikp,jlp->ijkl", features, features), rng.normal(size=(N, K))


@pytest.mark.parametrize("centered", [False, True])
def test_equals_the_formula(x64, centered):
  full, targets = case()
  mean = np.einsum("ijkk->ij", full)
  samples, outputs = np.full((N, N), 1 / N), np.kron(np.full((N, N), 1 / N), np.eye(K))
  if not centered:
    samples, outputs = 0 * samples, 0 * outputs
  matrix = full.transpose(0, 2, 1, 3).reshape(N * K, N * K)
  flat = targets.reshape(-1, 1)
  for theta, kernel, y, averages, given in [
    (mean, mean, targets, samples, targets),
    (mean, mean, targets[:, :1], samples, targets[:, 0]),
    (full, matrix, flat, outputs, targets),
  ]:
    expected = cosine(centre(kernel, averages), centre(y @ y.T, averages))
    got = ntk.alignment(jnp.asarray(theta), jnp.asarray(given), centered=centered)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert 0 <= got <= 1


@pytest.mark.parametrize("centered", [False, True])
def test_batches_and_transforms(x64, centered):
  full, targets = (jnp.asarray(a) for a in case())
  other = full + 3 * jnp.einsum("ij,kl->ijkl", jnp.eye(N), jnp.eye(K))
  one_by_one = [ntk.alignment(theta, targets, centered=centered) for theta in (full, other)]
  assert abs(one_by_one[0] - one_by_one[1]) > 1e-3
  stacked = jax.jit(lambda t: ntk.alignment(t, targets, centered=centered))(jnp.stack([full, other]))
  np.testing.assert_allclose(stacked, one_by_one, rtol=1e-12)
  order = np.random.default_rng(1).permutation(N)
  permuted = ntk.alignment(full[order][:, order], targets[order], centered=centered)
  np.testing.assert_allclose(permuted, one_by_one[0], rtol=1e-12)
  scaled = ntk.alignment(1e3 * full, 1e-2 * targets, centered=centered)
  np.testing.assert_allclose(scaled, one_by_one[0], rtol=1e-12)


def test_perfect_and_degenerate():
  labels = np.array([0, 1, 2, 0, 1, 2])
  targets = jnp.asarray(np.eye(K)[labels], jnp.float32)
  same = targets @ targets.T
  np.testing.assert_allclose(ntk.alignment(5 * same, targets), 1, rtol=1e-6)
  assert ntk.alignment(same + 2, targets) < 0.95  # a constant is all that was added
  np.testing.assert_allclose(ntk.alignment(same + 2, targets, centered=True), 1, rtol=1e-5)
  np.testing.assert_allclose(ntk.alignment(same, np.eye(K, dtype=int)[labels]), 1, rtol=1e-6)
  assert np.isnan(ntk.alignment(0 * same, targets))
  assert np.isnan(ntk.alignment(same, jnp.ones(N), centered=True))
  assert np.isnan(ntk.alignment(same * jnp.nan, targets))


def test_low_precision_is_accumulated_in_float32():
  features = jnp.ones((N, 4), jnp.bfloat16)
  got = ntk.alignment(features @ features.T, jnp.ones(N))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, 1, rtol=1e-6)


def test_bad_arguments():
  full, targets = (jnp.asarray(a) for a in case())
  mean = jnp.einsum("ijkk->ij", full)
  for theta, given, message in [
    (mean, targets[:3], r"targets: expected shape \[6\] or \[6, C\]"),
    (mean, targets[None], "targets: expected shape"),
    (full, targets[:, 0], r"targets: expected shape \[6, 3\]"),
    (mean, jnp.arange(N), "looks like class labels"),
    (mean[:3], targets, "theta: expected shape"),
  ]:
    with pytest.raises(ConfigError, match=message):
      ntk.alignment(theta, given)

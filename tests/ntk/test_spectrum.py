"""Eigenvalues and condition numbers: reference numbers, and every degenerate kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.ntk import KernelStatus


def kernel_of(eigenvalues, dtype=np.float64, seed=0):
  """Symmetric matrix with these eigenvalues."""
  eigenvalues = np.asarray(eigenvalues, np.float64)
  basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
  theta = (basis * eigenvalues) @ basis.T
  return ((theta + theta.T) / 2).astype(dtype)


@pytest.mark.parametrize("init", ["generic", "torch_default_init", "kaiming_fanout_init"])
@pytest.mark.parametrize("case", ["full", "pruned_e3_op3", "pruned_e0_op1", "single_path"])
def test_reference_condition_numbers(fixtures, init, case):
  with np.load(fixtures / "tenas" / f"f2_ntk_nb201_{init}.npz") as data:
    theta, eigenvalues = data[f"{case}/ntk"], data[f"{case}/eigvals"]
    condition, condition32 = data[f"{case}/cond"], data[f"{case}/cond_float32"]
  got = ntk.spectrum(theta)
  assert got.status is KernelStatus.OK
  np.testing.assert_allclose(got.eigenvalues, np.sort(eigenvalues), rtol=1e-10)
  number = ntk.condition_number(theta)
  assert number.status is KernelStatus.OK
  np.testing.assert_allclose(number.value, condition, rtol=1e-10)
  np.testing.assert_allclose(ntk.condition_number(jnp.asarray(theta)).value, condition32, rtol=1e-4)


def test_well_conditioned():
  number = ntk.condition_number(kernel_of([1, 2, 8]))
  assert number.status is KernelStatus.OK
  np.testing.assert_allclose([number.value, number.ratio], [8, 8])
  np.testing.assert_allclose([number.lambda_min, number.lambda_max], [1, 8])
  assert all(np.asarray(v).dtype == np.float64 for v in (number.value, number.lambda_min))
  assert ntk.condition_number(np.ones((1, 1))).value == 1


def test_host_float64_whatever_the_input():
  theta = kernel_of([1e-3, 1, 2], np.float32)
  expected = np.linalg.eigvalsh(theta.astype(np.float64))
  got = ntk.spectrum(jnp.asarray(theta)).eigenvalues
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, expected, rtol=1e-12)
  assert ntk.spectrum(jnp.eye(3, dtype=jnp.bfloat16)).status is KernelStatus.OK
  assert ntk.spectrum(np.eye(3, dtype=np.int32)).status is KernelStatus.OK


def test_upper_triangle_is_read():
  theta = kernel_of([1, 2, 8])
  np.testing.assert_allclose(ntk.condition_number(np.triu(theta)).value, 8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_by_the_rounding_of_the_input(dtype):
  bound = 4 * float(np.finfo(dtype).eps)
  for smallest, status in [(0.5 * bound, KernelStatus.SINGULAR), (8 * bound, KernelStatus.OK)]:
    number = ntk.condition_number(np.diag([smallest, 1, 1, 1]).astype(dtype))
    assert number.status is status
    assert number.value == (np.inf if status is KernelStatus.SINGULAR else number.ratio)
    np.testing.assert_allclose(number.ratio, 1 / smallest, rtol=1e-5)


def test_duplicated_sample_is_singular():
  rows = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
  rows[3] = rows[2]
  number = ntk.condition_number(ntk.gram({"rows": jnp.asarray(rows)}))
  assert number.status is KernelStatus.SINGULAR
  assert number.value == np.inf
  assert np.abs(number.ratio) > 1e6


def test_rtol_overrides_the_bound():
  theta = np.diag([1e-3, 1.0])
  assert ntk.condition_number(theta, rtol=1e-2).status is KernelStatus.SINGULAR
  assert ntk.condition_number(np.diag([1e-20, 1.0]), rtol=0).status is KernelStatus.OK
  assert ntk.spectrum(theta, rtol=1e-2).status is KernelStatus.SINGULAR


def test_negative():
  theta = np.diag([-0.5, 1, 2])
  number = ntk.condition_number(theta)
  assert (number.status, number.value, number.ratio) == (KernelStatus.NEGATIVE, np.inf, -4)
  kept = ntk.condition_number(theta, negative="keep")
  assert (kept.status, kept.value) == (KernelStatus.NEGATIVE, -4)
  # Within rounding of zero: singular, and still kept as it is on demand.
  tiny = ntk.condition_number(np.diag([-1e-18, 1, 2]), negative="keep")
  assert (tiny.status, tiny.value) == (KernelStatus.SINGULAR, 2 / -1e-18)
  assert ntk.condition_number(-np.eye(2)).status is KernelStatus.NEGATIVE


def test_zero_matrix():
  number = ntk.condition_number(np.zeros((3, 3), np.float32))
  assert (number.status, number.value) == (KernelStatus.SINGULAR, np.inf)
  assert np.isnan(number.ratio)
  assert ntk.condition_number(np.zeros((3, 3)), negative="keep").value == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("negative", ["worst", "keep"])
def test_non_finite(bad, negative):
  theta = np.eye(3, dtype=np.float32)
  theta[1, 2] = theta[2, 1] = bad
  number = ntk.condition_number(theta, negative=negative)
  assert (number.status, number.value) == (KernelStatus.NON_FINITE, np.inf)
  assert np.isnan(number.lambda_min)
  assert np.isnan(number.lambda_max)
  assert np.isnan(number.ratio)
  assert np.isnan(ntk.spectrum(theta).eigenvalues).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter(scale):
  np.testing.assert_allclose(ntk.condition_number(scale * kernel_of([1, 2, 8])).value, 8)


def test_batch_equals_one_by_one():
  bad = np.eye(3)
  bad[0, 0] = np.nan
  batch = np.stack([kernel_of([1, 2, 8]), np.ones((3, 3)), np.diag([-1.0, 1, 2]), bad, 0 * bad])
  batch[4] = 0
  number, spectrum = ntk.condition_number(batch), ntk.spectrum(batch)
  one_by_one = [ntk.condition_number(theta) for theta in batch]
  assert [KernelStatus(s) for s in number.status] == [one.status for one in one_by_one]
  assert list(KernelStatus(s) for s in number.status) == [
    KernelStatus.OK,
    KernelStatus.SINGULAR,
    KernelStatus.NEGATIVE,
    KernelStatus.NON_FINITE,
    KernelStatus.SINGULAR,
  ]
  for field in ("value", "lambda_min", "lambda_max", "ratio"):
    np.testing.assert_array_equal(getattr(number, field), [getattr(one, field) for one in one_by_one])
  np.testing.assert_array_equal(spectrum.status, number.status)
  assert spectrum.eigenvalues.shape == (5, 3)
  assert ntk.spectrum(np.zeros((0, 3, 3))).eigenvalues.shape == (0, 3)


def full_kernel(seed=0, samples=4, classes=3):
  """[N, N, K, K], and its matrix in the order of `outputs.reshape(-1)`, made row by row."""
  rows = np.random.default_rng(seed).normal(size=(samples * classes, 20))
  matrix = rows @ rows.T
  theta = np.empty((samples, samples, classes, classes))
  for i, k in np.ndindex(samples, classes):
    for j, m in np.ndindex(samples, classes):
      theta[i, j, k, m] = matrix[i * classes + k, j * classes + m]
  return theta, matrix


def test_full_kernels_are_flattened():
  theta, matrix = full_kernel()
  expected = np.linalg.eigvalsh(matrix)
  np.testing.assert_allclose(ntk.spectrum(theta).eigenvalues, expected, rtol=1e-10)
  np.testing.assert_allclose(ntk.condition_number(theta).value, expected[-1] / expected[0], rtol=1e-9)
  batch = ntk.spectrum(np.stack([theta, 2 * theta]))
  np.testing.assert_allclose(batch.eigenvalues, [expected, 2 * expected], rtol=1e-10)
  assert batch.status.shape == (2,)


@pytest.mark.parametrize("kind", ["entropy", "participation"])
def test_effective_rank(kind):
  def rank(theta):
    return ntk.effective_rank(theta, kind=kind)

  for count in (1, 2, 5):  # that many equal eigenvalues, whatever their scale and however many are zero
    for scale in (1e-300, 1.0, 1e200):
      np.testing.assert_allclose(rank(scale * kernel_of([1] * count + [0] * 3)), count, rtol=1e-6)
  shares = np.array([0.5, 0.25, 0.25])
  expected = {"entropy": np.exp(-(shares * np.log(shares)).sum()), "participation": 1 / (shares**2).sum()}
  np.testing.assert_allclose(rank(kernel_of([2, 1, 1])), expected[kind], rtol=1e-12)
  np.testing.assert_allclose(rank(kernel_of([-2, 1, 1])), expected[kind], rtol=1e-12)  # singular values
  theta, matrix = full_kernel()
  np.testing.assert_allclose(rank(theta), rank(matrix), rtol=1e-12)
  got = rank(np.stack([kernel_of([2, 1, 1]), np.zeros((3, 3)), np.full((3, 3), np.nan)]))
  np.testing.assert_allclose(got, [expected[kind], 0, np.nan], rtol=1e-12)


def test_participation_is_at_most_entropy():
  theta, _ = full_kernel()
  assert 1 < ntk.effective_rank(theta, kind="participation") < ntk.effective_rank(theta) < 12


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 2, 3), (0, 0), (2, 3, 3, 2), (2, 2, 3, 2), (2, 2, 0, 0)])
def test_bad_shape(unchecked, shape):
  for fn in (ntk.spectrum, ntk.condition_number, ntk.effective_rank):
    with pytest.raises(ConfigError, match="theta: expected shape"):
      fn(np.zeros(shape))


def test_bad_arguments(unchecked):
  with pytest.raises(ConfigError, match="real dtype"):
    ntk.spectrum(np.eye(2, dtype=np.complex64))
  with pytest.raises(ConfigError, match="negative='drop'"):
    ntk.condition_number(np.eye(2), negative="drop")
  with pytest.raises(ConfigError, match="kind='rank'"):
    ntk.effective_rank(np.eye(2), kind="rank")
  for rtol in (-1, 1, np.nan):
    with pytest.raises(ConfigError, match="rtol"):
      ntk.condition_number(np.eye(2), rtol=rtol)
  with pytest.raises(jax.errors.TracerArrayConversionError):
    jax.jit(ntk.spectrum)(jnp.eye(2))

"""Predictions against training itself, by Runge-Kutta in parameter space, and against textbook formulas in NumPy."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.ntk import predict
from jaxnas.ntk.predict import Gaussian, ODEState

R = np.random.default_rng(0)
X, Z = R.normal(size=(5, 7)), R.normal(size=(3, 7))  # training and test inputs, more features than samples
Y, F0, G0 = R.normal(size=(5, 2)), R.normal(size=(5, 2)), R.normal(size=(3, 2))
THETA, CROSS = X @ X.T, Z @ X.T
Kernels = collections.namedtuple("Kernels", "nngp ntk")

pytestmark = pytest.mark.usefixtures("x64")


def near(got, expected, tolerance=1e-9):
  np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def mse(fx, y):
  return jnp.mean((fx - y) ** 2) / 2


def cross_entropy(fx, y):
  return -jnp.mean(jax.nn.log_softmax(fx) * y)


def trained(f, params, loss, x, y, time, steps=400):
  """Parameters after gradient flow for `time`, by the classical Runge-Kutta method."""
  gradient = jax.grad(lambda p: loss(f(p, x), y))

  def step(_, p):
    def moved(slope, share):
      return jax.tree.map(lambda a, b: a - share * time / steps * b, p, slope)

    k1 = gradient(p)
    k2 = gradient(moved(k1, 0.5))
    k3 = gradient(moved(k2, 0.5))
    k4 = gradient(moved(k3, 1.0))
    return jax.tree.map(lambda a, *k: a - time / steps / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3]), p, k1, k2, k3, k4)

  return jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, p))(params)


@pytest.fixture
def network():
  """A small network, linearised, its parameters, and its kernels [N, N, K, K]."""

  def f(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]

  params = {"a": jnp.asarray(R.normal(size=(7, 6))) / 2, "b": jnp.asarray(R.normal(size=(6, 2)))}
  kernel_fn = jax.jit(ntk.empirical_ntk_fn(f, trace_axes=()))
  return jax.jit(ntk.linearize(f, params)), params, kernel_fn(X, None, params), kernel_fn(Z, X, params)


class TestGradientDescentMse:
  def test_is_the_training_of_the_linearised_network(self, network):
    f, params, theta, cross = network
    predict_fn = predict.gradient_descent_mse(theta, Y, learning_rate=0.2, trace_axes=())
    for t in (0.0, 3.0, 40.0):
      after = trained(f, params, mse, X, Y, 0.2 * t)
      train, test = predict_fn(t, f(params, X), f(params, Z), cross)
      near(train, f(after, X))
      near(test, f(after, Z))

  def test_steps_of_gradient_descent(self):
    weights, rate = np.zeros((7, 2)), 1e-3
    for _ in range(2000):
      weights -= rate * X.T @ (X @ weights - Y) / Y.size
    train, test = predict.gradient_descent_mse(THETA, Y, rate)(2000, 0.0, 0.0, CROSS)
    near(train, X @ weights, 1e-3)
    near(test, Z @ weights, 1e-3)

  @pytest.mark.parametrize(("reg", "absolute"), [(0.0, False), (0.3, False), (0.3, True)])
  @pytest.mark.parametrize("t", [None, np.inf])
  def test_infinite_time_is_kernel_regression(self, reg, absolute, t):
    added = reg if absolute else reg * np.trace(THETA) / len(THETA)
    predict_fn = predict.gradient_descent_mse(THETA, Y, diag_reg=reg, diag_reg_absolute_scale=absolute)
    train, test = predict_fn(t, F0, G0, CROSS)
    near(train, Y)
    near(test, G0 + CROSS @ np.linalg.solve(THETA + added * np.eye(5), Y - F0))

  def test_times_lead_the_axes(self):
    predict_fn = predict.gradient_descent_mse(THETA, Y)
    times = np.array([[0.0, 1.0, 7.0], [2.5, np.inf, 3.0]])
    train, test = predict_fn(times, F0, G0, CROSS)
    assert train.shape == (2, 3, 5, 2) and test.shape == (2, 3, 3, 2)
    for i in np.ndindex(2, 3):
      one, other = predict_fn(times[i], F0, G0, CROSS)
      near(train[i], one, 1e-13)
      near(test[i], other, 1e-13)
    near(train[0, 0], F0)
    near(test[0, 0], G0)

  @pytest.mark.parametrize("t", [None, 2.0, np.array([1.0, 2.0])])
  def test_what_is_returned(self, t):
    predict_fn = predict.gradient_descent_mse(THETA, Y)
    zeros, start = np.zeros_like(Y), np.full_like(G0, 0.5)
    train, test = predict_fn(t, zeros, start, CROSS)
    near(predict_fn(t), train)
    near(predict_fn(t, 0.0), train)
    near(predict_fn(t, None, 0.5, CROSS), test)
    near(predict_fn(t, fx_test_0=start, k_test_train=CROSS)[1], test)

  @pytest.mark.parametrize(("y_shape", "axes"), [((4, 2, 3), 1), ((4, 2), ()), ((2, 4), (0,))])
  def test_any_traced_axes(self, y_shape, axes):
    """A kernel is a multiple of the identity along its traced axes: the same as the one that has them."""
    y, f0 = R.normal(size=y_shape), R.normal(size=y_shape)
    kept = [i for i in range(len(y_shape)) if i not in {a % len(y_shape) for a in np.atleast_1d(axes).astype(int)}]
    sizes = [y_shape[i] for i in kept]
    n, m = int(np.prod(sizes)), int(np.prod(sizes[1:])) * 4
    features = R.normal(size=(n + m, n + m))
    joint = features @ features.T

    def interleaved(matrix, rows, columns):
      array = matrix.reshape(*rows, *columns)
      return array.transpose([k for i in range(len(rows)) for k in (i, len(rows) + i)])

    test_sizes = [4, *sizes[1:]]
    theta = interleaved(joint[:n, :n], sizes, sizes)
    cross = interleaved(joint[n:, :n], test_sizes, sizes)
    train, test = predict.gradient_descent_mse(theta, y, trace_axes=axes)(9.0, f0, 0.0, cross)

    def rows(outputs):
      return np.moveaxis(outputs, kept, range(len(kept))).reshape(n, -1)

    decay = scipy.linalg.expm(-joint[:n, :n] * 9.0 / y.size)
    near(rows(train), rows(y) + decay @ rows(f0 - y))
    moved = np.moveaxis(test, kept, range(len(kept)))
    assert list(moved.shape[: len(kept)]) == test_sizes
    near(moved.reshape(m, -1), joint[n:, :n] @ np.linalg.solve(joint[:n, :n], rows(y - f0) - decay @ rows(y - f0)))

  def test_singular_kernel(self):
    """Fewer features than samples: training stops short of the targets, and finite time converges to infinite."""
    x, z = X[:, :3], Z[:, :3]
    predict_fn = predict.gradient_descent_mse(x @ x.T, Y)
    train, test = predict_fn(None, F0, G0, z @ x.T)
    weights = np.linalg.lstsq(x, Y - F0, rcond=None)[0]
    near(train, F0 + x @ weights)
    near(test, G0 + z @ weights)
    for t in (np.inf, 1e4):
      near(predict_fn(t, F0, G0, z @ x.T)[0], train)
      near(predict_fn(t, F0, G0, z @ x.T)[1], test)

  def test_kernel_that_is_not_positive(self):
    values, vectors = np.linalg.eigh(THETA)
    broken = (vectors * np.array([-0.5, 0.0, *values[2:]])) @ vectors.T
    kept = vectors[:, 2:]
    for t in (None, np.inf):
      train, test = predict.gradient_descent_mse(broken, Y)(t, 0.0, 0.0, broken)
      near(train, kept @ kept.T @ Y)
      near(test, kept @ kept.T @ Y)

  def test_zero_kernel_trains_nothing(self):
    for t in (None, 5.0):
      near(predict.gradient_descent_mse(np.zeros((5, 5)), Y)(t, F0), F0)

  def test_transformations(self):
    """A jitted call first: what it keeps is no tracer."""
    predict_fn = predict.gradient_descent_mse(THETA, Y)
    for t in (None, 4.0):
      jitted = jax.jit(predict_fn)(t, F0, G0, CROSS)
      eager = predict_fn(t, F0, G0, CROSS)
      jax.tree.map(near, jitted, eager)
    whole = jax.jit(lambda theta: predict.gradient_descent_mse(theta, Y)(4.0, F0, G0, CROSS)[1])(THETA)
    near(whole, eager[1])
    near(jax.vmap(lambda f: predict_fn(4.0, f, G0, CROSS)[1])(jnp.stack([F0, Y]))[0], eager[1])
    speed = jax.grad(lambda t: predict_fn(t, F0)[0, 0])(0.0)
    near(speed, -(THETA @ (F0 - Y) / Y.size)[0, 0])

  @pytest.mark.parametrize(("dtype", "result"), [(np.float32, jnp.float32), (jnp.bfloat16, jnp.float32)])
  def test_narrower_kernels(self, dtype, result):
    theta = jnp.asarray(THETA, dtype)
    got = predict.gradient_descent_mse(theta, Y)(2.0, F0)
    assert got.dtype == result
    expected = predict.gradient_descent_mse(theta.astype(jnp.float64), Y)(2.0, F0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class TestGradientDescent:
  def test_squared_loss_has_the_closed_form(self, network):
    _, _, theta, cross = network
    times = jnp.array([[3.0, 0.0], [40.0, 3.0]])
    got = predict.gradient_descent(mse, theta, Y, 0.2, trace_axes=())(times, F0, G0, cross)
    expected = predict.gradient_descent_mse(theta, Y, 0.2, trace_axes=())(times, F0, G0, cross)
    for a, b in zip(got, expected, strict=True):
      assert a.shape == b.shape
      near(a, b, 1e-6)

  def test_infinite_time(self):
    expected = predict.gradient_descent_mse(THETA, Y)(None, F0, G0, CROSS)
    predict_fn = predict.gradient_descent(mse, THETA, Y)
    for t in (None, np.inf):
      for a, b in zip(predict_fn(t, F0, G0, CROSS), expected, strict=True):
        near(a, b, 1e-6)

  def test_infinite_time_in_other_units(self):
    """Whether the outputs stand still does not depend on the unit of time."""
    near(predict.gradient_descent(mse, 1e-6 * THETA, Y)(None, F0), Y, 1e-6)

  def test_cross_entropy_trains_as_in_parameter_space(self):
    labels = np.eye(2)[[0, 1, 1, 0, 1]]
    weights = jnp.asarray(R.normal(size=(7, 2)))
    after = trained(lambda p, x: x @ p, weights, cross_entropy, X, labels, 6.0)
    predict_fn = predict.gradient_descent(cross_entropy, THETA, labels, 0.5)
    train, test = predict_fn(12.0, X @ weights, Z @ weights, CROSS)
    near(train, X @ after, 1e-6)
    near(test, Z @ after, 1e-6)

  def test_momentum(self):
    """The linear system of outputs and velocities by its matrix exponential; resumed in the middle."""
    rate, m, t = 0.3, 0.8, 7.0
    friction = (m - 1) / np.sqrt(rate)
    system = np.block([[np.zeros((5, 5)), np.eye(5)], [-THETA / Y.size, friction * np.eye(5)]])
    expected = scipy.linalg.expm(system * t * np.sqrt(rate)) @ np.concatenate([F0 - Y, np.zeros_like(Y)])
    predict_fn = predict.gradient_descent(mse, THETA, Y, rate, momentum=m)
    near(predict_fn(t, F0), Y + expected[:5], 1e-6)
    whole = predict_fn(t, ODEState(F0, G0), None, CROSS)
    half = predict_fn(3.0, ODEState(F0, G0), None, CROSS)
    rest = predict_fn(t - 3.0, half, None, CROSS)
    near(whole.qx_train, expected[5:], 1e-6)
    for field in dataclasses.fields(ODEState):
      near(getattr(rest, field.name), getattr(whole, field.name), 1e-6)
    # The test outputs' change lies in the span of the training outputs': CROSS THETA^-1 maps one to the other.
    near(whole.fx_test - G0, CROSS @ np.linalg.solve(THETA, whole.fx_train - F0), 1e-6)

  def test_momentum_is_heavy_ball(self):
    rate, steps = 1e-4, 3000
    m = 1 - 2 * np.sqrt(rate)
    fx, velocity = F0.copy(), np.zeros_like(F0)
    for _ in range(steps):
      velocity = m * velocity - rate * THETA @ (fx - Y) / Y.size
      fx = fx + velocity
    near(predict.gradient_descent(mse, THETA, Y, rate, momentum=m)(steps, F0), fx, 2e-2)


class TestGpInference:
  """K and T are unrelated kernels, so that none can stand for the other unnoticed."""

  features = R.normal(size=(2, 8, 12))
  nngp, theta = (a @ a.T for a in features)
  train = Kernels(nngp[:5, :5], theta[:5, :5])
  cross = Kernels(nngp[5:, :5], theta[5:, :5])
  test = Kernels(nngp[5:, 5:], theta[5:, 5:])

  @pytest.mark.parametrize("get", ["nngp", "ntkgp"])
  @pytest.mark.parametrize(("reg", "absolute"), [(0.0, False), (0.2, False), (0.2, True)])
  def test_posterior(self, get, reg, absolute):
    k = self.nngp if get == "nngp" else self.theta
    noise = reg if absolute else reg * np.trace(k[:5, :5]) / 5
    inverse = np.linalg.inv(k[:5, :5] + noise * np.eye(5))
    predict_fn = predict.gp_inference(self.train, Y, reg, absolute)
    got = predict_fn(get, self.cross, self.test)
    assert isinstance(got, Gaussian)
    near(got.mean, k[5:, :5] @ inverse @ Y)
    near(got.covariance, k[5:, 5:] - k[5:, :5] @ inverse @ k[:5, 5:])
    near(predict_fn(get, self.cross), got.mean)
    arrays = predict.gp_inference(k[:5, :5], Y, reg, absolute)(get, k[5:, :5], k[5:, 5:])
    jax.tree.map(near, arrays, got)

  def test_ensemble_of_trained_networks(self):
    """f(z) = f0(z) + M (y - f0(X)), f0 ~ N(0, K): the covariance of a linear map."""
    m = self.theta[5:, :5] @ np.linalg.inv(self.theta[:5, :5])
    linear = np.hstack([-m, np.eye(3)])
    got = predict.gp_inference(self.train, Y)("ntk", self.cross, self.test)
    near(got.mean, m @ Y)
    near(got.covariance, linear @ self.nngp @ linear.T)

  def test_get(self):
    predict_fn = predict.gp_inference(self.train, Y)
    both = predict_fn(None, self.cross, self.test)
    assert both._fields == ("nngp", "ntk")
    near(both.ntk.covariance, predict_fn("ntk", self.cross, self.test).covariance)
    assert predict_fn(("ntk",), self.cross)._fields == ("ntk",)

  def test_training_set(self):
    predict_fn = predict.gp_inference(self.train, Y)
    near(predict_fn("ntk"), Y)
    at_train = predict_fn("nngp", None, True)
    near(at_train.mean, Y)
    assert at_train.covariance.shape == (5, 5) and not at_train.covariance.any()
    near(predict_fn("nngp", self.train, self.train).mean, Y, 1e-8)

  def test_whole_kernels(self):
    """[N, N, K, K] kernels that are K identities: as the traced ones."""
    full = [
      Kernels(*(np.einsum("nm,kl->nmkl", k, np.eye(2)) for k in pair)) for pair in (self.train, self.cross, self.test)
    ]
    got = predict.gp_inference(full[0], Y, trace_axes=())(None, *full[1:])
    expected = predict.gp_inference(self.train, Y)(None, self.cross, self.test)
    for name in ("nngp", "ntk"):
      near(getattr(got, name).mean, getattr(expected, name).mean)
      near(getattr(got, name).covariance, np.einsum("nm,kl->nmkl", getattr(expected, name).covariance, np.eye(2)))


class TestEnsemble:
  w_nngp, w_ntk = R.normal(size=(2, 7, 12))
  nngp, theta = (np.vstack([X, Z]) @ w @ w.T @ np.vstack([X, Z]).T for w in (w_nngp, w_ntk))

  def kernel_fn(self, x1, x2, get, scale=1.0):
    x2 = x1 if x2 is None else x2
    values = {
      "nngp": scale * x1 @ self.w_nngp @ self.w_nngp.T @ x2.T,
      "ntk": scale * x1 @ self.w_ntk @ self.w_ntk.T @ x2.T,
    }
    if isinstance(get, str):
      return values[get]
    return collections.namedtuple("Kernel", get)(**{name: values[name] for name in get})

  @pytest.mark.parametrize("get", ["nngp", "ntk"])
  @pytest.mark.parametrize("t", [None, np.inf, 1.7])
  @pytest.mark.parametrize("on_train", [False, True])
  def test_gaussian_through_training(self, get, t, on_train):
    """f_t = f_0 + M (y - f_0(X)) with f_0 ~ N(0, K) on X and Z."""
    k = (self.nngp if get == "nngp" else self.theta)[:5, :5]
    grown = np.eye(5) if t is None or t == np.inf else np.eye(5) - scipy.linalg.expm(-0.1 * t * k / Y.size)
    if on_train:
      m, linear = grown, np.hstack([np.eye(5) - grown, np.zeros((5, 3))])
    else:
      m = (self.nngp if get == "nngp" else self.theta)[5:, :5] @ np.linalg.solve(k, grown)
      linear = np.hstack([-m, np.eye(3)])
    predict_fn = predict.gradient_descent_mse_ensemble(self.kernel_fn, X, Y, learning_rate=0.1)
    got = predict_fn(t, None if on_train else Z, get, compute_cov=True)
    near(got.mean, m @ Y, 1e-8)
    near(got.covariance, linear @ self.nngp @ linear.T, 1e-7)
    near(predict_fn(t, None if on_train else Z, get), got.mean)

  def test_samples(self):
    """Networks drawn from the prior and trained one by one have this mean and covariance."""
    draws = np.linalg.cholesky(self.nngp + 1e-9 * np.eye(8)) @ np.random.default_rng(1).normal(size=(8, 40000))
    y = np.broadcast_to(Y[:, :1], (5, 40000))
    one = predict.gradient_descent_mse(self.theta[:5, :5], y, trace_axes=(-1,), learning_rate=40000 / 1.0)
    _, trained_draws = one(0.3, draws[:5], draws[5:], self.theta[5:, :5])
    got = predict.gradient_descent_mse_ensemble(self.kernel_fn, X, Y[:, :1])(0.3, Z, "ntk", compute_cov=True)
    spread = np.sqrt(np.diagonal(got.covariance))
    assert (np.abs(trained_draws.mean(1) - got.mean[:, 0]) < 5 * spread / np.sqrt(40000)).all()
    scale = np.outer(spread, spread)
    np.testing.assert_allclose(np.cov(trained_draws) / scale, got.covariance / scale, atol=0.03)

  def test_times_and_gets(self):
    predict_fn = predict.gradient_descent_mse_ensemble(self.kernel_fn, X, Y, diag_reg=0.1)
    jax.tree.map(near, predict_fn(np.inf, Z, compute_cov=True), predict_fn(None, Z, compute_cov=True))
    times = np.array([[0.5, 2.0, 9.0]])
    got = predict_fn(times, Z, compute_cov=True)
    assert got._fields == ("nngp", "ntk")
    assert got.ntk.mean.shape == (1, 3, 3, 2) and got.ntk.covariance.shape == (1, 3, 3, 3)
    for i, t in enumerate(times[0]):
      one = predict_fn(t, Z, "ntk", True)
      near(got.ntk.mean[0, i], one.mean)
      near(got.ntk.covariance[0, i], one.covariance)
    regression = predict.gradient_descent_mse(self.theta[:5, :5], Y, diag_reg=0.1)
    near(got.ntk.mean[0], regression(times[0], 0.0, 0.0, self.theta[5:, :5])[1])

  def test_under_jit_first(self):
    predict_fn = predict.gradient_descent_mse_ensemble(jax.jit(self.kernel_fn, static_argnames="get"), X, Y)
    for t in (None, 2.0):
      jitted = jax.jit(lambda z, t=t: predict_fn(t, z, "ntk", True))(Z)
      jax.tree.map(near, predict_fn(t, Z, "ntk", True), jitted)

  def test_whole_kernels(self):
    def full(x1, x2, get):
      kernels = self.kernel_fn(x1, x2, get)
      return jax.tree.map(lambda k: np.einsum("nm,kl->nmkl", k, np.eye(2)), kernels)

    got = predict.gradient_descent_mse_ensemble(full, X, Y, trace_axes=())(2.0, Z, "ntk", True)
    expected = predict.gradient_descent_mse_ensemble(self.kernel_fn, X, Y)(2.0, Z, "ntk", True)
    near(got.mean, expected.mean)
    near(got.covariance, np.einsum("nm,kl->nmkl", expected.covariance, np.eye(2)))

  def test_keyword_arguments(self):
    seen = []

    def kernel_fn(x1, x2, get, pair, params, flag):
      seen.append((len(x1), x2 is None, pair, params, flag))
      return self.kernel_fn(x1, x2, get)

    train, test, params = np.zeros(5), np.ones(3), {"w": np.ones(2)}
    predict_fn = predict.gradient_descent_mse_ensemble(kernel_fn, X, Y, pair=(train, train), params=params, flag=True)
    predict_fn(1.0, Z, "ntk", True, pair=(test, test))
    by_kernel = {(n, alone): (pair, p, flag) for n, alone, pair, p, flag in seen}
    assert by_kernel.keys() == {(5, True), (3, False), (3, True)}
    for key, (first, second) in {(5, True): (train, train), (3, False): (test, train), (3, True): (test, test)}.items():
      pair, p, flag = by_kernel[key]
      assert pair[0] is first and pair[1] is second and p is params and flag is True
    with pytest.raises(ConfigError, match="flag=False"):
      predict_fn(1.0, Z, "ntk", flag=False)
    with pytest.raises(ConfigError, match="other: given to predict_fn"):
      predict_fn(1.0, Z, "ntk", other=1)


class TestMaxLearningRate:
  @pytest.mark.parametrize("momentum", [0.0, 0.9])
  def test_is_where_gradient_descent_starts_to_diverge(self, momentum):
    largest = predict.max_learning_rate(THETA, Y.size, momentum)

    def error_after(rate, steps=3000):
      weights, velocity = np.zeros((7, 2)), np.zeros((7, 2))
      for _ in range(steps):
        velocity = momentum * velocity - rate * X.T @ (X @ weights - Y) / Y.size
        weights = weights + velocity
      return np.abs(X @ weights - Y).max()

    assert error_after(0.99 * largest) < 1e-3
    assert error_after(1.01 * largest) > 1e3

  def test_whole_kernel(self):
    full = np.einsum("nm,kl->nmkl", THETA, np.eye(2))
    assert isinstance(predict.max_learning_rate(full), float)
    np.testing.assert_allclose(predict.max_learning_rate(full), predict.max_learning_rate(THETA, 10), rtol=1e-12)
    np.testing.assert_allclose(predict.max_learning_rate(np.diag([1.0, 4.0])), 2 * 2 / 4)

  def test_degenerate_kernels(self):
    assert predict.max_learning_rate(np.zeros((2, 2))) == 4e12
    assert np.isnan(predict.max_learning_rate(np.full((2, 2), np.nan)))


FULL = np.zeros((5, 5, 2, 2))


@pytest.mark.parametrize(
  ("call", "word"),
  [
    (lambda: predict.gradient_descent_mse(THETA[:4], Y), "k_train_train: expected shape"),
    (lambda: predict.gradient_descent_mse(FULL, Y), "k_train_train: expected shape"),
    (lambda: predict.gradient_descent_mse(THETA, Y, trace_axes=()), "k_train_train: expected shape"),
    (lambda: predict.gradient_descent_mse(THETA, Y, trace_axes=2), "trace_axes=2"),
    (lambda: predict.gradient_descent_mse(THETA, Y, trace_axes=(0, 1)), "y_train: shape"),
    (lambda: predict.gradient_descent_mse(np.zeros((0, 0)), np.zeros((0, 2))), "y_train: shape"),
    (lambda: predict.gradient_descent_mse(THETA, Y, diag_reg=-1.0), "diag_reg=-1.0"),
    (lambda: predict.gradient_descent_mse(THETA, Y, diag_reg=np.float32(-1)), "diag_reg="),
    (lambda: predict.gp_inference(THETA, Y, diag_reg="a"), "diag_reg='a'"),
    (lambda: predict.gradient_descent_mse(THETA, Y, learning_rate=-1.0), "learning_rate=-1.0"),
    (lambda: predict.gradient_descent_mse(THETA + 0j, Y), "k_train_train: complex"),
    *((lambda t=t: predict.gradient_descent_mse(THETA, Y)(t), "t=") for t in (-1, np.nan, "a", np.array([1.0, -1.0]))),
    (lambda: predict.gradient_descent_mse(THETA, Y)(1.0, "a"), "fx_train_0='a'"),
    (lambda: predict.gradient_descent_mse_ensemble(None, X, Y, learning_rate="a"), "learning_rate='a'"),
    (lambda: predict.gradient_descent_mse_ensemble(None, X, Y)(np.nan), "t=nan"),
    (lambda: predict.gradient_descent(lambda f, y: (f - y) ** 2, THETA, Y), "loss: returned"),
    (lambda: predict.gradient_descent(lambda f, y: "text", THETA, Y), r"loss\(fx_train, y_train\)='text'"),
    (lambda: predict.gradient_descent(mse, THETA, Y, np.float32(0)), "learning_rate="),
    (lambda: predict.gradient_descent(mse, THETA, Y, momentum="a"), "momentum='a'"),
    (lambda: predict.gradient_descent(mse, THETA, Y)("a"), "t='a'"),
    (lambda: predict.max_learning_rate("a"), "ntk_train_train='a'"),
    (lambda: predict.max_learning_rate(THETA, "a"), "y_train_size='a'"),
    (lambda: predict.max_learning_rate(THETA, 10, "a"), "momentum='a'"),
    (lambda: predict.gradient_descent_mse(THETA, Y)(1.0, None), "nothing to predict"),
    (lambda: predict.gradient_descent_mse(THETA, Y)(1.0, F0, G0), "k_test_train=None"),
    (lambda: predict.gradient_descent_mse(THETA, Y)(1.0, F0[:4]), "fx_train_0: expected"),
    (lambda: predict.gradient_descent_mse(THETA, Y)(None, F0, F0, CROSS), "fx_test_0: expected"),
    (lambda: predict.gradient_descent_mse(THETA, Y)(1.0, F0, G0, CROSS.T), "k_test_train: expected shape"),
    (lambda: predict.gradient_descent(mse, THETA, Y, -1.0), "learning_rate=-1.0"),
    (lambda: predict.gradient_descent(mse, THETA, Y)(-1.0, F0), "t=-1.0"),
    (lambda: predict.gradient_descent(mse, THETA, Y)(np.array([1.0, np.inf]), F0), "t=array"),
    (lambda: predict.gradient_descent(mse, THETA, Y)(1.0, ODEState(F0, G0), G0, CROSS), "fx_test_0: give it as"),
    (lambda: predict.gradient_descent(mse, THETA, Y)(1.0, ODEState(F0, None, F0)), "momentum=None"),
    (lambda: predict.gradient_descent(mse, THETA, Y)(1.0, ODEState(F0, G0)), "k_test_train=None"),
    (lambda: predict.gp_inference(THETA, Y)("posterior"), "get='posterior'"),
    (lambda: predict.gp_inference(THETA, Y)(()), r"get=\(\)"),
    (lambda: predict.gp_inference(THETA, Y)("ntk", CROSS, np.eye(3)), "get='ntk' with k_test_test"),
    (lambda: predict.gp_inference(THETA, Y)("nngp", CROSS, np.eye(4)), "k_test_test: expected shape"),
    (lambda: predict.gp_inference(Kernels(THETA, None), Y)("ntk", CROSS), "k_train_train: its 'ntk' is None"),
    (lambda: predict.gp_inference("kernel", Y)("ntk"), "k_train_train: expected an array"),
    (lambda: predict.max_learning_rate(THETA[:4]), "ntk_train_train: expected shape"),
    (lambda: predict.max_learning_rate(np.zeros((0, 0))), "ntk_train_train: expected"),
    (lambda: predict.max_learning_rate(THETA, 0), "y_train_size=0"),
    (lambda: predict.max_learning_rate(THETA, 10, 1.5), "momentum=1.5"),
    (lambda: predict.max_learning_rate(THETA, 10, 0.0, -1.0), "eps=-1.0"),
  ],
)
def test_bad_input(unchecked, call, word):
  with pytest.raises(ConfigError, match=word):
    call()

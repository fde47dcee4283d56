"""Gradient flow of any loss in function space, with or without momentum, by an ODE solver."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_number
from jaxnas.ntk._jacobian import matmul_precision
from jaxnas.ntk.predict._gradient_descent_mse import broadcast, check_requested, check_times
from jaxnas.ntk.predict._layout import as_kernel, layout_of, square_matrix

_WINDOWS = 14  # each doubles the time, and an explicit solver's work with it: ten thousands of steps in all


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ODEState:
  """Outputs and, with momentum, their velocities; None where they are not computed.

  Attributes:
    fx_train: training outputs [N, ...].
    fx_test: test outputs [M, ...].
    qx_train: velocity of the training outputs, in steps of sqrt(learning_rate).
    qx_test: velocity of the test outputs.
  """

  fx_train: Any = None
  fx_test: Any = None
  qx_train: Any = None
  qx_test: Any = None


def gradient_descent(
  loss: Callable[[Array, Array], Array],
  k_train_train: ArrayLike,
  y_train: ArrayLike,
  learning_rate: float | Array = 1.0,
  momentum: float | Array | None = None,
  trace_axes: SupportsIndex | Sequence[SupportsIndex] = (-1,),
) -> Callable[..., Any]:
  """Predicts the outputs of a network, linear in its parameters, under gradient flow on any loss.

  With the NTK T of the training set, time being t steps,

      df/dt = -learning_rate T dL/df_train                                        (Lee et al., arXiv 1902.06720, eq. 2)

  and with heavy-ball momentum m, in units of sqrt(learning_rate) of time,

      df/ds = q,    dq/ds = (m - 1) / sqrt(learning_rate) q - T dL/df_train,      s = sqrt(learning_rate) t

  whose Euler steps of t = 1 are `v <- m v - learning_rate g; f <- f + v`. Solved by `jax.experimental.ode.odeint` to a
  relative and absolute tolerance of 1e-6 in float32 and 1.4e-8 in float64. It is explicit: the work grows with t times
  the largest eigenvalue of T times the loss's curvature.

  Args:
    loss: `loss(fx_train, y_train) -> scalar`, differentiable in its first argument.
    k_train_train: kernel of the training set, [N, N] or, with fewer `trace_axes`, [N, N, K, K, ...].
    y_train: targets, of the shape of the outputs [N, ...].
    learning_rate: a step of gradient descent, above 0.
    momentum: None: without.
    trace_axes: output axes that the kernel lacks; the default goes with `empirical_ntk_fn`'s.

  Returns:
    `predict_fn(t=None, fx_train_or_state_0=0.0, fx_test_0=None, k_test_train=None)` as `gradient_descent_mse` returns
    it; times of at least 0 in any order. An `ODEState` in the place of `fx_train_or_state_0` gives an `ODEState`, by
    which training can be resumed. `t=None` (or the number inf) integrates until the outputs stand still: over windows
    of doubling length, the first as long as the time scale of the fastest movement, until over one of them nothing
    moves by more than ten times the tolerance, or for 14 windows. Modes ten thousand times slower are not seen, and a
    loss without a minimum, such as the cross-entropy, has no limit: what the last window reached is returned.

  Raises:
    ConfigError: shapes or axes that contradict one another; a learning rate or times out of range; a loss that is not
      one real number; velocities without momentum; nothing to predict, or test outputs without `k_test_train`.

  Example:
    >>> def cross_entropy(fx, y):
    ...   return -jnp.mean(jax.nn.log_softmax(fx) * y)
    >>> predict_fn = ntk.predict.gradient_descent(cross_entropy, theta, y_train, learning_rate=0.1, momentum=0.9)
    >>> train = predict_fn(jnp.array([1.0, 10.0, 100.0]), f(params, x_train))
  """
  checked_number(learning_rate, "learning_rate", lambda value: 0 < value < np.inf, "a finite number above 0")
  if momentum is not None:
    checked_number(momentum, "momentum", np.isfinite, "a finite number, or None")
  kernel = as_kernel(k_train_train, "k_train_train")
  targets = checked_array(y_train, "y_train")
  if jnp.issubdtype(targets.dtype, jnp.floating):
    targets = targets.astype(kernel.dtype)
  layout = layout_of(targets, trace_axes)
  matrix = square_matrix(kernel, layout.sizes, "k_train_train")
  _check_loss(loss, jax.ShapeDtypeStruct(layout.shape, kernel.dtype), targets)
  tolerance = 1.4e-8 if kernel.dtype == jnp.float64 else 1e-6
  unit = jnp.asarray(learning_rate, kernel.dtype)
  if momentum is not None:
    unit = jnp.sqrt(unit)
    momentum = (jnp.asarray(momentum, kernel.dtype) - 1) / unit

  def flow(state: ODEState, _: Any, matrix: Array, cross: Array | None, targets: Array, friction: Array) -> ODEState:
    gradient = layout.rows(jax.grad(lambda fx: loss(fx, targets))(state.fx_train))

    def pull(rows, shape):
      return layout.outputs(-rows @ gradient, tuple(shape[axis] for axis in layout.kept))

    train = pull(matrix, state.fx_train.shape)
    test = None if state.fx_test is None else pull(cross, state.fx_test.shape)
    if momentum is None:
      return ODEState(train, test)
    train = train + friction * state.qx_train
    test = None if test is None else test + friction * state.qx_test
    return ODEState(state.qx_train, state.qx_test, train, test)

  @jax.jit
  def at_times(state: ODEState, times: Float[Array, " T"], *args: Any) -> ODEState:
    # The solver wants increasing times, the first being the state's, and divides by the first difference.
    order = jnp.argsort(times)
    start = jnp.where(times[order[:1]] > 0, 0, -(jnp.finfo(times.dtype).tiny ** 0.5)).astype(times.dtype)
    states = odeint(flow, state, jnp.concatenate([start, times[order]]), *args, rtol=tolerance, atol=tolerance)
    return jax.tree.map(lambda a: a[1:][jnp.argsort(order)], states)

  @jax.jit
  def at_rest(state: ODEState, *args: Any) -> ODEState:
    def velocity(state):
      return flow(state, 0.0, *args)

    # The rate of change of the velocity along itself: how fast the fastest modes that move are.
    first, change = jax.jvp(velocity, (state,), (velocity(state),))
    scale = _largest(first) / _largest(change)
    scale = jnp.where(jnp.isfinite(scale) & (scale > 0), scale, 1)

    def moving(carry):
      window, state, moved = carry
      return (window < _WINDOWS) & ~(moved <= 10 * tolerance * jnp.maximum(1, _largest(state)))

    def advance(carry):
      window, state, _ = carry
      span = jnp.stack([jnp.zeros_like(scale), scale * 2.0 ** window.astype(scale.dtype)])
      states = odeint(flow, state, span, *args, rtol=tolerance, atol=tolerance)
      later = jax.tree.map(lambda a: a[1], states)
      return window + 1, later, _largest(jax.tree.map(jnp.subtract, later, state))

    start = (jnp.zeros((), jnp.int32), state, jnp.full_like(scale, jnp.inf))
    return jax.lax.while_loop(moving, advance, start)[1]

  def predict_fn(
    t: ArrayLike | None = None,
    fx_train_or_state_0: ArrayLike | ODEState | None = 0.0,
    fx_test_0: ArrayLike | None = None,
    k_test_train: ArrayLike | None = None,
  ) -> Any:
    if isinstance(fx_train_or_state_0, ODEState):
      if fx_test_0 is not None:
        raise ConfigError("fx_test_0: give it as the ODEState's fx_test, or give no ODEState.")
      given = fx_train_or_state_0
    else:
      given = ODEState(fx_train_or_state_0, fx_test_0)
    check_requested(given.fx_train, given.fx_test, k_test_train)
    infinite = _check_times(t)

    cross, test_shape = None, None
    if given.fx_test is not None:
      k_test = as_kernel(k_test_train, "k_test_train").astype(kernel.dtype)
      cross, test_shape = layout.matrix(k_test, "k_test_train"), layout.output_shape(k_test.shape[0::2])

    def filled(value, shape, name):
      return broadcast(0.0 if value is None else value, shape, kernel.dtype, name)

    state = ODEState(
      filled(given.fx_train, layout.shape, "fx_train_or_state_0"),
      None if test_shape is None else filled(given.fx_test, test_shape, "fx_test_0"),
    )
    if momentum is not None:
      state = dataclasses.replace(
        state,
        qx_train=filled(given.qx_train, layout.shape, "qx_train"),
        qx_test=None if test_shape is None else filled(given.qx_test, test_shape, "qx_test"),
      )
    elif given.qx_train is not None or given.qx_test is not None:
      raise ConfigError("momentum=None: the ODEState has velocities, qx_train or qx_test, which only momentum uses.")

    friction = jnp.zeros_like(unit) if momentum is None else momentum
    with matmul_precision(jax.lax.Precision.HIGHEST):
      if infinite:
        state = at_rest(state, matrix, cross, targets, friction)
      else:
        times = jnp.asarray(t, kernel.dtype)
        states = at_times(state, times.reshape(-1) * unit, matrix, cross, targets, friction)
        state = jax.tree.map(lambda a: a.reshape((*times.shape, *a.shape[1:])), states)

    if isinstance(fx_train_or_state_0, ODEState):
      return state
    if fx_test_0 is None:
      return state.fx_train
    return state.fx_test if fx_train_or_state_0 is None else (state.fx_train, state.fx_test)

  return predict_fn


def _check_loss(loss: Callable[[Array, Array], Array], outputs: jax.ShapeDtypeStruct, targets: Array) -> None:
  """ConfigError unless the loss of outputs of this shape is one real number."""
  value = jax.eval_shape(lambda fx, y: checked_array(loss(fx, y), "loss(fx_train, y_train)"), outputs, targets)
  if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
    raise ConfigError(f"loss: returned {value}; expected one real number, such as the mean over all outputs.")


def _largest(tree: Any) -> Array:
  """The largest absolute value in a tree."""
  return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _check_times(t: ArrayLike | None) -> bool:
  """Whether `t` is infinity; ConfigError for times, where they are known and not traced, that are out of range."""
  times = check_times(t)
  if times is None:
    return t is None
  if times.ndim == 0 and times == np.inf:
    return True
  if not np.isfinite(times).all() or times.size == 0:
    raise ConfigError(f"t={t!r}: expected finite times of at least 0, or None for infinity.")
  return False

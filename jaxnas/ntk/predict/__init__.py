"""What training does to a network whose kernel is given: gradient flow and Gaussian processes in function space.

The names, argument order, shapes and meaning are those of `neural_tangents.predict`. Every function takes its kernels
as arrays, from wherever they come: `empirical_ntk_fn`, `monte_carlo_kernel_fn`, an infinite-width network, a file.

| function | what it predicts |
|---|---|
| `gradient_descent_mse` | outputs at time t of gradient flow on a squared loss, in closed form |
| `gradient_descent` | the same for any loss and with momentum, by an ODE solver |
| `gradient_descent_mse_ensemble` | mean and covariance over initialisations at time t, from a kernel function |
| `gp_inference` | the Gaussian posterior of NNGP, NTK and NTK-GP |
| `max_learning_rate` | the largest step at which gradient descent on a squared loss is stable |

**Shapes.** Outputs f(x) are [N, ...]; a kernel interleaves the axes of two outputs, [N1, N2, K, K], and lacks those in
`trace_axes`, along which it stands for a multiple of the identity: outputs [N, K] go with the default
`trace_axes=(-1,)` and kernels [N1, N2]. `trace_axes` must be those that the kernel was computed with, and its
`diagonal_axes` must be (). The squared loss is `mean((f - y)^2) / 2`: a mode of eigenvalue l decays as
exp(-learning_rate * t * l / y.size).

**Kernels that are singular or not positive.** `diag_reg` adds `diag_reg * trace(K) / n` to the n diagonal entries
(`diag_reg_absolute_scale=True`: `diag_reg` itself). What is left below ten times the machine epsilon times the largest
eigenvalue, negative eigenvalues included, is rounding, not signal: such directions are not trained at finite or
infinite time, which makes the infinite-time solve the pseudo-inverse. A kernel whose Cholesky factorisation is sound is
solved by it.

**Compilation.** The predictors can be jitted, mapped and differentiated. A factorisation is computed when it is first
needed and kept for as long as the predictor lives. Half-precision kernels are computed with in float32.
"""

from jaxnas.ntk.predict._ensemble import gradient_descent_mse_ensemble as gradient_descent_mse_ensemble
from jaxnas.ntk.predict._gp_inference import Gaussian as Gaussian
from jaxnas.ntk.predict._gp_inference import gp_inference as gp_inference
from jaxnas.ntk.predict._gradient_descent import ODEState as ODEState
from jaxnas.ntk.predict._gradient_descent import gradient_descent as gradient_descent
from jaxnas.ntk.predict._gradient_descent_mse import gradient_descent_mse as gradient_descent_mse
from jaxnas.ntk.predict._learning_rate import max_learning_rate as max_learning_rate

"""The kernel core: finite-width kernels, their spectra, and what trained networks do by them, for any `f(params, x)`.

Those who come from neural_tangents change the import; names, argument order, shapes and normalisation are the same.

  neural_tangents                            here
  empirical_ntk_fn                           the same; chooses its implementation by layer (`explain=True` shows how),
                                             `select=` takes a part of the parameters, `batch_size=` goes in blocks
  empirical_nngp_fn, empirical_kernel_fn     the same
  empirical_ntk_vp_fn                        the same
  NtkImplementation                          the same
  linearize, taylor_expand                   the same
  batch                                      the same, also of diagonal kernels; results do not depend on the block
  monte_carlo_kernel_fn                      the same
  predict.gradient_descent_mse, .gradient_descent, .gradient_descent_mse_ensemble, .gp_inference,
      .max_learning_rate                     the same; directions in which a kernel is singular are not trained
  stax, infinite width                       `neural_tangents_bridge.load().stax`: that package itself

Different by choice: kernels of half precision come back as float32, complex parameters are refused, and mistaken axes
or arguments raise `jaxnas.errors.ConfigError`. `neural_tangents_bridge` is imported on its own.
"""

from jaxnas.ntk import predict as predict
from jaxnas.ntk._alignment import alignment as alignment
from jaxnas.ntk._batch import batch as batch
from jaxnas.ntk._empirical import NtkImplementation as NtkImplementation
from jaxnas.ntk._empirical import empirical_ntk_fn as empirical_ntk_fn
from jaxnas.ntk._frozen import batch_statistics as batch_statistics
from jaxnas.ntk._frozen import frozen_statistics as frozen_statistics
from jaxnas.ntk._gram import gram as gram
from jaxnas.ntk._gram import gram_matrix as gram_matrix
from jaxnas.ntk._gram import per_sample_gradients as per_sample_gradients
from jaxnas.ntk._independence import check_independence as check_independence
from jaxnas.ntk._lanczos import ExtremeEigenvalues as ExtremeEigenvalues
from jaxnas.ntk._lanczos import extreme_eigenvalues as extreme_eigenvalues
from jaxnas.ntk._layout import flatten as flatten
from jaxnas.ntk._linearize import linearize as linearize
from jaxnas.ntk._linearize import taylor_expand as taylor_expand
from jaxnas.ntk._monte_carlo import monte_carlo_kernel_fn as monte_carlo_kernel_fn
from jaxnas.ntk._nngp import empirical_kernel_fn as empirical_kernel_fn
from jaxnas.ntk._nngp import empirical_nngp_fn as empirical_nngp_fn
from jaxnas.ntk._products import empirical_ntk_vp_fn as empirical_ntk_vp_fn
from jaxnas.ntk._products import trace_norm as trace_norm
from jaxnas.ntk._solve import Solution as Solution
from jaxnas.ntk._solve import solve as solve
from jaxnas.ntk._spectrum import ConditionNumber as ConditionNumber
from jaxnas.ntk._spectrum import KernelStatus as KernelStatus
from jaxnas.ntk._spectrum import Spectrum as Spectrum
from jaxnas.ntk._spectrum import condition_number as condition_number
from jaxnas.ntk._spectrum import effective_rank as effective_rank
from jaxnas.ntk._spectrum import spectrum as spectrum

"""The kernel core: empirical NTK, gradient Gram matrices and their spectra, for any `f(params, x)`.

`neural_tangents_bridge` is imported on its own, by those who have that package.
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

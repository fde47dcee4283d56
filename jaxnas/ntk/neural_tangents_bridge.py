"""neural_tangents' own kernels behind our name, for those whose JAX it still imports on.

The only file that imports neural_tangents (extra `neural-tangents`), and only when called. It
relies on JAX internals that current releases lack; `jaxnas.ntk.empirical_ntk_fn` does not.
"""

import importlib
from collections.abc import Callable
from typing import Any


def empirical_ntk_fn(
  f: Callable[..., Any],
  trace_axes: Any = (-1,),
  diagonal_axes: Any = (),
  vmap_axes: Any = None,
  implementation: int = 1,
) -> Callable[..., Any]:
  """`neural_tangents.empirical_ntk_fn`: arguments, shapes and values as `jaxnas.ntk`'s.

  Args:
    f: `f(params, x, **kwargs)`.
    trace_axes: output axes to average the diagonal over.
    diagonal_axes: output axes of which only the diagonal is computed.
    vmap_axes: axes along which f treats its inputs independently.
    implementation: 0 automatic, 1 Jacobian contraction, 2 NTK-vector products, 3 structured
      derivatives.

  Returns:
    `kernel_fn(x1, x2, params, **kwargs)`.

  Raises:
    ImportError: neural_tangents is not installed, or does not import on this JAX.
  """
  try:
    neural_tangents = importlib.import_module("neural_tangents")
  except (ImportError, AttributeError) as error:  # AttributeError: it uses removed parts of JAX
    raise ImportError(
      f"neural_tangents cannot be imported ({error}); install it with `pip install "
      "'jaxnas[neural-tangents]'` beside a JAX that it supports, or use "
      "jaxnas.ntk.empirical_ntk_fn, which needs neither."
    ) from error
  return neural_tangents.empirical_ntk_fn(f, trace_axes, diagonal_axes, vmap_axes, implementation)

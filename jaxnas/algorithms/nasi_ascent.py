"""NASI's loop, for any source of gradients: normalised by the largest so far, penalised above nu, summed up.

Source: Shu et al., "NASI", ICLR 2022, algorithm 1 and equation 18; see `jaxnas.algorithms.nasi`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxnas.errors import ConfigError

NuMode = Literal["adaptive", "fixed", "quantile"]


class Step(NamedTuple):
  """T~ of one Gumbel sample, and dT~/dalpha at alpha_0, without the penalty: [cells, E, O]."""

  trace_norm: float
  gradient: np.ndarray

  def finite(self) -> bool:
    return bool(np.isfinite(self.trace_norm) and np.isfinite(self.gradient).all())


class Ascent(NamedTuple):
  """What `ascend` found.

  Attributes:
    alphas: alpha* - alpha_0, float64 [cells, E, O], of norm xi at most.
    path: the sum of normalised gradients after each step, float64 [T, cells, E, O].
    history: one JSON-able dict a step: T~, nu, whether T~ is above it, norm of G_t, gmax, status.
  """

  alphas: Float[np.ndarray, "cells E O"]
  path: Float[np.ndarray, "T cells E O"]
  history: list[dict[str, Any]]


def slope(trace_norm: float, nu: float, mu: float) -> float:
  """dR/dT~ = 1 - mu * [T~ > nu] (section 3)."""
  return 1 - mu * (trace_norm > nu)


def running_nu(initial: float, earlier: Sequence[float], mode: NuMode) -> float:
  """nu_t: `initial`, or in `adaptive` mode the mean of it and all earlier T~."""
  return float(np.mean([initial, *earlier])) if mode == "adaptive" else initial


def ascend(
  gradient_of_step: Callable[[int], Step], *, steps: int, nu: float, mode: NuMode, mu: float = 2.0, xi: float = 1.0
) -> Ascent:
  """The loop of algorithm 1, for any search space.

  A step whose T~ or gradient is not finite adds nothing, to neither the sum nor nu, and is marked in the history.

  Args:
    gradient_of_step: T~ of the sample of step t = 1..T and its gradient.
    steps, mu, xi: T, mu, xi.
    nu, mode: nu or its initial value; see `running_nu`.

  Raises:
    ConfigError: no step has a gradient, so that an argmax would mean nothing.
  """
  history: list[dict[str, Any]] = []
  path, earlier, gmax = [], [], 0.0
  total: Any = 0.0
  for t in range(1, steps + 1):
    found, now = gradient_of_step(t), running_nu(nu, earlier, mode)
    penalised = np.zeros_like(found.gradient, np.float64)
    if found.finite():
      penalised = slope(found.trace_norm, now, mu) * np.asarray(found.gradient, np.float64)
      earlier.append(found.trace_norm)
    norm = float(np.linalg.norm(penalised))
    gmax = max(gmax, norm)
    total = total + penalised / (gmax or 1.0)
    path.append(total)
    history.append(
      {
        "step": t,
        "trace_norm": found.trace_norm,
        "nu": now,
        "above": bool(found.trace_norm > now),
        "gradient_norm": norm,
        "gmax": gmax,
        "status": "ok" if found.finite() else "non_finite",
      }
    )
  if gmax == 0:
    if not earlier:
      why = f"T~ or its gradient is not finite in all {steps} steps; try another --nasi_init"
    elif mu == 1 and all(h["above"] for h in history if h["status"] == "ok"):
      why = f"--nasi_mu=1 and T~ is above nu in all {steps} steps; raise --nasi_nu or set --nasi_mu=2"
    else:
      why = f"the gradient of T~ is zero in all {steps} steps; check --nasi_batch, --nasi_tau and the images"
    raise ConfigError(f"NASI has no direction to go: {why}")
  return Ascent(xi / steps * path[-1], np.stack(path), history)

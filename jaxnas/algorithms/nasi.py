"""NASI: search by the architecture gradient of the trace norm of the neural tangent kernel, at initialisation.

    T~(w) = || d/dtheta mean loss(theta_0, w) ||^2,    R = T~ - mu * max(0, T~ - nu_t)
    for t = 1..T:
      w_t = relax(alpha_0 = 0, Gumbel noise);   G_t = dR(w_t)/dalpha at alpha_0
      gmax = max(gmax, ||G_t||);                acc += G_t / gmax
    alpha* = alpha_0 + xi / T * acc;            architecture = argmax of alpha* on every edge

Source: Shu et al., "NASI: Label- and Data-agnostic Neural Architecture Search at Initialization", ICLR 2022,
algorithm 1 (equation 18 is the last line). alpha is never updated in the loop, so the first T steps of a longer search
are the search with T steps, and xi, which scales alpha*, cannot change an argmax.

On DARTS no `none` is sampled, and the cells follow from softmax(alpha*) by the rule of that space: per node the two
edges with the strongest operation (a xi far above 1 can change which). In the reduced DARTS space (our reading of the
paper's "reduced search space") these are the edges of the two preceding nodes, and no others are sampled.

NASI-FIX has nu_t = nu. NASI-ADA adapts it; the rule is in an appendix that we could not read. Ours is the running mean
nu_t = (nu_0 + sum_{s<t} T~_s) / t. T~ shrinks like 1 / batch and depends on the initialisation, so a nu fits one
setting only; without one, nu_0 is a quantile of T~ over 32 samples drawn before the search.
"""

import dataclasses
import functools
import logging
import time
from typing import Any, ClassVar, Literal, cast, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnas import registry
from jaxnas.algorithms.nasi_ascent import Ascent, Step, ascend
from jaxnas.algorithms.nasi_samples import Sampling, compiled, draw_batch
from jaxnas.base import Algorithm, Column, Context, Differentiable, NetworkConfig, Outcome, RecordKind, Work, lacking
from jaxnas.errors import ConfigError
from jaxnas.scoring import Engine
from jaxnas.settings import setting

CALIBRATION = 32  # samples of T~ before the search when no nu is given

log = logging.getLogger("jaxnas")


@dataclasses.dataclass(frozen=True)
class NASIConfig:
  """Settings of NASI. T, b, mu: the paper's for DARTS; those for NAS-Bench-201 are not in its main text."""

  nasi_steps: int = setting(100, "steps T of NASI: Gumbel samples whose gradients are averaged (NASI(4T): 400)")
  nasi_batch: int = setting(64, "images in the batch of each step of NASI")
  nasi_mu: float = setting(2.0, "mu, NASI's penalty on T~ above nu: 0 none, 1 no gradient there, 2 its sign flipped")
  nasi_nu_mode: Literal["adaptive", "fixed", "quantile"] = setting(
    "adaptive",
    "nu, the bound on T~: 'fixed' (NASI-FIX), 'adaptive' (NASI-ADA: running mean of T~ that starts from it), or "
    "'quantile' (fixed at --nasi_quantile of T~ over 32 random architectures, whatever --nasi_nu would be)",
  )
  nasi_nu: float = setting(0.0, "nu or its initial value; 0: --nasi_quantile of T~ over 32 random architectures")
  nasi_quantile: float = setting(0.5, "which quantile of the 32 values of T~ is nu where --nasi_nu gives none")
  nasi_relaxation: Literal["straight_through", "soft"] = setting(
    "straight_through", "Gumbel samples: 'straight_through' (one-hot, derivative of the soft ones) or 'soft'"
  )
  nasi_tau: float = setting(1.0, "temperature of the Gumbel samples")
  nasi_labels: Literal["true", "random"] = setting("true", "labels of the batches; random ones are redrawn each step")
  nasi_inputs: Literal["data", "gaussian"] = setting("data", "images, or standard Gaussian noise of their shape")
  nasi_xi: float = setting(1.0, "xi, radius of the single step of alpha; no argmax depends on it")
  nasi_channels: int = setting(16, "channels C of NASI's supernet in its first stage")
  nasi_cells: int | None = setting(
    None, "cells of NASI's supernet (default: as the space's networks have, nb201 5 per stage, darts 8 in all)"
  )
  nasi_batch_norm: Literal["batch", "batch_frozen"] = setting(
    "batch", "batch normalisation in T~: 'batch' differentiates the mini-batch statistics, 'batch_frozen' does not"
  )
  nasi_init: Literal["torch_default", "kaiming_fan_out", "kaiming_fan_in"] = setting(
    "torch_default", "initialisation of NASI's supernet; nu depends on it"
  )
  nasi_reduced: bool = setting(
    False,
    "search the reduced DARTS space: every node takes the two preceding ones, so only operations are chosen",
    later=True,
  )

  def __post_init__(self):
    for field in dataclasses.fields(self):
      allowed, value = get_args(field.type), getattr(self, field.name)
      if get_origin(field.type) is Literal and value not in allowed:
        raise ConfigError(f"--{field.name}={value!r} must be one of {', '.join(allowed)}")
    for name in ("nasi_steps", "nasi_channels", "nasi_cells"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ConfigError(f"--{name}={value} must be at least 1")
    if self.nasi_batch < 2:
      raise ConfigError(f"--nasi_batch={self.nasi_batch} must be at least 2: the mean's gradient is of several images")
    for name in ("nasi_mu", "nasi_nu"):
      if not 0 <= getattr(self, name) < np.inf:
        raise ConfigError(f"--{name}={getattr(self, name)} must be finite and at least 0")
    for name in ("tau", "xi"):
      if not 0 < getattr(self, f"nasi_{name}") < np.inf:
        raise ConfigError(f"--nasi_{name}={getattr(self, f'nasi_{name}')} must be finite and above 0")
    if not 0 <= self.nasi_quantile <= 1:
      raise ConfigError(f"--nasi_quantile={self.nasi_quantile} must lie in [0, 1]")
    if self.nasi_nu_mode == "quantile" and self.nasi_nu:
      raise ConfigError(f"--nasi_nu={self.nasi_nu} has no meaning with --nasi_nu_mode=quantile; drop one of them")
    if self.nasi_inputs == "gaussian" and self.nasi_labels == "true":
      raise ConfigError(
        "--nasi_labels='true' with --nasi_inputs=gaussian: noise has no labels; set --nasi_labels=random"
      )

  @property
  def calibrates(self) -> bool:
    """Whether nu comes from samples drawn before the search."""
    return self.nasi_nu == 0


@dataclasses.dataclass(frozen=True)
class ArchitectureGradient:
  """What a search found.

  Attributes:
    arch: the architecture found; on NAS-Bench-201 `none` is allowed.
    archs: the architecture after each step, [T, L]: row T - 1 of a longer search is the result of one with T steps;
      -1 while every gradient was zero.
    status: "ok", or "disconnected": no path leads from input to output of the cell found.
    alphas: alpha*, float64 [cells, E, O].
    history: see `Ascent`.
    summary: JSON-able: relaxation, nu, gmax, share of steps with T~ > nu, statistics of T~, warnings.
  """

  arch: Int[np.ndarray, " L"]
  archs: Int[np.ndarray, "T L"]
  status: str
  alphas: Float[np.ndarray, "cells E O"]
  history: list[dict[str, Any]]
  summary: dict[str, Any]


RECORD = RecordKind("nasi", {"phase": str, "step": int, "trace_norm": float, "gradient": np.ndarray})


@registry.register("algorithm", "nasi")
class NASI(Algorithm[NASIConfig]):
  """The search; see the head of this file."""

  name: ClassVar[str] = "nasi"
  summary: ClassVar[str] = "the architecture gradient of the NTK's trace norm at initialisation (NASI)"
  Settings: ClassVar[type] = NASIConfig
  requires: ClassVar[tuple[type, ...]] = (Differentiable,)

  def work(self, context: Context[NASIConfig]) -> Work:
    settings, source = context.settings, context.source
    _differentiable(context).choices(settings.nasi_reduced)  # refuses spaces without a reduced form
    if settings.nasi_inputs == "data" and settings.nasi_batch > len(source):
      raise ConfigError(f"--nasi_batch={settings.nasi_batch} is more than the {len(source)} images of {source.name!r}")
    return Work(evaluations(settings), "steps")

  def search(self, context: Context[NASIConfig], seed: int) -> Outcome:
    """Runs one search.

    Of the images, Gaussian inputs take only their shape, and random labels only their number of classes. Records are
    of a step each (calibration included). They hold T~ and dT~/dalpha, so a record serves a search with any T, mu and
    nu.

    Raises:
      ConfigError: as `work`, or no step has a usable gradient.
      DatasetError: an image cannot be read.
    """
    self.work(context)
    space, source, config = _differentiable(context), context.source, context.settings
    engine = context.engine or Engine()
    init_key, calibration_key, search_key = jax.random.split(jax.random.key(seed), 3)
    keys: dict[str, Array] = {"calibration": calibration_key, "search": search_key}
    known = {(r["phase"], r["step"]): r for r in RECORD.of(context.records, seed)}
    size = NetworkConfig(config.nasi_channels, config.nasi_cells, source.classes, config.nasi_init)
    network = space.mixture(size.filled(space.default_config))
    alphas = jnp.zeros((space.cell_types, len(space.edges), len(space.ops)), jnp.float32)
    params = network.init(init_key)
    sampling = Sampling(config.nasi_relaxation, config.nasi_tau, space, config.nasi_reduced)

    def measure(phase: str, t: int) -> Step:
      earlier = (phase, t) in known
      if not earlier:
        noise_key, batch_key = jax.random.split(jax.random.fold_in(keys[phase], t))
        batch = draw_batch(
          source, batch_key, config.nasi_batch, gaussian=config.nasi_inputs == "gaussian",
          random_labels=config.nasi_labels == "random",
        )  # fmt: skip
        args = (params, alphas, noise_key, *batch)
        begin = time.perf_counter()
        program = compiled(sampling, network, config.nasi_batch_norm, args)
        ready = time.perf_counter()
        value, gradient = jax.device_get(program(*args))
        engine.seconds.compile += ready - begin
        engine.seconds.score += time.perf_counter() - ready
        known[phase, t] = RECORD.make(seed, phase=phase, step=t, trace_norm=float(value), gradient=gradient.tolist())
        context.keep(known[phase, t])
      context.advance(1, earlier=earlier)
      record = known[phase, t]
      return Step(record["trace_norm"], np.array(record["gradient"], np.float64))

    nu = config.nasi_nu
    if config.calibrates:
      samples = [measure("calibration", t).trace_norm for t in range(1, CALIBRATION + 1)]
      finite = [s for s in samples if np.isfinite(s)]
      if not finite:
        raise ConfigError(f"--nasi_nu=0: T~ of all {CALIBRATION} samples is not finite; give --nasi_nu or --nasi_init")
      nu = float(np.quantile(finite, config.nasi_quantile))
    found = ascend(
      functools.partial(measure, "search"),
      steps=config.nasi_steps,
      nu=nu,
      mode=config.nasi_nu_mode,
      mu=config.nasi_mu,
      xi=config.nasi_xi,
    )
    return _outcome(space, config, nu, found, seed)


def evaluations(config: NASIConfig) -> int:
  """How many Gumbel samples a search evaluates."""
  return config.nasi_steps + (CALIBRATION if config.calibrates else 0)


def _differentiable(context: Context[NASIConfig]) -> Differentiable:
  if missing := lacking(context.space, Differentiable):
    raise ConfigError(f"NASI differentiates mixtures; --space={context.space.name} has no {', '.join(missing)}")
  return cast(Differentiable, context.space)


def _outcome(space: Differentiable, config: NASIConfig, nu: float, found: Ascent, seed: int) -> Outcome:
  """The architectures of alpha* after every step, and the search for the reader; what to beware of is logged."""
  steps = np.arange(1, config.nasi_steps + 1)
  archs = space.derive(found.path * (config.nasi_xi / steps)[:, None, None, None], config.nasi_reduced)
  archs[(found.path == 0).all((1, 2, 3))] = -1
  status = "ok" if space.is_connected(archs[-1]) else "disconnected"
  summary = {**_summary(config, nu, found.history), "status": status}
  log.info("NASI, seed %d: %s", seed, summary)
  for warning in summary["warnings"]:
    log.warning("NASI, seed %d: %s", seed, warning)
  early = archs[max(1, config.nasi_steps // 4) - 1]
  row = {
    "arch": space.format(archs[-1]),
    "after_steps": config.nasi_steps,
    "nasi_status": status,
    "quarter_arch": space.format(early) if (early >= 0).all() else "",
  }
  return Outcome(
    [row],
    columns=[Column("nasi_status", "status")],
    record=summary,
    found=ArchitectureGradient(archs[-1], archs, status, found.alphas, found.history, summary),
  )


def _summary(config: NASIConfig, nu: float, history: list[dict[str, Any]]) -> dict[str, Any]:
  usable = [h for h in history if h["status"] == "ok"]
  values = np.array([h["trace_norm"] for h in usable])
  share = float(np.mean([h["above"] for h in usable]))
  warnings = []
  if share == 0:
    warnings.append("T~ was never above nu: the constraint was idle; lower --nasi_nu or --nasi_quantile")
  if share == 1 and config.nasi_mu > 0:
    warnings.append("T~ was above nu in every step: its gradient was never used as it is; raise --nasi_nu")
  if len(usable) < len(history):
    warnings.append(f"{len(history) - len(usable)} of {len(history)} steps were not finite and left out")
  return {
    "relaxation": config.nasi_relaxation,
    "nu_mode": config.nasi_nu_mode,
    "nu_initial": nu,
    "nu_last": history[-1]["nu"],
    "gmax": history[-1]["gmax"],
    "share_above_nu": share,
    "trace_norm_min": float(values.min()),
    "trace_norm_median": float(np.median(values)),
    "trace_norm_mean": float(values.mean()),
    "trace_norm_max": float(values.max()),
    "non_finite": len(history) - len(usable),
    "warnings": warnings,
  }

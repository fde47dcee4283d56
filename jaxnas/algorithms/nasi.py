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
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int8, PyTree

from jaxnas import data
from jaxnas.algorithms.indicators import setting
from jaxnas.algorithms.nasi_ascent import Step, ascend
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.nets import relaxation
from jaxnas.scoring import Engine

CHANNELS = 16  # of the supernets, where the settings name none
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
  nasi_channels: int = setting(0, "channels C of NASI's supernet in its first stage; 0: 16")
  nasi_cells: int = setting(0, "cells of NASI's supernet: N per stage on nb201, in all on darts; 0: nb201 5, darts 8")
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
      if allowed and value not in allowed:
        raise ConfigError(f"--{field.name}={value!r} must be one of {', '.join(allowed)}")
    for name, least in (("steps", 1), ("batch", 1), ("channels", 0), ("cells", 0)):
      if getattr(self, f"nasi_{name}") < least:
        raise ConfigError(f"--nasi_{name}={getattr(self, f'nasi_{name}')} must be at least {least}")
    for name, least in (("mu", 0), ("nu", 0)):
      if not least <= getattr(self, f"nasi_{name}") < np.inf:
        raise ConfigError(f"--nasi_{name}={getattr(self, f'nasi_{name}')} must be finite and at least {least}")
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

  def on(self, space: Any) -> "NASIConfig":
    """These settings with the numbers of `space` where they are 0.

    Raises:
      ConfigError: NASI cannot search the space, or `nasi_reduced` and it has no reduced form.
    """
    if not hasattr(space, "mixture"):
      raise ConfigError(
        f"--space={space.name} has no network that mixes operations, which NASI needs; take nb201 or darts"
      )
    if self.nasi_reduced and not space.edge_groups:
      raise ConfigError(f"--nasi_reduced has no meaning with --space={space.name}; drop it or give --space=darts")
    channels, cells = self.nasi_channels or CHANNELS, self.nasi_cells or space.cells
    return dataclasses.replace(self, nasi_channels=channels, nasi_cells=cells)


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search.

  Attributes:
    arch: the architecture found, [L], in the encoding of its space; on NAS-Bench-201 `none` is allowed.
    archs: the architecture after each step, [T, L]: row T - 1 of a longer search is the result of one with T steps;
      -1 while every gradient was zero.
    status: "ok", or "disconnected": no path leads from input to output of the cell found.
    alphas: alpha*, float64 [cells, E, O].
    history: see `Ascent`.
    summary: JSON-able: relaxation, nu, gmax, share of steps with T~ > nu, statistics of T~, warnings.
  """

  arch: Int8[np.ndarray, " L"]
  archs: Int8[np.ndarray, "T L"]
  status: str
  alphas: Float[np.ndarray, "cells E O"]
  history: list[dict[str, Any]]
  summary: dict[str, Any]


def trace_norm(loss: Callable[[PyTree, Array], Array], params: PyTree, weights: Array) -> Float[Array, ""]:
  """T~ = ||d loss / d params||^2 over all parameters; `loss(params, weights)` is the mean loss of a batch.

  Its gradient in `weights` is 2 <v, d(d loss/d params)/d weights>, v = d loss/d params: the reverse pass of a reverse
  pass, for about three times the cost of T~ itself.
  """
  gradient = jax.grad(loss)(params, weights)
  return jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)]).sum()


def logits_of(network: Any, batch_norm: str) -> Callable[[PyTree, Array, Array], Float[Array, "N K"]]:
  """(params, images, weights) -> outputs of a space's mixture, with this batch normalisation.

  In mode `batch_frozen` the statistics are constants with respect to the parameters, but not to the weights: a
  derivative in the weights of a gradient in the parameters is that of the frozen gradient as it is at each weights.

  Raises:
    ConfigError: `batch_frozen` of a network that does not give its statistics.
  """
  if batch_norm == "batch":
    return network.with_batch_norm("batch").logits
  if not hasattr(network, "moments"):
    raise ConfigError(f"--nasi_batch_norm={batch_norm}: this space's network gives no statistics to freeze; take batch")
  running = network.with_batch_norm("running")

  def frozen(params, images, weights):
    stats = network.moments(lax.stop_gradient(params), images, weights)
    return running.logits(params, images, weights, stats=stats)

  return frozen


def choices(space: Any, reduced: bool = False) -> Bool[np.ndarray, "cells E O"]:
  """Which operations are sampled: all, but where edges compete (DARTS) no `none` and, if `reduced`, no far edges."""
  allowed = np.ones((space.cell_types, len(space.edges), len(space.ops)), bool)
  if space.edge_groups:
    allowed[..., space.none_op] = False
  if reduced:
    allowed[:, [source < target - 2 for target, source in space.edges]] = False
  return allowed


def derive(space: Any, alphas: Float[np.ndarray, "*A cells E O"], reduced: bool = False) -> Int8[np.ndarray, "*A L"]:
  """The architectures of alpha*: the argmax of every edge, or the rule of DARTS on the softmax over what is sampled."""
  if not space.edge_groups:
    return space.from_weights(alphas)
  logits = np.where(choices(space, reduced), alphas, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True, initial=np.finfo(np.float64).min))
  return space.from_weights(weights / np.maximum(weights.sum(-1, keepdims=True), 1), reduced=reduced)


def evaluations(config: NASIConfig) -> int:
  """How many Gumbel samples a search evaluates."""
  return config.nasi_steps + (CALIBRATION if config.calibrates else 0)


def search(
  space: Any,
  source: ImageSource,
  config: NASIConfig,
  *,
  seed: int,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[[dict[str, Any]], None] = lambda record: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> Result:
  """Runs one search.

  Args:
    space: where to search: NAS-Bench-201, or any that has `mixture` as it does.
    source: images and labels; with Gaussian inputs only their shape, with random labels only their number of classes.
    config: settings.
    seed: of weights, samples and batches; the same seed gives the same result.
    engine: its seconds count those of the search.
    records: what an interrupted run of the same search passed to `keep`; not computed again.
    keep: called with each step (calibration included), JSON-able. They hold T~ and dT~/dalpha, so a record serves a
      search with any T, mu and nu.
    advance: called with 1 after each step, and with `earlier=True` if it is in `records`.

  Raises:
    ConfigError: a batch larger than the data set, settings that do not fit the space (see `NASIConfig.on`; a batch
      normalisation that its network lacks), or no step has a usable gradient.
    DatasetError: an image cannot be read.
  """
  if config.nasi_inputs == "data" and config.nasi_batch > len(source):
    raise ConfigError(f"--nasi_batch={config.nasi_batch} is more than the {len(source)} images of {source.name!r}")
  engine, config = engine or Engine(), config.on(space)
  init_key, calibration_key, search_key = jax.random.split(jax.random.key(seed), 3)
  keys: dict[str, Array] = {"calibration": calibration_key, "search": search_key}
  known = {(r["phase"], r["step"]): r for r in records if r.get("algorithm") == "nasi" and r.get("seed") == seed}
  network = space.mixture(config.nasi_channels, config.nasi_cells, source.classes, config.nasi_init)
  alphas = jnp.zeros((space.cell_types, len(space.edges), len(space.ops)), jnp.float32)
  params = network.init_params(init_key)
  sampling = _Sampling(config.nasi_relaxation, config.nasi_tau, space, config.nasi_reduced)

  def measure(phase: str, t: int) -> Step:
    earlier = (phase, t) in known
    if not earlier:
      noise_key, batch_key = jax.random.split(jax.random.fold_in(keys[phase], t))
      args = (params, alphas, noise_key, *_batch(source, config, batch_key))
      begin = time.perf_counter()
      program = _program(sampling, network, config.nasi_batch_norm, _shapes(args))
      compiled = time.perf_counter()
      value, gradient = jax.device_get(program(*args))
      engine.seconds.compile += compiled - begin
      engine.seconds.score += time.perf_counter() - compiled
      known[phase, t] = {
        "algorithm": "nasi",
        "seed": seed,
        "phase": phase,
        "step": t,
        "trace_norm": float(value),
        "gradient": gradient.tolist(),
      }
      keep(known[phase, t])
    advance(1, earlier=earlier)
    record = known[phase, t]
    return Step(record["trace_norm"], np.array(record["gradient"], np.float64))

  nu, samples = config.nasi_nu, []
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
  steps = np.arange(1, config.nasi_steps + 1)
  archs = derive(space, found.path * (config.nasi_xi / steps)[:, None, None, None], config.nasi_reduced)
  archs[(found.path == 0).all((1, 2, 3))] = -1
  status = "ok" if space.is_connected(archs[-1]) else "disconnected"
  summary = {**_summary(config, nu, found.history), "status": status}
  log.info("NASI, seed %d: %s", seed, summary)
  for warning in summary["warnings"]:
    log.warning("NASI, seed %d: %s", seed, warning)
  return Result(archs[-1], archs, status, found.alphas, found.history, summary)


class _Sampling(NamedTuple):
  """How weights are drawn; hashable."""

  kind: Literal["straight_through", "soft"]
  tau: float
  space: Any
  reduced: bool

  def relax(self, alphas: Array, noise: Array) -> Array:
    allowed = choices(self.space, self.reduced)
    return relaxation.relax(alphas, noise, self.kind, self.tau, None if allowed.all() else allowed)


def _batch(source: ImageSource, config: NASIConfig, key: Array) -> tuple[np.ndarray, np.ndarray]:
  """Images float32 [b, H, W, 3], not augmented, and labels int32 [b]."""
  image_key, label_key = jax.random.split(key)
  size = config.nasi_batch
  if config.nasi_inputs == "data":
    images, labels = data.plain_batch(source, image_key, size)
  else:
    images, labels = np.asarray(jax.random.normal(image_key, (size, *source.image_shape), jnp.float32)), None
  if config.nasi_labels == "random" or labels is None:
    labels = np.asarray(jax.random.randint(label_key, (size,), 0, source.classes, jnp.int32))
  return images, labels


def _shapes(args: Any) -> tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]:
  leaves, tree = jax.tree.flatten(args)
  return tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


@functools.lru_cache(maxsize=4)
def _program(sampling: _Sampling, network: Any, batch_norm: str, shapes):
  """Compiled (params, alphas, noise key, images, labels) -> (T~, dT~/dalpha); one for all steps and seeds."""

  def step(params, alphas, key, images, labels):
    noise = jax.random.gumbel(key, alphas.shape, alphas.dtype)
    outputs = logits_of(network, batch_norm)

    def loss(params, weights):
      logits = outputs(params, images, weights)
      return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    return jax.value_and_grad(lambda a: trace_norm(loss, params, sampling.relax(a, noise)))(alphas)

  tree, leaves = shapes
  return jax.jit(step).lower(*jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])).compile()


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

"""The NAS-Bench-201 network of one architecture: every edge computes its own operation and no other.

`Network` mixes all operations of an edge, which a supernet needs and a single architecture pays five times for. Here
the operation is data too, so one compilation serves all architectures, but it chooses a branch (`lax.switch`): an
architecture costs what its operations cost. The cells of a stage are one `lax.scan`, so a program has three cells to
compile and not fifteen. The parameters are those of `Network`, the cells of a stage stacked.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import layers, plain_layers, single
from jaxnas.nets.single import Observation
from jaxnas.spaces.nb201 import costs
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import CONVS, Network, NetworkConfig
from jaxnas.spaces.nb201.plain_cell import edge_name, run_cell

NONE, POOL = OPS.index("none"), OPS.index("avg_pool_3x3")
STAGES = ("stage_0", "stage_1", "stage_2")


@dataclasses.dataclass(frozen=True)
class PlainNetwork:
  """Pure functions of parameters, images and one-hot alphas.

  Attributes:
    config: as of `Network`; all operations of every edge exist.
    rows: the kernel gradients will be asked for many cotangents at once (per-sample gradients): they are then products
      with patches, which share the patches; off, they are convolutions, which is faster for a single backward pass.
  """

  config: NetworkConfig
  rows: bool = False
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass

  def __post_init__(self):
    if self.config.first_cell_only or not self.config.stem:
      raise ConfigError("PlainNetwork is the whole network: first_cell_only and stem=False are for supernets (Network)")

  def with_batch_norm(self, mode: str) -> "PlainNetwork":
    """The same network with another `batch_norm` mode; parameters are the same."""
    return dataclasses.replace(self, config=dataclasses.replace(self.config, batch_norm=mode))

  def for_rows(self) -> "PlainNetwork":
    """The same network, its backward pass made for many cotangents."""
    return dataclasses.replace(self, rows=True)

  def init_params(self, key: Array) -> PyTree:
    """The values that `Network.init_params` draws from `key`, stacked."""
    return stack(Network(self.config).init_params(key), self.config.cells)

  def logits(
    self,
    params: PyTree,
    images: Float[Array, "N H W 3"],
    alphas: Float[Array, "1 6 5"],
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
  ) -> Float[Array, "N K"]:
    """The outputs of the architecture whose operations are the largest entries of `alphas` (all 0: `none`).

    Edges that reach no output are not computed.

    Args:
      stats: what `moments` returned; needed in mode `running`.
      gates: factors on the output of every convolution before its BN, [N, Cout] each, see `gates`.
    """
    return self._forward(params, images, useful(operations_of(alphas)), stats, gates)[0]

  def logits_and_moments(
    self, params: PyTree, images: Array, alphas: Array, *, unbiased: bool = False
  ) -> tuple[Array, PyTree]:
    """One pass for `logits` in mode `batch` and for `moments`: what a step of training needs.

    With `unbiased`, variances are of n - 1 and the moments are constants, as running statistics need them.
    """
    collect = "unbiased" if unbiased else "moments"
    return self.with_batch_norm("batch")._forward(params, images, useful(operations_of(alphas)), None, None, collect)[
      :2
    ]

  def moments(self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 6 5"]) -> PyTree:
    """Mean and variance of this batch at every BN of the architecture, for mode `running`."""
    return self.logits_and_moments(params, images, alphas)[1]

  def observe(self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 6 5"]) -> Observation:
    """See `Observation`; also edges that reach no output are computed and counted."""
    logits, found, features = self._forward(params, images, operations_of(alphas), None, None, "observation")
    return Observation(logits, features, *found)

  def gates(self, samples: int) -> PyTree:
    """Ones, [N, Cout] for each convolution outside the cells, [cells, N, Cout] for each edge (it has one at most)."""
    width, cells = self.config.channels, self.config.cells
    ones: dict[str, Any] = {"stem": jnp.ones((samples, width))}
    for stage, name in enumerate(STAGES):
      if stage:
        width *= 2
        parts = ("conv_a", "conv_b", "downsample")
        ones[f"reduce_{stage}"] = {part: jnp.ones((samples, width)) for part in parts}
      ones[name] = {edge_name(e): jnp.ones((cells, samples, width)) for e in EDGES}
    return ones

  def executed(self, alphas: Float[Array, "1 6 5"]) -> PyTree:
    """A tree like the parameters: 1 where they belong to an operation of this architecture, [] or [cells] each."""
    operations = operations_of(alphas)
    tree = jax.eval_shape(self.init_params, jax.random.key(0))

    def mask(path, leaf):
      names = [p.key for p in path]
      if names[0] not in STAGES:
        return jnp.ones(())
      edge = [edge_name(e) for e in EDGES].index(names[1])
      return jnp.full((leaf.shape[0],), operations[edge] == OPS.index(names[2]), jnp.float32)

    return jax.tree_util.tree_map_with_path(mask, tree)

  def by_layer(self, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " L"]:
    """See `single.by_layer`."""
    return single.by_layer(fn, trees, lambda path: path[0] in STAGES)

  def parameter_count(self, alphas: Float[Array, "1 6 5"]) -> Float[Array, ""]:
    """Trainable parameters, as `costs.params` counts them."""
    c = self.config
    return _linear_cost(alphas, lambda arch: costs.params(arch, c.channels, c.cells, c.classes))

  def mac_count(self, alphas: Float[Array, "1 6 5"], image_size: int = 32) -> Float[Array, ""]:
    """Multiply-adds of one image, as `costs.macs` counts them."""
    c = self.config
    return _linear_cost(alphas, lambda arch: costs.macs(arch, image_size, c.channels, c.cells, c.classes))

  def _forward(self, params, images, operations, stats, gates, collect: str = "") -> tuple[Any, Any, Any]:
    """(logits, what was collected, features)."""
    self._check(images)
    ask = functools.partial(_pick, stats=stats, gates=gates)
    seen: dict[str, Any] = {}
    relu = jax.nn.relu
    x, seen["stem"] = self._conv_bn(images, params["stem"], *ask("stem"), collect=collect)
    for stage, name in enumerate(STAGES):
      if stage:
        reduce = f"reduce_{stage}"
        x, seen[reduce] = self._reduction(x, params[reduce], *ask(reduce), collect)
      x, seen[name] = self._stage(x, params[name], *ask(name), operations, collect)
    last, _ = ask("last")
    x, seen["last"] = self._normalise(x, params["last"]["bn"], last, collect)
    features = relu(x)
    head = params["classifier"]
    logits = jnp.matmul(features.mean((1, 2)), head["kernel"], precision=lax.Precision.HIGHEST) + head["bias"][None]
    if collect == "observation":
      seen["agreement"] = (_agreement(x), jnp.zeros((), x.dtype))
      return logits, _total(seen), features
    return logits, seen, features

  def _stage(self, x, params, stats, gates, operations, collect):
    def cell(x, given):
      first = {k: None if v is None else v[edge_name(EDGES[0])] for k, v in given.items()}
      return run_cell(self._branches(x, first, collect), operations, x, given)

    return lax.scan(cell, x, {"params": params, "stats": stats, "gates": gates})

  def _branches(self, x, own, collect):
    """(maps like x, trees like own) -> (maps, what its BN shows; zeros where it has none), for each operation."""
    nothing = jax.eval_shape(lambda: self._conv(x, own, OPS.index("nor_conv_1x1"), collect)[1])

    def without_bn(function):
      return lambda x, own: (function(x), jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), nothing))

    plain = {"none": jnp.zeros_like, "skip_connect": lambda x: x, "avg_pool_3x3": layers.avg_pool}
    return [
      functools.partial(lambda x, own, op: self._conv(x, own, op, collect), op=op)
      if op in CONVS
      else without_bn(plain[name])
      for op, name in enumerate(OPS)
    ]

  def _conv(self, x, own, op, collect):
    found = _agreement(x) if collect == "observation" else None
    params = own["params"][OPS[op]]
    return self._conv_bn(jax.nn.relu(x), params, own["stats"], own["gates"], collect=collect, seen=found)

  def _reduction(self, x, params, stats, gates, collect):
    (stats_a, gate_a), (stats_b, gate_b), (_, gate_c) = (
      _pick(part, stats, gates) for part in ("conv_a", "conv_b", "downsample")
    )
    seen_a, seen_b = (_agreement(x), None) if collect == "observation" else (None, None)
    middle, found_a = self._conv_bn(
      jax.nn.relu(x), params["conv_a"], stats_a, gate_a, stride=2, collect=collect, seen=seen_a
    )
    if collect == "observation":
      seen_b = _agreement(middle)
    y, found_b = self._conv_bn(jax.nn.relu(middle), params["conv_b"], stats_b, gate_b, collect=collect, seen=seen_b)
    shortcut = _gated(self._convolve(layers.avg_pool_2x2(x), params["downsample"]["conv"]["kernel"], 1), gate_c)
    return y + shortcut, {"conv_a": found_a, "conv_b": found_b}

  def _conv_bn(self, x, params, stats, gate, *, stride=1, collect="", seen=None):
    """BN(conv(x)) and what is to be collected; x has had its ReLU."""
    kernel, bn = params["conv"]["kernel"], params["bn"]
    if self.config.batch_norm in ("running", "identity") and gate is None:
      mean, variance = self._statistics(None, bn, stats)
      gain = bn["scale"] * lax.rsqrt(variance + jnp.asarray(layers.BN_EPSILON, variance.dtype))
      y = self._convolve(x, kernel * gain[None, None, None], stride) + (bn["bias"] - gain * mean)[None, None, None]
      return y, ()
    z = _gated(self._convolve(x, kernel, stride), gate)
    return self._normalise(z, bn, stats, collect, seen)

  def _normalise(self, z, bn, stats, collect="", seen=None):
    mean, variance = self._statistics(z, bn, stats)
    if self.config.batch_norm == "batch":
      y = plain_layers.batch_norm(z, bn["scale"], bn["bias"])
    else:
      y = layers.normalise(z, mean, variance) * bn["scale"][None, None, None] + bn["bias"][None, None, None]
    if collect == "unbiased":
      count = z.size // z.shape[-1]
      return y, lax.stop_gradient((mean, variance * (count / max(1, count - 1))))
    return y, self._found((mean, variance), collect, seen)

  def _statistics(self, z, bn, stats):
    mode = self.config.batch_norm
    if mode == "identity":
      return jnp.zeros_like(bn["bias"]), jnp.ones_like(bn["scale"])
    if mode == "running":
      if stats is None:
        raise ConfigError("batch_norm='running' needs stats: give what moments() returned")
      return stats
    mean, variance = layers.batch_moments(z)
    return (mean, variance) if mode == "batch" else (lax.stop_gradient(mean), lax.stop_gradient(variance))

  def _found(self, moments, collect, seen):
    if collect == "moments":
      return moments
    if collect == "observation":
      variance = moments[1].mean()
      deviation = jnp.where(variance > 0, 0.5 * jnp.log(jnp.where(variance > 0, variance, 1)), 0)
      return (jnp.zeros_like(deviation)[None, None] if seen is None else seen), deviation
    return ()

  def _convolve(self, x, kernel, stride):
    return layers.conv(x, kernel, stride) if self.rows else plain_layers.convolve(x, kernel, stride)

  def _check(self, images):
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 4:
      raise DatasetError(f"images of shape {images.shape}: expected (N, H, W, 3) with H and W of at least 4")


def stack(params: PyTree, cells: int) -> PyTree:
  """Parameters of `Network` with the cells of a stage stacked: leaves [cells, ...] under stage_0, stage_1, stage_2."""
  out = {name: params[name] for name in ("stem", "last", "classifier")}
  for stage, name in enumerate(STAGES):
    first = stage * (cells + 1)
    if stage:
      out[f"reduce_{stage}"] = params[f"cells_{first - 1}"]
    own = [params[f"cells_{first + i}"] for i in range(cells)]
    out[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
  return out


def operations_of(alphas):
  """Op column of every edge, int32 [6]."""
  if alphas.shape != (1, len(EDGES), len(OPS)):
    raise ConfigError(f"alphas of shape {alphas.shape}: expected (1, {len(EDGES)}, {len(OPS)})")
  return jnp.where(alphas[0].max(-1) > 0, jnp.argmax(alphas[0], -1), NONE).astype(jnp.int32)


def useful(operations):
  """The same with `none` on edges from whose target no path leads to the output."""
  leads = {3: jnp.asarray(True)}
  for node in (2, 1):
    onward = [leads[t] & (operations[e] != NONE) for e, (t, source) in enumerate(EDGES) if source == node]
    leads[node] = functools.reduce(jnp.logical_or, onward)
  return jnp.stack([jnp.where(leads[t], operations[e], NONE) for e, (t, _) in enumerate(EDGES)])


def _pick(name, stats, gates):
  return (None if stats is None else stats.get(name)), (None if gates is None else gates.get(name))


def _gated(z, gate):
  return z if gate is None else z * gate[:, None, None]


def _agreement(x):
  """[N, N]: in how many units two samples are both positive or both not."""
  code = (x > 0).reshape(len(x), -1).astype(jnp.float32)
  return code @ code.T + (1 - code) @ (1 - code).T


def _total(seen):
  """Sums (agreement, log_deviation) over layers, cells and stages."""
  agreements, deviations = [], []
  for path, leaf in jax.tree_util.tree_leaves_with_path(seen):
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    (deviations if names[-1] == "1" else agreements).append(leaf.sum(0) if names[0] in STAGES else leaf)
  return sum(agreements[1:], agreements[0]), sum(deviations[1:], deviations[0])


def _linear_cost(alphas, count):
  """A cost that is a sum over edges, from its value for the empty cell and for each operation alone."""
  empty = count([NONE] * len(EDGES))
  added = [count([op, *[NONE] * (len(EDGES) - 1)]) - empty for op in range(len(OPS))]
  hot = jax.nn.one_hot(operations_of(alphas), len(OPS))
  return empty + jnp.matmul(hot, jnp.asarray(added, jnp.float32), precision=lax.Precision.HIGHEST).sum()

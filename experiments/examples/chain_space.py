"""A search space of your own in one file: chains of one to three operations, 39 architectures.

    images -> convolution 3x3 -> op 1 -> ... -> op n -> ReLU -> mean over pixels -> classifier,  n = 1, 2 or 3

    python -m jaxnas.main --plugins=experiments/examples/chain_space.py --space=chain --algorithm=score --archs=all \
      --proxies=naswot,mgm,params

The operations are data: one compiled program serves all chains of a length. The length cannot be data here, so it is
the architecture's `shape`: chains of a length share a program and weights. (`jaxnas.base` says what each method is.)
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import figures, registry
from jaxnas.base import Accuracies, Code, Costs, Init, NetworkConfig, Observation, Output, Picture
from jaxnas.errors import ArchitectureError, BenchmarkError
from jaxnas.nets.parameters import bn_shapes, draw, stacked
from jaxnas.nets.passes import Seen, begin, check_images, gated, linear, together, with_gates

OPS = ("identity", "conv_1x1", "conv_3x3")
SIDES = {"conv_1x1": 1, "conv_3x3": 3}  # of the kernels
ALL = np.array(
  [[*ops, *[-1] * (3 - n)] for n in (1, 2, 3) for ops in itertools.product(range(3), repeat=n)], np.int8
)  # -1 beyond the end
DEFAULT = NetworkConfig(8, 3)


@dataclasses.dataclass(frozen=True)
class ChainNetwork:
  """`base.Single` for all chains of `length` operations; the parameters of an operation are stacked over places."""

  channels: int
  length: int
  classes: int
  how: Init
  rows_on_cpu: ClassVar[int] = 8

  def encode(self, codes):
    return np.asarray(codes)[:, : self.length].astype(np.int32)

  @property
  def shapes(self):
    c, bn = self.channels, bn_shapes(self.channels)
    layers = {name: stacked({"kernel": (k, k, c, c), "bn": bn}, self.length) for name, k in SIDES.items()}
    last = {"kernel": (c, self.classes), "bias": (self.classes,)}
    return {"stem": {"kernel": (3, 3, 3, c), "bn": bn}, **layers, "classifier": last}

  def init(self, key):
    return draw(self.shapes, self.how, key)

  def start(self, params, arch):
    return params

  def embed(self, params, inputs):
    return inputs

  def apply(self, params, inputs, arch, mode="batch", *, stats=None, gates=None, collect=(), rows=False):
    check_images(inputs)
    run = begin(mode, collect, stats, able=("stats", "observation"))  # normalises, and collects what is asked for
    params, given = with_gates(params, gates), stats or {}

    def conv_bn(x, layer, moments):
      y = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      return run.normalise(gated(y, layer), layer["bn"], moments)

    def identity(x, layers, moments):
      unused = jnp.zeros(self.channels), jnp.ones(self.channels)
      return x, run.of_nothing(x)._replace(stats=unused if run.keeps_stats else None)

    def convolution(name):
      def act(x, layers, moments):
        y, seen = conv_bn(jax.nn.relu(x), layers[name], moments)
        return y, seen.plus(run.of_relu(x))

      return act

    x, seen = conv_bn(inputs, params["stem"], given.get("stem"))
    parts: dict[str, Seen] = {"stem": seen}
    branches = [identity, *map(convolution, SIDES)]
    for i in range(self.length):
      layers = jax.tree.map(lambda leaf, i=i: leaf[i], {name: params[name] for name in SIDES})
      x, parts[f"op{i}"] = jax.lax.switch(arch[i], branches, x, layers, given.get(f"op{i}"))
    features, shown = jax.nn.relu(x), together(parts).plus(run.of_relu(x))
    return Output(
      linear(features.mean((1, 2)), params["classifier"]),
      stats=shown.stats if run.keeps_stats else None,
      observation=Observation(features, *shown.observed) if run.observes else None,
    )

  def executed(self, arch):
    like = jax.tree.map(lambda _: jnp.ones(()), self.shapes, is_leaf=lambda node: isinstance(node, tuple))
    used = {name: (arch == op).astype(jnp.float32) for op, name in enumerate(OPS) if op}
    return {**like, **{name: jax.tree.map(lambda _, u=u: u, like[name]) for name, u in used.items()}}

  def used_channels(self, arch):
    return None

  def by_layer(self, fn, *trees):
    single = [fn(*(tree[name]["kernel"] for tree in trees))[None] for name in ("stem", "classifier")]
    return jnp.concatenate([*single, *(jax.vmap(fn)(*(tree[name]["kernel"] for tree in trees)) for name in SIDES)])

  def gates(self, samples):
    ones = jnp.ones((self.length, samples, self.channels))
    return {"stem": ones[0], **dict.fromkeys(SIDES, ones)}

  def costs(self, arch, image_size=32):
    c, head = self.channels, self.channels * self.classes
    kernels = jnp.array([0, *(side**2 * c**2 for side in SIDES.values())], jnp.float32)[arch].sum() + 27 * c
    affine = 2.0 * c * (1 + (arch > 0).sum(dtype=jnp.int32).astype(jnp.float32))
    return Costs(kernels + affine + head + self.classes, kernels * image_size**2 + head)


class Chain(nn.Module):
  """The same network of one architecture, as a Flax user would write it; its kernels are slices of the stacked ones."""

  ops: tuple[str, ...]
  channels: int
  classes: int

  @nn.compact
  def __call__(self, x):
    def conv_bn(x, side, name):
      x = nn.Conv(self.channels, (side, side), use_bias=False, name=name)(x)
      return nn.BatchNorm(use_running_average=False, epsilon=1e-5, name=f"{name}_bn")(x)

    x = conv_bn(x, 3, "stem")
    for i, op in enumerate(self.ops):
      if op in SIDES:
        x = conv_bn(nn.relu(x), SIDES[op], f"{op}_{i}")
    return nn.Dense(self.classes, name="classifier")(nn.relu(x).mean((1, 2)))


@registry.register("space", "chain")
@dataclasses.dataclass(frozen=True)
class ChainSpace:
  """The space; `base.Indexed`, since its architectures are numbered."""

  name: str = "chain"
  ops: tuple[str, ...] = OPS
  default_config: NetworkConfig = DEFAULT

  def __len__(self):
    return len(ALL)

  def parse(self, text) -> Code:
    names = text.strip().split("-")
    if not 1 <= len(names) <= 3 or set(names) - set(OPS):
      raise ArchitectureError(f"{text!r}: give one to three of {', '.join(OPS)}, joined by '-'")
    return np.array([*map(OPS.index, names), *[-1] * (3 - len(names))], np.int8)

  def format(self, code):
    return "-".join(OPS[op] for op in code if op >= 0)

  def as_codes(self, codes):
    codes = self.parse(codes) if isinstance(codes, str) else np.asarray(codes)
    known = {tuple(row) for row in ALL.tolist()}
    fits = np.issubdtype(codes.dtype, np.integer) and codes.shape[-1:] == (3,)
    if not fits or not all(tuple(row) in known for row in codes.reshape(-1, 3).tolist()):
      raise ArchitectureError(f"codes of shape {codes.shape}: give [..., 3] of operations 0 to 2, then -1")
    return codes.astype(np.int8)

  def sample(self, key, n, unique=True):
    if unique and n > len(ALL):
      raise ArchitectureError(f"n={n}: there are {len(ALL)} chains; ask for fewer, or for unique=False")
    chosen = jax.random.permutation(key, len(ALL))[:n] if unique else jax.random.randint(key, (n,), 0, len(ALL))
    return ALL[np.asarray(chosen)]

  def neighbours(self, code):
    return ALL[(np.asarray(code) != ALL).sum(1) == 1]  # another operation, one more at the end, or one less

  def mutate(self, key, code):
    around = self.neighbours(code)
    return around[int(jax.random.randint(key, (), 0, len(around)))]

  def is_connected(self, code):
    return True

  def canonical(self, code) -> Hashable:
    return tuple(op for op in np.asarray(code).tolist() if op > 0)

  def shape(self, code) -> Hashable:
    return int((np.asarray(code) >= 0).sum())

  def from_index(self, index):
    if not 0 <= index < len(ALL):
      raise ArchitectureError(f"index {index}: chains are numbered 0 to {len(ALL) - 1}")
    return ALL[index]

  def index_of(self, code):
    return int(np.flatnonzero((np.asarray(code) == ALL).all(1))[0])

  def enumerate_all(self):
    return ALL

  def costs(self, code, config=None, image_size=None):
    size = self.network(dataclasses.replace(config or NetworkConfig(), shape=self.shape(code)))
    found = jax.device_get(size.costs(jnp.asarray(size.encode(code[None])[0]), image_size or 32))
    return Costs(*(int(value) for value in found))  # float32, so rounded above 2^24

  def costs_on(self, code, source):
    return self.costs(code, NetworkConfig(classes=source.classes), source.image_shape[0])

  def network(self, config):
    own = config.filled(self.default_config)
    length = own.cells if own.shape is None else own.shape
    return ChainNetwork(own.channels, length, own.classes, own.init)

  def module(self, code, config):
    own = config.filled(self.default_config)
    return Chain(tuple(OPS[op] for op in code if op >= 0), own.channels, own.classes)

  def published(self, method, dataset) -> Mapping[str, Any]:
    return {}

  def draw(self, code, folder: pathlib.Path):
    figure = figures.new_figure(6.0, 1.2)
    figure.text(0.5, 0.5, f"images → {self.format(code).replace('-', ' → ')} → classes", ha="center", va="center")
    figures.save_png(figure, folder / "chain.png")
    return (Picture("chain.png", f"{self.format(code)}: the chain."),)

  def read_benchmark(self, path, *, trust_pickle=False) -> Accuracies:
    raise BenchmarkError(f"--benchmark={path}: nobody has trained chains; leave it out")

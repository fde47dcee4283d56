"""What networks of each space show of their ReLUs, normalisations and cells, against their Flax modules in float64.

The modules run uncompiled, their layers intercepted. A quick network stands for each space (`static` ones compile in
seconds); the slow tier has those whose architecture is data.
"""

import functools
import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw
from module_checks import random_params

from jaxnas import base, spaces
from jaxnas.proxies.swap import different
from jaxnas.spaces import mapping
from jaxnas.spaces.darts import DARTSNetwork
from jaxnas.spaces.darts import mapping as darts_mapping
from jaxnas.spaces.nb101 import mapping as nb101_mapping
from jaxnas.spaces.nb201 import mapping as nb201_mapping

CONFIGS = {
  "nb201": base.NetworkConfig(4, 2, 3),
  "nb101": base.NetworkConfig(5, 2, 3),
  "darts": base.NetworkConfig(2, 3, 3),
}
MAPPINGS = {"nb201": nb201_mapping, "nb101": nb101_mapping, "darts": darts_mapping}
NB201 = (  # of the first two edges are off the paths
  "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|",
  "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
)
NB101 = ("conv3x3:0|maxpool3x3:01|conv1x1:12|output:023", "output:0", "conv3x3:0|conv1x1:0|conv3x3:0|output:123")
slow = pytest.mark.slow


def darts_code(number):
  """A random architecture."""
  return spaces.get("darts").sample(jax.random.key(3), number + 1)[number]


class Case(NamedTuple):
  space: str
  text: str
  static: bool = False

  @property
  def code(self):
    return spaces.get(self.space).parse(self.text)

  @property
  def network(self):
    whole = spaces.get(self.space).network(CONFIGS[self.space])
    if not self.static:
      return whole
    if self.space == "darts":
      return DARTSNetwork(CONFIGS["darts"], tuple(self.code.tolist()))
    return whole.variants()[int(whole.variant(jnp.asarray(whole.encode(self.code[None])[0])))]


def cases():
  for i, text in enumerate(NB201):
    yield pytest.param(Case("nb201", text), marks=[slow] * (i > 0))
  for i, text in enumerate(NB101):
    yield pytest.param(Case("nb101", text, static=True), marks=[slow] * (i > 0))
    yield pytest.param(Case("nb101", text), marks=slow)
  for number in range(2):
    text = spaces.get("darts").format(darts_code(number))
    yield pytest.param(Case("darts", text, static=True), marks=[slow] * (number > 0))
    yield pytest.param(Case("darts", text), marks=slow)


every = pytest.mark.parametrize(
  "case", list(cases()), ids=lambda case: f"{case.space}-{len(case.text)}{'-static' * case.static}"
)


class Shown(NamedTuple):
  patterns: set  # columns of the signs of all ReLUs
  normal: list  # what batch normalisations return
  cells: list  # outputs of the stem and the cells


def shown_by_module(case, variables, images, shifts=None):
  """What the module's layers show; with shifts cells read constants and their shift."""
  found = Shown(set(), [], [])
  relu = nn.relu

  def watched(x):
    if not isinstance(x, jax.core.Tracer):
      found.patterns.update(map(tuple, (np.asarray(x).reshape(len(x), -1) > 0).T.tolist()))
    return relu(x)

  def intercept(call, args, kwargs, context):
    top = len(context.module.path) == 1 and context.method_name == "__call__"
    name = context.module.path[0] if top else ""
    cell = top and name.startswith(("stem", "stage", "stack", "reduce", "cell"))
    if cell and name.startswith("cell") and shifts is not None:  # of two inputs
      args = (jax.lax.stop_gradient(args[0]), *args[1:])
    y = call(*args, **kwargs)
    if isinstance(context.module, nn.BatchNorm):
      found.normal.append(y)
    if cell:
      shift = None if shifts is None else shifts[len(found.cells)]
      found.cells.append(y)
      y = y if shift is None else jax.lax.stop_gradient(y) + shift
    return y

  module = spaces.get(case.space).module(case.code, CONFIGS[case.space])
  nn.relu = watched
  try:
    with jax.numpy_dtype_promotion("standard"), nn.intercept_methods(intercept):
      module.apply(variables, images, train=True, mutable=["batch_stats"])
  finally:
    nn.relu = relu
  return found


@functools.cache
def both(case, bias=0.0):
  """(module's variables, fast network's parameters, its architecture); `bias` is added to all biases."""
  network, module = case.network, spaces.get(case.space).module(case.code, CONFIGS[case.space])
  arch = jnp.asarray(network.encode(case.code[None])[0])
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf + bias * (path[-1].key == "bias"), network.start(random_params(network), arch)
  )
  with jax.numpy_dtype_promotion("standard"):
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.float32))
  stats = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float64), like["batch_stats"])
  own = mapping.gather(MAPPINGS[case.space].parameters(module), params)
  return {"params": own, "batch_stats": stats}, params, arch


@every
def test_patterns_and_correlations(x64, case):
  variables, params, arch = both(case)
  images, network = draw(1, 5, 8, 8, 3), case.network
  wanted = shown_by_module(case, variables, images)
  run = jax.jit(functools.partial(network.apply, collect=("patterns", "correlation", "observation")))
  output = run(params, images, arch)
  patterns = np.asarray(output.patterns)
  nothing = {(False,) * len(images)}
  assert set(map(tuple, patterns.T.tolist())) - nothing == wanted.patterns - nothing
  assert different(output.patterns) == len(wanted.patterns - nothing)
  least = 0.0
  for y in wanted.normal:
    rows = np.asarray(y).reshape(-1, y.shape[-1]).T
    with np.errstate(invalid="ignore"):
      least += np.linalg.eigvalsh(np.nan_to_num(np.corrcoef(rows).reshape(len(rows), -1))).min()
  np.testing.assert_allclose(output.correlation, least, rtol=1e-8, atol=1e-10)
  assert least > 0.01


@every
def test_cells_and_their_pull_backs(x64, case):
  """One backward pass has the derivatives of all cells, each of its own output in its own input alone.

  With large biases no two pixels of a pool are zeros: of equal ones Flax takes the first, we take all.
  """
  variables, params, arch = both(case, 6.0 if case.space == "nb101" else 0.0)
  images, network = draw(1, 2, 8, 8, 3), case.network
  outputs = shown_by_module(case, variables, images).cells
  cotangents = [draw(10 + i, *y.shape) for i, y in enumerate(outputs)]

  def of_module(shifts):
    found = shown_by_module(case, variables, images, shifts).cells
    return sum((y * c).sum() for y, c in zip(found, cotangents, strict=True))

  wanted = jax.grad(of_module)([jnp.zeros_like(y) for y in outputs])

  def run(params, images, arch):
    def cells(shifts):
      return network.cell_outputs(params, images, arch, shifts=shifts)

    plain = network.cell_outputs(params, images, arch)
    given, split = [], iter(cotangents)
    for group in plain:
      given.append(jnp.stack([next(split) for _ in group]))
    shifted, back = jax.vjp(cells, [jnp.zeros_like(group) for group in plain])
    return plain, shifted, back(tuple(given))[0]

  plain, shifted, gradients = jax.jit(run)(params, images, arch)
  flat = [[row for group in groups for row in group] for groups in (plain, shifted, gradients)]
  for ours, again, gradient, output, expected in zip(*flat, outputs, wanted, strict=True):
    np.testing.assert_allclose(ours, output, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again, output, rtol=1e-9, atol=1e-9)
    scale = max(1, float(np.abs(expected).max()))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-9 * scale)
  assert not np.any(flat[2][-1]) and all(np.any(g) for g in flat[2][:-1])


# Graphs


def by_paths(code):
  """Operations of a NAS-Bench-201 cell on a path from node 0 to 3, found by walking all paths."""
  edges = {(1, 0): 0, (2, 0): 1, (2, 1): 2, (3, 0): 3, (3, 1): 4, (3, 2): 5}
  kept = set()
  for path in ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)):
    own = [edges[target, source] for source, target in itertools.pairwise(path)]
    if all(code[e] for e in own):
      kept |= set(own)
  return [op if e in kept else 0 for e, op in enumerate(code)], bool(kept)


def test_effective_costs_of_nb201_by_all_paths():
  space = spaces.get("nb201")
  network = space.network(base.NetworkConfig(4, 1, 3))
  codes = space.sample(jax.random.key(0), 400)
  found = jax.jit(jax.vmap(lambda arch: network.effective_costs(arch, 8)))(jnp.asarray(network.encode(codes)))
  for code, params, macs in zip(codes.tolist(), *map(np.asarray, found), strict=True):
    kept, connected = by_paths(code)
    whole = space.costs(np.array(kept), base.NetworkConfig(4, 1, 3), 8)
    assert connected == space.is_connected(np.array(code))
    assert (params, macs) == (whole if connected else (0, 0)), code


@pytest.mark.parametrize(
  ("space", "text", "length"),
  [
    ("nb201", "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|", 0),
    ("nb201", "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", 2),
    ("nb201", "|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|skip_connect~1|nor_conv_3x3~2|", 1),
    ("nb201", "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|", 0),
    ("nb101", "output:0", 0),
    ("nb101", "conv3x3:0|output:01", 1),
    ("nb101", "conv3x3:0|conv3x3:01|conv1x1:012|output:03", 1.75),  # 0->2: 1, 0->3: 2, 1->3: 1, 0->4: 3
    ("nb101", "conv3x3:0|conv3x3:0|conv1x1:1|output:03", 2),  # vertex 2 leads nowhere; 0 -> 4 passes 1 and 3 over
  ],
)
def test_skip_length(space, text, length):
  own = spaces.get(space)
  network = own.network(CONFIGS[space])
  found = network.skip_length(jnp.asarray(network.encode(own.parse(text)[None])[0]))
  np.testing.assert_allclose(found, length, rtol=1e-6)


def test_skip_length_of_darts_by_loops():
  space = spaces.get("darts")
  network = space.network(CONFIGS["darts"])
  for code in space.sample(jax.random.key(1), 30):
    slots = code.reshape(2, 4, 2, 2)
    over = [
      node + 2 - 1 - source
      for cell in slots.tolist()
      for node, inputs in enumerate(cell)
      for op, source in inputs
      if space.ops[op] == "skip_connect"
    ]
    wanted = sum(over) / len(over) if over else 0
    arch = jnp.asarray(network.encode(code[None])[0])
    np.testing.assert_allclose(network.skip_length(arch), wanted, rtol=1e-6)
    assert network.effective_costs(arch) == network.costs(arch)


def test_networks_keep_the_contracts():
  for name, config in CONFIGS.items():
    network = spaces.get(name).network(config)
    assert isinstance(network, base.CellNetwork) and isinstance(network, base.GraphNetwork)
  supernet = spaces.get("nb201").supernet(CONFIGS["nb201"])
  assert not isinstance(supernet, base.CellNetwork | base.GraphNetwork)

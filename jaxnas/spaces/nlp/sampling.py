"""NAS-Bench-NLP recipes at random, and those beside a recipe.

The benchmark's recipes were drawn by a generator that is not published. Here nodes, operations and states are drawn
with the shares that they have in the benchmark's trainings on Penn Treebank, and what reaches no state is left out.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int8

from jaxnas.base import host_generator
from jaxnas.errors import ConfigError
from jaxnas.spaces.nlp import encoding, isomorphism
from jaxnas.spaces.nlp.encoding import FIRST, INPUTS, LINEAR, MAX_NODES, PREVIOUS, Node, Recipe, X

_NODES = (3, 16)  # from, to
_OPS = {1: 0.47, 2: 0.04, 3: 0.05, 4: 0.05, 5: 0.13, 6: 0.13, 7: 0.13}  # by column
_STATES = (0.34, 0.47, 0.19)  # of one, two and three
_READS_X = 0.55  # of the linear nodes
_UNARY = tuple(op for op, (least, _) in INPUTS.items() if least == 1)


def sample(key: jax.Array, n: int, unique: bool = True) -> Int8[np.ndarray, "n 99"]:
  """n random architectures whose output depends on the input.

  Args:
    key: typed PRNG key.
    n: how many.
    unique: no two of one cell (`canonical`). In both cases the first m rows of a larger draw with the same key are the
      draw of m.

  Raises:
    ConfigError: n is not an integer >= 0.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  generator, found, seen = host_generator(key), [], set()
  while len(found) < n:
    recipe = _drawn(generator)
    if recipe is None:
      continue
    code = encoding.pack(recipe)
    name = isomorphism.canonical(code) if unique else len(found)
    if name not in seen:
      seen.add(name)
      found.append(code)
  return np.stack(found) if found else np.zeros((0, encoding.LENGTH), np.int8)


def neighbours(code: Any) -> Int8[np.ndarray, "n 99"]:
  """All recipes that are one change away; each change can be taken back by one.

  A node gets another operation of as many inputs, or another source; a `linear` node one source more at its end, or
  loses the last; a new node of one input stands between a source and the node that reads it, right before that one, or
  such a node is taken out; a state is another node's value.

  Raises:
    ArchitectureError: not one architecture.
  """
  recipe = encoding.unpack(code)
  found = {encoding.pack(other).tobytes(): None for other in _changed(recipe)}
  found.pop(encoding.pack(recipe).tobytes(), None)
  return np.stack([np.frombuffer(one, np.int8) for one in found])


def mutate(key: jax.Array, code: Any) -> Int8[np.ndarray, "99"]:
  """A uniformly random one of `neighbours`.

  Raises:
    ArchitectureError: not one architecture.
  """
  candidates = neighbours(code)
  return candidates[int(host_generator(key).integers(len(candidates)))]


def resample(key: jax.Array, code: Any, changes: float = 1.0) -> Int8[np.ndarray, "99"]:
  """As many changes of `neighbours` as a Poisson draw of mean `changes` says; the result may be the parent.

  GenNAS's own mutation is a step in an embedding of the benchmark's recipes, to the nearest of them. Changes after
  which the output no longer depends on the input are drawn again.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: `changes` outside (0, 5].
  """
  if not 0 < changes <= 5:
    raise ConfigError(f"changes={changes} must be above 0 and at most 5")
  generator, child = host_generator(key), encoding.as_code(code)
  for _ in range(int(generator.poisson(changes))):
    candidates = neighbours(child)
    order = generator.permutation(len(candidates))
    child = next((candidates[i] for i in order if encoding.is_connected(candidates[i])), child)
  return child


def _drawn(generator: np.random.Generator) -> Recipe | None:
  """A recipe without nodes that reach no state, or None where the draw is none."""
  count, states = int(generator.integers(_NODES[0], _NODES[1] + 1)), 1 + int(generator.choice(3, p=_STATES))
  nodes = [Node(LINEAR, (X, PREVIOUS))]
  while len(nodes) < count:
    op = int(generator.choice(list(_OPS), p=list(_OPS.values())))
    sources = [PREVIOUS + i for i in range(states)] + [FIRST + k for k in range(len(nodes))]
    least, most = INPUTS[op]
    wanted = int(generator.integers(2, most + 1)) if op == LINEAR else least
    first = [X] if op == LINEAR and generator.random() < _READS_X else []
    if len(sources) + len(first) >= wanted:
      drawn = generator.choice(sources, wanted - len(first), replace=False).tolist()
      nodes.append(Node(op, (*first, *drawn)))
  chosen = generator.choice(count - 1, states - 1, replace=False).tolist()
  recipe = Recipe(tuple(nodes), (count - 1, *chosen))
  live = encoding.alive(recipe)
  if not set(recipe.states) <= live or not any(X in nodes[k].sources for k in live):
    return None
  return _kept(recipe, sorted(live))


def _kept(recipe: Recipe, live: list[int]) -> Recipe:
  """The recipe with these nodes alone."""
  new = {FIRST + k: FIRST + place for place, k in enumerate(live)}
  nodes = [Node(recipe.nodes[k].op, tuple(new.get(s, s) for s in recipe.nodes[k].sources)) for k in live]
  return Recipe(tuple(nodes), tuple(live.index(k) for k in recipe.states))


def _changed(recipe: Recipe) -> Iterator[Recipe]:
  nodes, states = recipe
  for k, node in enumerate(nodes):
    for other in itertools.chain(_other_ops(node), _other_sources(node, k, len(states))):
      yield Recipe((*nodes[:k], other, *nodes[k + 1 :]), states)
    yield from _put_between(recipe, k)
    yield from _taken_out(recipe, k)
  for i, k in itertools.product(range(len(states)), range(len(nodes))):
    if k not in states:
      yield Recipe(nodes, (*states[:i], k, *states[i + 1 :]))


def _other_ops(node: Node) -> Iterator[Node]:
  for op, (least, most) in INPUTS.items():
    if least <= len(node.sources) <= most and (op == LINEAR or X not in node.sources):
      yield node._replace(op=op)


def _other_sources(node: Node, k: int, states: int) -> Iterator[Node]:
  op, sources = node
  able = [*([X] if op == LINEAR else []), *range(PREVIOUS, PREVIOUS + states), *range(FIRST, FIRST + k)]
  others = [source for source in able if source not in sources]
  for place, source in itertools.product(range(len(sources)), others):
    yield Node(op, (*sources[:place], source, *sources[place + 1 :]))
  if op == LINEAR and len(sources) < INPUTS[op][1]:
    yield from (Node(op, (*sources, source)) for source in others)
  if op == LINEAR and len(sources) > INPUTS[op][0]:
    yield Node(op, sources[:-1])


def _put_between(recipe: Recipe, k: int) -> Iterator[Recipe]:
  """A new node right before node k, which reads one of its sources for it."""
  nodes, states = recipe
  if len(nodes) == MAX_NODES:
    return
  later = [node._replace(sources=tuple(s + (s >= FIRST + k) for s in node.sources)) for node in nodes[k + 1 :]]
  moved = tuple(i + (i >= k) for i in states)
  op, sources = nodes[k]
  for place, unary in itertools.product(range(len(sources)), _UNARY):
    if unary == LINEAR or sources[place] != X:
      reader = Node(op, (*sources[:place], FIRST + k, *sources[place + 1 :]))
      yield Recipe((*nodes[:k], Node(unary, (sources[place],)), reader, *later), moved)


def _taken_out(recipe: Recipe, k: int) -> Iterator[Recipe]:
  """Without node k, if it has one input and the node after it alone reads it."""
  nodes, states = recipe
  readers = [j for j, node in enumerate(nodes) if FIRST + k in node.sources]
  if len(nodes[k].sources) != 1 or readers != [k + 1] or k in states:
    return
  (source,), (op, sources) = nodes[k].sources, nodes[k + 1]
  if source in sources or (source == X and op != LINEAR):
    return
  reader = Node(op, tuple(source if s == FIRST + k else s for s in sources))
  later = [node._replace(sources=tuple(s - (s > FIRST + k) for s in node.sources)) for node in nodes[k + 2 :]]
  yield Recipe((*nodes[:k], reader, *later), tuple(i - (i > k) for i in states))

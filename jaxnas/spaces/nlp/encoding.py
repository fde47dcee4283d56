"""NAS-Bench-NLP recipes as arrays: the text form, the benchmark's own dicts, and what is wrong with one.

A recipe is a graph of nodes that one step of a recurrent cell computes from the input x and the states of the step
before, h_prev_0, h_prev_1, ... Some nodes are the new states h_new_0, h_new_1, ..., of which the first is the cell's
output too. Operations, with their numbers of inputs:

    linear (1 to 3)                                            sum of one matrix an input, plus one bias
    blend (3)                                                  a * b + (1 - a) * c
    elementwise_prod (2), elementwise_sum (2)
    activation_tanh (1), activation_sigm (1), activation_leaky_relu (1)

Only `linear` may read x, whose width is another than that of the states. No node reads one source twice.

Everywhere in this package an architecture is an int8 array [99]: for each of 24 nodes the column of its operation in
`OPS` and three sources (0 none, 1 x, 2 to 4 the previous states, 5 + k node k), then the nodes of the three new states
(1 + k, or 0). A node reads earlier nodes only, and absent ones come last.

The text form has one group a node, its operation and what it reads (`x`, the state `h0`, the node `0`), and at last the
nodes of the new states:

    linear:x.h0|tanh:0|states:1

Source: Klyuchnikov et al., "NAS-Bench-NLP: Neural Architecture Search Benchmark for Natural Language Processing", 2020.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int8

from jaxnas.errors import ArchitectureError, quoted
from jaxnas.spaces import arrays

OPS: Final = (
  "absent",
  "linear",
  "blend",
  "elementwise_prod",
  "elementwise_sum",
  "activation_tanh",
  "activation_sigm",
  "activation_leaky_relu",
)
ABSENT, LINEAR, BLEND, PROD, SUM, TANH, SIGM, LEAKY_RELU = range(len(OPS))
INPUTS: Final = {
  LINEAR: (1, 3),
  BLEND: (3, 3),
  PROD: (2, 2),
  SUM: (2, 2),
  TANH: (1, 1),
  SIGM: (1, 1),
  LEAKY_RELU: (1, 1),
}
MAX_NODES: Final = 24
MAX_STATES: Final = 3
_WIDTH: Final = 4  # entries of a node
LENGTH: Final = MAX_NODES * _WIDTH + MAX_STATES
NONE, X, PREVIOUS, FIRST = 0, 1, 2, 2 + MAX_STATES  # sources: nothing, x, the first previous state, node 0

_SHORT: Final = {op: OPS[op].rpartition("activation_")[2].rpartition("elementwise_")[2] for op in INPUTS}
_NAMES: Final = {name: op for op, name in _SHORT.items()}
_FORM: Final = "linear:x.h0|tanh:0|states:1"
_SOURCE: Final = re.compile(r"x|h[0-2]|[0-9]{1,2}", re.ASCII)


class Node(NamedTuple):
  """A node: its column in `OPS`, and its sources."""

  op: int
  sources: tuple[int, ...]


class Recipe(NamedTuple):
  """A recipe in a form to compute with: its nodes in an order of evaluation, and which of them are the new states."""

  nodes: tuple[Node, ...]
  states: tuple[int, ...]


def as_codes(codes: Any) -> Int8[np.ndarray, "*A 99"]:
  """Checks architectures and returns them as int8 [..., 99]; takes a text form (gives [99]) or integers [..., 99].

  Raises:
    ArchitectureError: another dtype or shape, or no recipe; says which and where.
  """
  if isinstance(codes, str):
    return parse(codes)
  array = arrays.integers(codes, LENGTH, _FORM)
  wrong = (array < 0) | (array >= FIRST + MAX_NODES)
  if wrong.any():
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ArchitectureError(f"archs{list(where)} = {array[where]}; entries are 0 to {FIRST + MAX_NODES - 1}")
  array = array.astype(np.int8)
  for index in np.ndindex(array.shape[:-1]):
    where = f"archs{list(index)}" if index else "arch"
    found = _unpacked(array[index], where)
    _check(found, where)
    if not np.array_equal(pack(found), array[index]):
      raise ArchitectureError(f"{where}: entries behind the last node, or the last state, must be 0")
  return array


def as_code(code: Any) -> Int8[np.ndarray, "99"]:
  """Checks one architecture, as text or integers [99].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(code))


def unpack(code: Any) -> Recipe:
  """The recipe of one architecture.

  Raises:
    ArchitectureError: not one architecture.
  """
  return _unpacked(as_code(code), "arch")


def pack(recipe: Recipe) -> Int8[np.ndarray, "99"]:
  """The architecture of a recipe that is known to be one."""
  code = np.zeros(LENGTH, np.int8)
  for k, node in enumerate(recipe.nodes):
    row = (node.op, *node.sources)
    code[_WIDTH * k : _WIDTH * k + len(row)] = row
  code[_WIDTH * MAX_NODES :][: len(recipe.states)] = [1 + k for k in recipe.states]
  return code


def checked(recipe: Recipe, where: str = "recipe") -> Recipe:
  """The recipe, if it is one.

  Raises:
    ArchitectureError: it breaks a rule of the space; `where` begins the message.
  """
  _check(recipe, where)
  return recipe


def parse(text: str) -> Int8[np.ndarray, "99"]:
  """The architecture of a text form, or of a recipe in JSON as the benchmark's logs have it; the inverse of `format`.

  Raises:
    ArchitectureError: malformed, or no recipe; the message shows where.
  """
  stripped = text.strip()
  if stripped.startswith("{"):
    try:
      return from_recipe(json.loads(stripped))
    except (ValueError, RecursionError) as error:
      if isinstance(error, ArchitectureError):
        raise
      raise ArchitectureError(f"architecture {quoted(stripped)}: not JSON ({error}); give {_FORM}") from error
  *groups, last = stripped.split("|")
  if not groups or not last.startswith("states:"):
    raise ArchitectureError(f"architecture {quoted(text)}: give its nodes and at last its states, as in {_FORM}")
  nodes = []
  for k, group in enumerate(groups):
    name, _, sources = group.partition(":")
    if name not in _NAMES:
      _fail(text, group, f"unknown operation {quoted(name, 20)}; use {', '.join(_NAMES)}")
    nodes.append(Node(_NAMES[name], tuple(_source(text, group, one, k) for one in sources.split("."))))
  states = []
  for one in last.removeprefix("states:").split("."):
    if not re.fullmatch(r"[0-9]{1,2}", one, re.ASCII) or int(one) >= len(nodes):
      _fail(text, last, f"after ':' give the node of every new state, 0 to {len(nodes) - 1}, with '.' between them")
    states.append(int(one))
  return pack(checked(Recipe(tuple(nodes), tuple(states)), f"architecture {quoted(text)}"))


def format(code: Any) -> str:
  """The text form of one architecture; the inverse of `parse`.

  Raises:
    ArchitectureError: not one architecture.
  """
  recipe = unpack(code)
  groups = [f"{_SHORT[node.op]}:{'.'.join(map(_text_of, node.sources))}" for node in recipe.nodes]
  return "|".join([*groups, f"states:{'.'.join(map(str, recipe.states))}"])


def from_recipe(document: Any) -> Int8[np.ndarray, "99"]:
  """The architecture of the benchmark's own form.

  Args:
    document: node name -> {"op": ..., "input": [...]}; inputs are `x`, `h_prev_i` or names of nodes, the new states are
      the nodes `h_new_i`. The order need not be one of evaluation: a node moves behind those that it reads.

  Raises:
    ArchitectureError: another form, an unknown operation or input, a circle, or a recipe that breaks a rule of the
      space; the message names the node.
  """
  if not isinstance(document, Mapping) or not document:
    raise ArchitectureError("recipe: give an object of nodes, name -> {op, input}")
  for name, node in document.items():
    if not isinstance(node, Mapping) or not {"op", "input"} <= node.keys() or not isinstance(node["input"], list):
      raise ArchitectureError(f"recipe, node {quoted(str(name))}: give an object with op and input, a list of names")
    if node["op"] not in OPS[1:]:
      raise ArchitectureError(
        f"recipe, node {quoted(str(name))}: unknown op {quoted(str(node['op']))}; use {', '.join(OPS[1:])}"
      )
  names = [name for name in document if re.fullmatch(r"h_new_[0-9]{1,2}", str(name), re.ASCII)]
  states = range(len(names))
  if sorted(names) != [f"h_new_{i}" for i in states] or not 1 <= len(states) <= MAX_STATES:
    raise ArchitectureError(
      f"recipe: the new states are {names or 'none'}; give h_new_0 to at most h_new_2 without gap"
    )
  known = {"x": X, **{f"h_prev_{i}": PREVIOUS + i for i in states}}
  for name, node in document.items():
    if name in known:
      raise ArchitectureError(f"recipe: a node is called {name}, as is an input; give it another name")
    for one in node["input"]:
      if not isinstance(one, str) or (one not in known and one not in document):
        raise ArchitectureError(
          f"recipe, node {quoted(str(name))}: unknown input {quoted(str(one))}; it has {', '.join(known)} and its nodes"
        )
  order = _ordered({name: node["input"] for name, node in document.items()}, known)
  known |= {name: FIRST + k for k, name in enumerate(order)}
  nodes = tuple(
    Node(OPS.index(document[name]["op"]), tuple(known[i] for i in document[name]["input"])) for name in order
  )
  return pack(checked(Recipe(nodes, tuple(known[f"h_new_{i}"] - FIRST for i in states))))


def to_recipe(code: Any) -> dict[str, dict[str, Any]]:
  """The benchmark's own form of one architecture; nodes that are no states are called `node_k`.

  Raises:
    ArchitectureError: not one architecture.
  """
  recipe = unpack(code)
  names = [f"node_{k}" for k in range(len(recipe.nodes))]
  for i, k in enumerate(recipe.states):
    names[k] = f"h_new_{i}"
  sources = ["", "x", *(f"h_prev_{i}" for i in range(MAX_STATES)), *names]
  return {
    name: {"op": OPS[node.op], "input": [sources[s] for s in node.sources]}
    for name, node in zip(names, recipe.nodes, strict=True)
  }


def alive(recipe: Recipe) -> set[int]:
  """The nodes that the output depends on, through states of earlier steps too."""
  found, wanted = set(), [recipe.states[0]]
  while wanted:
    k = wanted.pop()
    if k not in found:
      found.add(k)
      wanted += [node_of(recipe, source) for source in recipe.nodes[k].sources if source >= PREVIOUS]
  return found


def node_of(recipe: Recipe, source: int) -> int:
  """The node that a source is, that of the step before for a previous state."""
  return source - FIRST if source >= FIRST else recipe.states[source - PREVIOUS]


def is_connected(code: Any) -> bool:
  """Whether the output depends on the input.

  Raises:
    ArchitectureError: not one architecture.
  """
  recipe = unpack(code)
  return any(X in recipe.nodes[k].sources for k in alive(recipe))


def _unpacked(code: np.ndarray, where: str) -> Recipe:
  numbers = code.tolist()
  rows = [numbers[_WIDTH * k : _WIDTH * (k + 1)] for k in range(MAX_NODES)]
  count = next((k for k, row in enumerate(rows) if row[0] == ABSENT), MAX_NODES)
  for k, (op, *_) in enumerate(rows):
    if op >= len(OPS) or (op != ABSENT) != (k < count):
      raise ArchitectureError(f"{where}: node {k} has the op {op}; use 1 to {len(OPS) - 1}, and 0 behind the last node")
  nodes = tuple(Node(op, tuple(s for s in sources if s != NONE)) for op, *sources in rows[:count])
  return Recipe(nodes, tuple(k - 1 for k in numbers[_WIDTH * MAX_NODES :] if k))


def _check(recipe: Recipe, where: str) -> None:
  nodes, states = recipe
  if not 1 <= len(nodes) <= MAX_NODES:
    raise ArchitectureError(f"{where}: {len(nodes)} nodes; a recipe has 1 to {MAX_NODES}")
  if not 1 <= len(states) <= MAX_STATES or len(set(states)) < len(states) or max(states) >= len(nodes):
    raise ArchitectureError(
      f"{where}: the new states are nodes {list(states)}; give 1 to {MAX_STATES} different ones, 0 to {len(nodes) - 1}"
    )
  for k, (op, sources) in enumerate(nodes):
    here, (least, most) = f"{where}: node {k} ({OPS[op]})", INPUTS[op]
    if not least <= len(sources) <= most:
      wanted = str(least) if least == most else f"{least} to {most}"
      raise ArchitectureError(f"{here} has {len(sources)} inputs; give {wanted}")
    if len(set(sources)) < len(sources):
      raise ArchitectureError(f"{here} reads an input twice; give different ones")
    for source in sources:
      if source >= FIRST + k:
        raise ArchitectureError(f"{here} reads node {source - FIRST}; a node reads those before it")
      if PREVIOUS + len(states) <= source < FIRST:
        raise ArchitectureError(f"{here} reads state h{source - PREVIOUS}, of which no node is the new value")
      if source == X and op != LINEAR:
        raise ArchitectureError(f"{here} reads x, which has another width than the states; only linear may")


def _ordered(inputs: Mapping[str, Sequence[str]], known: Iterable[str]) -> list[str]:
  """Names so that each stands behind those that it reads, else in their order."""
  done, order, left = set(known), [], list(inputs)
  while left:
    ready = next((name for name in left if done.issuperset(inputs[name])), None)
    if ready is None:
      raise ArchitectureError(
        f"recipe: {_circle(inputs, left)} read one another in a circle; a step must have an order"
      )
    left.remove(ready)
    order.append(ready)
    done.add(ready)
  return order


def _circle(inputs: Mapping[str, Sequence[str]], left: Sequence[str]) -> str:
  path = [left[0]]
  while path[-1] not in path[:-1]:
    path.append(next(name for name in inputs[path[-1]] if name in left))
  return ", ".join(path[path.index(path[-1]) : -1])


def _source(text: str, group: str, one: str, k: int) -> int:
  if not _SOURCE.fullmatch(one) or (one[0].isdigit() and int(one) >= k):
    earlier = f" or a node before it, 0 to {k - 1}," if k else ""
    _fail(text, group, f"reads {quoted(one, 20)}; after ':' give x, h0 to h2{earlier} with '.' between them")
  if one == "x":
    return X
  return PREVIOUS + int(one[1]) if one[0] == "h" else FIRST + int(one)


def _text_of(source: int) -> str:
  if source == X:
    return "x"
  return f"h{source - PREVIOUS}" if source < FIRST else str(source - FIRST)


def _fail(text: str, group: str, problem: str) -> NoReturn:
  raise ArchitectureError(f"architecture {quoted(text)}, {quoted(group)}: {problem}")

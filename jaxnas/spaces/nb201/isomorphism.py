"""Isomorphic NAS-Bench-201 cells: one canonical text for each of the 6,466 classes.

The rule is the benchmark's own; it is the one that gives the published 6,466 classes. Reading the
cell node by node, from "0" for the input:

  - `skip_connect` is the identity: the edge contributes its source's text as it stands;
  - `none` contributes the zero "#", and so does any op on a source whose text is exactly "#";
  - any other op contributes `(source)@op`;
  - a node is its edges' texts, sorted and joined by "+": a sum has no order.

Two details decide the count. Zeros stay in the sums, so the text of a node remembers how many of
its edges are dead, and "#+#" is not recognised as zero again. A skipped sum enters the next sum as
one text: it is not merged and sorted with its new neighbours. Equal texts mean equal functions, but
not the reverse: if zeros vanished and sums were flat, 4,930 classes would be left. (Without the
rule for `none` there are 12,751.)

Source: Dong & Yang, "NAS-Bench-201", ICLR 2020; the text equals `get_unique_str` of `nats_bench`.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxnas.spaces.nb201 import encoding

NUM_UNIQUE = 6466

_ZERO = "#"


def canonical(code: Any) -> str:
  """The text shared by all cells isomorphic to this one ([6] or text form).

  Raises:
    ArchitectureError: not one architecture.
  """
  return _canonical(encoding.as_code(code).tolist())


def _canonical(ops: list[int]) -> str:
  nodes = ["0"]
  edge = 0
  for target in range(1, encoding.NUM_NODES):
    terms = []
    for source in range(target):
      terms.append(_term(encoding.OPS[ops[edge]], nodes[source]))
      edge += 1
    nodes.append("+".join(sorted(terms)))
  return nodes[-1]


def _term(op: str, source: str) -> str:
  if op == "none" or source == _ZERO:
    return _ZERO
  return source if op == "skip_connect" else f"({source})@{op}"


@functools.lru_cache(maxsize=1)
def canonical_index() -> Int32[np.ndarray, "15625"]:
  """For every benchmark index the lowest index of its class; read-only int32 [15625].

  Two architectures are isomorphic exactly where this agrees:
  `canonical_index()[indices_of(archs)]` labels a batch with its classes.
  """
  first: dict[str, int] = {}
  cells = encoding.enumerate_all().tolist()
  labels = [first.setdefault(_canonical(ops), index) for index, ops in enumerate(cells)]
  result = np.array(labels, np.int32)
  result.flags.writeable = False
  return result

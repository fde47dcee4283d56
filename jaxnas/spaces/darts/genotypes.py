"""Published cells of the DARTS space, by name.

Where they come from (all copied by their figures, none found by us):
  - DARTS_V1, DARTS_V2: first and second order, Liu et al., "DARTS", ICLR 2019, as in the released code.
  - PDARTS: Chen et al., "Progressive Differentiable Architecture Search", ICCV 2019, as in the released code.
  - PC_DARTS_CIFAR, PC_DARTS_IMAGENET: Xu et al., "PC-DARTS", ICLR 2020, as in the released code.
  - TENAS_CIFAR10, TENAS_IMAGENET: Chen et al., "TE-NAS", ICLR 2021, from the authors' separate evaluation code. Their
    parameter counts do not match the paper's table as one would expect: see `costs`.
NASI's cells are published only as drawings and are not here.
"""

from typing import Final

import numpy as np
from jaxtyping import Int8

from jaxnas import registry
from jaxnas.errors import ArchitectureError
from jaxnas.spaces.darts import encoding

_OPS: Final = {
  "max": "max_pool_3x3",
  "avg": "avg_pool_3x3",
  "skip": "skip_connect",
  "sep3": "sep_conv_3x3",
  "sep5": "sep_conv_5x5",
  "dil3": "dil_conv_3x3",
  "dil5": "dil_conv_5x5",
}

# Normal cell, then reduction cell; one group a node, each input as op:source.
_CELLS: Final = {
  "DARTS_V1": (
    "sep3:0 sep3:1 | skip:0 sep3:1 | skip:0 sep3:1 | sep3:0 skip:2",
    "max:0 max:1 | max:0 skip:2 | max:0 skip:2 | avg:0 skip:2",
  ),
  "DARTS_V2": (
    "sep3:0 sep3:1 | sep3:0 sep3:1 | skip:0 sep3:1 | skip:0 dil3:2",
    "max:0 max:1 | max:1 skip:2 | max:0 skip:2 | max:1 skip:2",
  ),
  "PDARTS": (
    "skip:0 dil3:1 | skip:0 sep3:1 | sep3:1 sep3:3 | sep3:0 dil5:4",
    "avg:0 sep5:1 | sep3:0 dil5:2 | max:0 dil3:1 | dil3:1 dil5:3",
  ),
  "PC_DARTS_CIFAR": (
    "skip:0 sep3:1 | sep3:0 dil3:1 | sep5:0 sep3:1 | avg:0 dil3:1",
    "max:0 sep5:1 | sep5:1 sep5:2 | sep3:0 sep3:3 | sep3:1 sep3:2",
  ),
  "PC_DARTS_IMAGENET": (
    "sep3:0 skip:1 | sep3:0 skip:1 | sep3:1 sep3:3 | sep3:1 dil5:4",
    "sep3:0 skip:1 | max:1 dil5:2 | sep3:1 sep3:2 | sep5:0 sep3:3",
  ),
  "TENAS_CIFAR10": (
    "dil3:0 sep5:1 | sep3:0 sep3:2 | skip:0 dil5:1 | sep3:1 sep5:3",
    "sep5:0 sep5:1 | sep5:1 sep5:2 | sep3:1 sep3:3 | sep5:2 sep3:4",
  ),
  "TENAS_IMAGENET": (
    "sep3:0 skip:1 | dil5:1 sep3:2 | sep3:0 dil5:3 | sep3:0 dil3:4",
    "dil3:0 sep5:1 | dil3:0 sep3:2 | sep3:0 dil3:1 | sep3:0 sep5:4",
  ),
}

NAMES: Final = tuple(_CELLS)


def get(name: str) -> Int8[np.ndarray, "32"]:
  """The architecture published under this name (one of `NAMES`; case does not matter).

  Raises:
    ArchitectureError: an unknown name.
  """
  if not isinstance(name, str) or name.upper() not in _CELLS:
    shown = repr(name)[:80]
    raise ArchitectureError(f"{registry.unknown(f'genotype {shown}', str(name), NAMES)}, or give the text form")
  return encoding.from_cells(*(_pairs(cell) for cell in _CELLS[name.upper()]))


def _pairs(cell: str) -> list[tuple[str, int]]:
  terms = [term.split(":") for term in cell.replace("|", " ").split()]
  return [(_OPS[op], int(source)) for op, source in terms]


def lookup(text: str) -> Int8[np.ndarray, "32"]:
  """The architecture of a published name or of a genotype in text form: what a user may type.

  Raises:
    ArchitectureError: neither; the message lists the names or says what is wrong with the text.
  """
  return encoding.parse(text) if isinstance(text, str) and "(" in text else get(text)

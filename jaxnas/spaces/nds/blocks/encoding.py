"""Networks of stages as integers and as text.

A code is an int16 array: the channels of the stem, then of the S stages the numbers of blocks, then the channels, and,
of bottlenecks, four times `bot_mul` and the groups: [1 + 2 S] or [1 + 4 S].

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, section 3 and appendix.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Int16

from jaxnas.errors import ArchitectureError
from jaxnas.spaces import arrays
from jaxnas.spaces.nds import text
from jaxnas.spaces.nds.tables import BOTTLENECK, BlockTable

FIELDS: Final = ("block_type", "ds", "ws", "ss", "bot_muls", "num_gs")
FORM: Final = "Network(block_type='...', ds=[1, ...], ws=[...], ss=[...], bot_muls=[1.0, ...], num_gs=[1, ...])"
MOST: Final = {"depth": 100, "width": 8192, "four times bot_mul": 16, "groups": 1024}
QUARTERS: Final = 4  # bot_mul is counted in


def columns(table: BlockTable) -> tuple[str, ...]:
  """What each integer of a code is."""
  names = list(MOST) if table.block == BOTTLENECK else list(MOST)[:2]
  return ("width", *(name for name in names for _ in range(table.stages)))


def as_codes(table: BlockTable, codes: Any) -> Int16[np.ndarray, "*A L"]:
  """Checks architectures and returns them as int16 [..., L].

  Takes a text form (gives [L]) or anything integer of shape [..., L].

  Raises:
    ArchitectureError: another dtype or shape, a number out of range, or inner channels that are no integer or that the
      groups do not divide; says which.
  """
  if isinstance(codes, str):
    return parse(table, codes)
  names, stages = columns(table), table.stages
  array = arrays.integers(codes, len(names), FORM)
  for i, name in enumerate(names):
    stage = 0 if i == 0 else (i - 1) % stages + 1
    _refuse(
      array[..., i], (array[..., i] < 1) | (array[..., i] > MOST[name]), stage, f"is no {name}; use 1..{MOST[name]}"
    )
  _refuse(array[..., 0], array[..., 0] % 2 > 0, 0, "channels are odd; the stem needs an even number")
  if table.block == BOTTLENECK:
    for stage in range(1, stages + 1):
      width, quarters, groups = (array[..., stage + k * stages].astype(np.int64) for k in (1, 2, 3))
      inner = width * quarters / QUARTERS
      _refuse(inner, inner % 1 > 0, stage, "inner channels (width x bot_mul) are no integer")
      _refuse(inner, inner % groups > 0, stage, "inner channels (width x bot_mul) are not divided by the groups")
  return array.astype(np.int16)


def _refuse(values: Any, wrong: Any, stage: int, problem: str) -> None:
  """Raises for the first of the values [...] that is wrong."""
  values, wrong = np.asarray(values), np.asarray(wrong)
  if wrong.any():
    batch = np.argwhere(wrong)[0].tolist()
    place = f"archs{batch}" if batch else "arch"
    where = f"stage {stage}" if stage else "stem"
    raise ArchitectureError(f"{place}, {where}: {values[tuple(batch)]} {problem}")


def as_code(table: BlockTable, code: Any) -> Int16[np.ndarray, " L"]:
  """Checks one architecture, as text or integers [L].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(table, code))


def to_net(table: BlockTable, code: Any) -> dict[str, Any]:
  """The field `net` of the published tables.

  Raises:
    ArchitectureError: not one architecture.
  """
  width, *rest = as_code(table, code).tolist()
  parts = [rest[i : i + table.stages] for i in range(0, len(rest), table.stages)]
  bottleneck = table.block == BOTTLENECK
  return {
    "block_type": table.block,
    "ds": [1, *parts[0]],
    "ws": [width, *parts[1]],
    "ss": list(table.strides),
    "bot_muls": [1.0, *(quarters / QUARTERS for quarters in parts[2])] if bottleneck else [],
    "num_gs": [1, *parts[3]] if bottleneck else [],
  }


def from_net(table: BlockTable, net: Any) -> Int16[np.ndarray, " L"]:
  """The architecture of the field `net` of a published table.

  Raises:
    ArchitectureError: another form, blocks or strides of another space, or as `as_codes`; says where.
  """
  block, depths, widths, strides, bot_muls, groups = text.fields(net, FIELDS)
  if block != table.block:
    raise ArchitectureError(f"block_type is {repr(block)[:80]}; blocks of {table.name} are {table.block}")
  if text.sequence(strides, "ss") != list(table.strides):
    raise ArchitectureError(f"ss is {repr(strides)[:80]}; strides of {table.name} are {list(table.strides)}")
  entries = table.stages + 1
  bottleneck = table.block == BOTTLENECK
  parts = [_integers(depths, "ds", entries, MOST["depth"]), _integers(widths, "ws", entries, MOST["width"])]
  if parts[0][0] != 1:
    raise ArchitectureError(f"ds[0] is {parts[0][0]}; entry 0 is the stem, and has 1")
  for name, values in (("bot_muls", bot_muls), ("num_gs", groups)):
    text.sequence(values, name, entries if bottleneck else 0)
  if bottleneck:
    parts.append([_quarters(value, f"bot_muls[{i}]") for i, value in enumerate(bot_muls)])
    parts.append(_integers(groups, "num_gs", entries, MOST["groups"]))
    if (parts[2][0], parts[3][0]) != (QUARTERS, 1):
      raise ArchitectureError(f"bot_muls[0], num_gs[0] are {bot_muls[0]}, {groups[0]}; entry 0 is the stem: 1.0, 1")
  return as_code(table, np.array([parts[1][0], *(value for part in parts for value in part[1:])]))


def _integers(values: Any, name: str, length: int, most: int) -> list[int]:
  return [text.integer(v, f"{name}[{i}]", 1, most) for i, v in enumerate(text.sequence(values, name, length))]


def _quarters(value: Any, where: str) -> int:
  number = None if isinstance(value, bool) or not isinstance(value, int | float) else value * QUARTERS
  if number is None or not 1 <= number <= MOST["four times bot_mul"] or number % 1:
    raise ArchitectureError(f"{where} is {repr(value)[:80]}; use a multiple of 0.25, at most 4")
  return int(number)


def parse(table: BlockTable, arch: str) -> Int16[np.ndarray, " L"]:
  """The architecture of a text form, see `format`, or of a published table's `net` in JSON.

  Raises:
    ArchitectureError: as `text.read` and `from_net`.
  """
  return from_net(table, text.read(arch, "Network", FORM))


def format(table: BlockTable, code: Any) -> str:
  """The text form of one architecture.

  Raises:
    ArchitectureError: not one architecture.
  """
  return f"Network({', '.join(f'{name}={value!r}' for name, value in to_net(table, code).items())})"

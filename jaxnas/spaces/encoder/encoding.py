"""Variants of a pre-trained encoder as arrays and text: sampling, neighbours, canonical forms.

The paper (Xu et al., "KNAS", ICML 2021) varies the connections of the layers of RoBERTa-large and says no more of its
space that could be had. This one is ours, made of what can be done to pre-trained layers without new weights:

- each layer is kept, left out (`drop`), or takes the weights of the last kept one before it (`share`, as in ALBERT: Lan
  et al., ICLR 2020);
- its feed-forward part reads what attention gives, one after the other (`seq`), or what attention reads, both in
  parallel (`par`, as in GPT-J), and their sums and normalisations stay as they are;
- the state that is added to what attention gives is the one that the layer reads (1), or the one before that (2).

With these a search has neighbours of the pre-trained network, near enough for its weights to mean something, and
cheaper ones. An architecture is an int8 array [L] of a column of `OPS` for each of the encoder's L layers. The text
form has a group a layer, and `unchanged` stands for the encoder as it was published:

    keep:seq:1|share:par:2|drop|keep:seq:1|keep:seq:1|keep:par:1

The first layer that is there is a kept one, and there is one at least: (9^L - 1) / 2 variants, of 6 layers 265,720.
"""

from collections.abc import Hashable
from typing import Any, Final

import jax
import numpy as np
from jaxtyping import Int8, Int32

from jaxnas.base import host_generator
from jaxnas.errors import ArchitectureError, ConfigError, quoted
from jaxnas.spaces import arrays

_ORDERS: Final = ("seq", "par")
_RESIDUALS: Final = ("1", "2")
OPS: Final = ("drop", *(f"{kind}:{o}:{r}" for kind in ("keep", "share") for o in _ORDERS for r in _RESIDUALS))
DROP: Final = 0
UNCHANGED: Final = OPS.index("keep:seq:1")
SHARED: Final = OPS.index("share:seq:1")  # and all behind it
WHOLE: Final = "unchanged"
KEPT: Final = 2 / 3  # chance of a layer to stay as it is in a random variant


def number(layers: int) -> int:
  """How many variants there are of an encoder of so many layers."""
  return (len(OPS) ** layers - 1) // 2


def unchanged(layers: int) -> Int8[np.ndarray, " L"]:
  """The encoder as it was published."""
  return np.full(layers, UNCHANGED, np.int8)


def as_codes(codes: Any, layers: int) -> Int8[np.ndarray, "*A L"]:
  """Checks architectures and returns them as int8 [..., L]; takes a text form (gives [L]) or integers [..., L].

  Raises:
    ArchitectureError: another dtype or shape, or no variant; says which entry.
  """
  if isinstance(codes, str):
    return parse(codes, layers)
  array = arrays.integers(codes, layers, "|".join(OPS[column] for column in unchanged(layers)))
  wrong = (array < 0) | (array >= len(OPS))
  if wrong.any():
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ArchitectureError(f"archs{list(where)} = {array[where]}; entries are columns of {', '.join(OPS)}")
  if (headless := ~np.apply_along_axis(_is_variant, -1, array)).any():
    example = array[tuple(np.argwhere(headless)[0])] if array.ndim > 1 else array
    raise ArchitectureError(f"archs has {_text(example)}: {_HEADLESS}")
  return array.astype(np.int8)


def as_code(code: Any, layers: int) -> Int8[np.ndarray, " L"]:
  """Checks one architecture, as text or integers [L].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(code, layers))


def parse(text: str, layers: int) -> Int8[np.ndarray, " L"]:
  """Reads the text form; outer white space is ignored.

  Raises:
    ArchitectureError: not of that form; the message quotes the group.
  """
  if not isinstance(text, str):
    raise ArchitectureError(f"architecture text is {text!r}; use a string such as {WHOLE}, or {_FORM}")
  if text.strip() == WHOLE:
    return unchanged(layers)
  groups = text.strip().split("|")
  if len(groups) != layers:
    raise ArchitectureError(
      f"architecture {quoted(text)} has {len(groups)} layers, and the encoder {layers}; give a group for each, as in "
      f"{_FORM}, or {WHOLE}"
    )
  for i, group in enumerate(groups):
    if group not in OPS:
      raise ArchitectureError(
        f"architecture {quoted(text)}, layer {i}, {quoted(group)}: unknown; a layer is one of {', '.join(OPS)}"
      )
  code = np.array([OPS.index(group) for group in groups], np.int8)
  if not _is_variant(code):
    raise ArchitectureError(f"architecture {quoted(text)}: {_HEADLESS}")
  return code


def format(code: Any, layers: int) -> str:
  """The text form of one architecture; the inverse of `parse`.

  Raises:
    ArchitectureError: not one architecture.
  """
  return _text(as_code(code, layers))


def rows_of(code: Any, layers: int) -> Int32[np.ndarray, "n 3"]:
  """The n layers that a variant executes: whose weights, whether in parallel, whether the residual is the earlier one.

  Raises:
    ArchitectureError: not one architecture.
  """
  rows, source = [], -1
  for place, column in enumerate(as_code(code, layers).tolist()):
    if column == DROP:
      continue
    source = source if column >= SHARED else place
    order, residual = divmod((column - 1) % (len(_ORDERS) * len(_RESIDUALS)), len(_RESIDUALS))
    rows.append((source, order, residual))
  return np.array(rows, np.int32)


def canonical(code: Any, layers: int) -> Hashable:
  """Equal for variants that compute the same: before the first layer there is one state only.

  Raises:
    ArchitectureError: not one architecture.
  """
  rows = rows_of(code, layers)
  rows[0, 2] = 0
  return tuple(map(tuple, rows.tolist()))


def sample(key: jax.Array, n: int, layers: int, unique: bool = True) -> Int8[np.ndarray, "n L"]:
  """n random variants around the encoder: each layer stays as it is with probability 2/3, or becomes any other.

  Drawn uniformly, hardly a variant would be near enough to the encoder for its weights to mean anything.

  Args:
    key: typed PRNG key.
    n: how many.
    layers: L.
    unique: no two alike. In both cases the first m rows of a larger draw with the same key are the draw of m.

  Raises:
    ConfigError: n is not an integer >= 0, or above the number of variants with `unique`.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  if unique and n > number(layers):
    raise ConfigError(f"n is {n}, but there are {number(layers)} architectures; lower n or use unique=False")
  generator, found = host_generator(key), {}
  others = [column for column in range(len(OPS)) if column != UNCHANGED]
  while len(found) < n:
    stays = generator.random(layers) < KEPT
    code = np.where(stays, UNCHANGED, generator.choice(others, layers)).astype(np.int8)
    if _is_variant(code):
      found.setdefault(code.tobytes() if unique else len(found), code)
  return np.stack(list(found.values())) if found else np.zeros((0, layers), np.int8)


def neighbours(code: Any, layers: int) -> Int8[np.ndarray, "n L"]:
  """All variants that differ in one layer.

  Raises:
    ArchitectureError: not one architecture.
  """
  parent = as_code(code, layers)
  found = []
  for place in range(layers):
    for column in range(len(OPS)):
      child = parent.copy()
      child[place] = column
      if column != parent[place] and _is_variant(child):
        found.append(child)
  return np.stack(found)


def mutate(key: jax.Array, code: Any, layers: int) -> Int8[np.ndarray, " L"]:
  """A random one of `neighbours`, uniformly.

  Raises:
    ArchitectureError: not one architecture.
  """
  around = neighbours(code, layers)
  return around[int(host_generator(key).integers(len(around)))]


_FORM: Final = "keep:seq:1|share:par:2|drop|..."
_HEADLESS: Final = "the first layer that is there must be a kept one, whose weights those behind it may share"


def _is_variant(code: np.ndarray) -> bool:
  there = code[code != DROP]
  return len(there) > 0 and bool(there[0] < SHARED)


def _text(code: np.ndarray) -> str:
  return "|".join(OPS[column] for column in code.tolist())

"""Encoders of NAS-Bench-BERT as arrays and text: sampling, neighbours, canonical forms.

An encoder has a hidden size and two or four layers, each with an operation, its number of heads, a width and a number
of feed-forward layers. Everywhere in this package an architecture is an int8 array [17]: the column of the hidden size
in `HIDDEN`, then for each of four layers the columns of its settings in `OPS`, `HEADS`, `WIDTHS` and `DEPTHS`, -1 in
layers that it has not.

The text form has the hidden size and a group a layer, its operation, heads, width and number of feed-forward layers:

    256|sdp:4:1024x3|dct:2:512x1

The operations: `sdp` and `wma` are self-attention, by scaled dot products and with a matrix between query and key;
`dft` and `dct` the discrete Fourier and cosine transforms; `dsc5` and `dsc9` dynamic span convolutions.

Widths make different architectures, but the benchmark's networks have 8 C = 1,024 whatever they say, see `costs`.

Source: Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and Transformers", ACL 2023; the space
is a part of that of Tuli et al., "FlexiBERT", JAIR 2023.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Final, NoReturn

import jax
import numpy as np
from jaxtyping import Int8

from jaxnas.base import host_generator
from jaxnas.errors import ArchitectureError, ConfigError, quoted
from jaxnas.spaces import arrays

OPS: Final = ("sdp", "wma", "dft", "dct", "dsc5", "dsc9")
SDP, WMA, DFT, DCT, DSC5, DSC9 = range(len(OPS))
HIDDEN: Final = (128, 256)
LAYERS: Final = (2, 4)
HEADS: Final = (2, 4)
WIDTHS: Final = (512, 1024)
DEPTHS: Final = (1, 3)  # feed-forward layers between the two that change the width

CHOICES: Final = (OPS, HEADS, WIDTHS, DEPTHS)  # a layer's settings, in the order of the code
SETTINGS: Final = len(CHOICES)
LENGTH: Final = 1 + max(LAYERS) * SETTINGS
ABSENT: Final = -1

_SIZES: Final = tuple(len(choices) for choices in CHOICES)
_LATER: Final = slice(1 + min(LAYERS) * SETTINGS, None)  # of layers that may be absent
_LAYER: Final = int(np.prod(_SIZES))  # different layers
NUM_ARCHS: Final = len(HIDDEN) * sum(_LAYER**layers for layers in LAYERS)

_FORM: Final = "256|sdp:4:1024x3|dct:2:512x1"
_HIDDEN_OF: Final = {str(size): column for column, size in enumerate(HIDDEN)}
_OP_OF: Final = {name: column for column, name in enumerate(OPS)}
_HEADS_OF: Final = {str(heads): column for column, heads in enumerate(HEADS)}
_FEED_OF: Final = {f"{width}x{depth}": (i, j) for i, width in enumerate(WIDTHS) for j, depth in enumerate(DEPTHS)}


def as_codes(codes: Any) -> Int8[np.ndarray, "*A 17"]:
  """Checks architectures and returns them as int8 [..., 17]; takes a text form (gives [17]) or integers [..., 17].

  Raises:
    ArchitectureError: another dtype or shape, or no encoder of the space; says which entry.
  """
  if isinstance(codes, str):
    return parse(codes)
  array = arrays.integers(codes, LENGTH, _FORM)
  wrong = (array < 0) | (array >= np.array([len(HIDDEN), *_SIZES * max(LAYERS)]))
  wrong[..., _LATER] &= (array[..., _LATER] != ABSENT).any(-1, keepdims=True)
  if wrong.any():
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ArchitectureError(
      f"archs{list(where)} = {array[where]}; entries are columns of the hidden size {HIDDEN} and of each layer's "
      f"operation, heads, width and depth in {', '.join(map(str, CHOICES))}, or -1 in all of the last two layers"
    )
  return array.astype(np.int8)


def as_code(code: Any) -> Int8[np.ndarray, "17"]:
  """Checks one architecture, as text or integers [17].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(code))


def layers_of(code: Any) -> Int8[np.ndarray, "layers 4"]:
  """The columns of the settings of each layer that an encoder has.

  Raises:
    ArchitectureError: not one architecture.
  """
  rows = as_code(code)[1:].reshape(-1, SETTINGS)
  return rows[rows[:, 0] != ABSENT]


def hidden_of(code: Any) -> int:
  """The hidden size.

  Raises:
    ArchitectureError: not one architecture.
  """
  return HIDDEN[as_code(code)[0]]


def pack(hidden: int, layers: Any) -> Int8[np.ndarray, "17"]:
  """The array of a column of the hidden size and columns [layers, 4] of settings, which are not checked."""
  code = np.full(LENGTH, ABSENT, np.int8)
  code[0] = hidden
  flat = np.asarray(layers, np.int8).ravel()
  code[1 : 1 + flat.size] = flat
  return code


def parse(text: str) -> Int8[np.ndarray, "17"]:
  """Reads the text form, such as `256|sdp:4:1024x3|dct:2:512x1`; outer white space is ignored.

  Raises:
    ArchitectureError: not of that form; the message quotes the group.
  """
  if not isinstance(text, str):
    raise ArchitectureError(f"architecture text is {text!r}; use a string such as {_FORM}")
  first, *groups = text.strip().split("|")
  if first not in _HIDDEN_OF:
    raise ArchitectureError(
      f"architecture {quoted(text)}: {quoted(first)} is no hidden size; begin with {_any(_HIDDEN_OF)}, as in {_FORM}"
    )
  if len(groups) not in LAYERS:
    raise ArchitectureError(f"architecture {quoted(text)} has {len(groups)} layers; an encoder has 2 or 4")
  layers = []
  for i, group in enumerate(groups):
    parts = group.split(":")
    if len(parts) != 3:
      _fail(text, i, group, "use operation:heads:widthxdepth, such as sdp:4:1024x3")
    for part, known, what in zip(parts, (_OP_OF, _HEADS_OF, _FEED_OF), ("operation", "number", "form"), strict=True):
      if part not in known:
        _fail(text, i, group, f"unknown {what} {part[:20]!r}; there use {_any(known)}")
    layers.append((_OP_OF[parts[0]], _HEADS_OF[parts[1]], *_FEED_OF[parts[2]]))
  return pack(_HIDDEN_OF[first], layers)


def format(code: Any) -> str:
  """The text form of one architecture; the inverse of `parse`.

  Raises:
    ArchitectureError: not one architecture.
  """
  groups = [
    f"{OPS[op]}:{HEADS[heads]}:{WIDTHS[width]}x{DEPTHS[depth]}" for op, heads, width, depth in layers_of(code).tolist()
  ]
  return "|".join([str(hidden_of(code)), *groups])


def canonical(code: Any) -> Hashable:
  """Equal for encoders that compute the same: the width is not read.

  Raises:
    ArchitectureError: not one architecture.
  """
  return hidden_of(code), tuple((op, heads, depth) for op, heads, _, depth in layers_of(code).tolist())


def sample(key: jax.Array, n: int, unique: bool = True) -> Int8[np.ndarray, "n 17"]:
  """n random encoders as the benchmark drew its own: hidden size, number of layers and every setting uniformly.

  Args:
    key: typed PRNG key.
    n: how many.
    unique: no two alike. In both cases the first m rows of a larger draw with the same key are the draw of m.

  Raises:
    ConfigError: n is not an integer >= 0, or above the number of encoders with `unique`.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  if unique and n > NUM_ARCHS:
    raise ConfigError(f"n is {n}, but there are {NUM_ARCHS} architectures; lower n or use unique=False")
  generator, found = host_generator(key), {}
  while len(found) < n:
    hidden, layers = generator.integers(len(HIDDEN)), LAYERS[generator.integers(len(LAYERS))]
    code = pack(int(hidden), _random_layers(generator, layers))
    found.setdefault(code.tobytes() if unique else len(found), code)
  return np.stack(list(found.values())) if found else np.zeros((0, LENGTH), np.int8)


def neighbours(code: Any) -> Int8[np.ndarray, "n 17"]:
  """All encoders that differ in one setting: the hidden size, one of a layer's, or the last two layers' existence.

  An encoder of two layers has 2,304 neighbours of four, one for each pair of layers that can be appended.

  Raises:
    ArchitectureError: not one architecture.
  """
  parent, found = as_code(code), []
  for place in range(1 + len(layers_of(parent)) * SETTINGS):
    found += _changed(parent, place)
  if len(layers_of(parent)) == max(LAYERS):
    found.append(_shortened(parent))
  else:
    one = np.stack(np.unravel_index(np.arange(_LAYER), _SIZES), -1)
    first, second = (grid.ravel() for grid in np.meshgrid(np.arange(_LAYER), np.arange(_LAYER), indexing="ij"))
    pairs = np.concatenate([one[first], one[second]], 1).astype(np.int8)
    longer = np.repeat(parent[None], len(pairs), 0)
    longer[:, -pairs.shape[1] :] = pairs
    found += list(longer)
  return np.stack(found)


def mutate(key: jax.Array, code: Any) -> Int8[np.ndarray, "17"]:
  """A random one of `neighbours`: first which setting changes, then what it becomes, both uniformly.

  Raises:
    ArchitectureError: not one architecture.
  """
  parent, generator = as_code(code), host_generator(key)
  layers = layers_of(parent)
  places = 1 + len(layers) * SETTINGS
  place = int(generator.integers(places + 1))
  if place < places:
    children = _changed(parent, place)
    return children[int(generator.integers(len(children)))]
  if len(layers) == max(LAYERS):
    return _shortened(parent)
  return pack(int(parent[0]), [*layers, *_random_layers(generator, max(LAYERS) - len(layers))])


def _random_layers(generator: np.random.Generator, layers: int) -> Int8[np.ndarray, "layers 4"]:
  return generator.integers(0, np.array(_SIZES), (layers, SETTINGS)).astype(np.int8)


def _changed(parent: np.ndarray, place: int) -> list[np.ndarray]:
  """The encoders with every other value at one place."""
  size = len(HIDDEN) if place == 0 else _SIZES[(place - 1) % SETTINGS]
  children = []
  for value in range(size):
    if value != parent[place]:
      child = parent.copy()
      child[place] = value
      children.append(child)
  return children


def _shortened(parent: np.ndarray) -> np.ndarray:
  return pack(int(parent[0]), layers_of(parent)[: min(LAYERS)])


def _any(known: Mapping[str, Any]) -> str:
  return " or ".join(known)


def _fail(text: str, layer: int, group: str, problem: str) -> NoReturn:
  raise ArchitectureError(f"architecture {quoted(text)}, layer {layer}, {quoted(group)}: {problem}")

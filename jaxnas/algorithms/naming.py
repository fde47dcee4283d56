"""The architectures that a user names: by index, by text form, as a draw, or as those of a benchmark."""

import re
from collections.abc import Sequence
from typing import cast

import jax
import numpy as np
from jaxtyping import Int

from jaxnas.base import Accuracies, Code, Indexed, Space, lacking
from jaxnas.errors import ArchitectureError, ConfigError

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_COUNT = re.compile(r"[0-9]{1,18}")


def resolve(space: Space, archs: Sequence[str], benchmark: Accuracies | None = None) -> Int[np.ndarray, "A L"]:
  """The architectures that `--archs` names, each once, in the order in which they are first named.

  Raises:
    ArchitectureError: malformed, out of range, or (of one that is named) without a path from input to output.
    ConfigError: a malformed 'random:N', or what the space or the benchmark cannot give.
  """
  found = []
  for text in (a.strip() for a in archs):
    kind, colon, count = text.partition(":")
    if text == "all":
      if lacking(space, Indexed):
        raise ConfigError(f"--archs='all': {space.name} is too large to list; say random:N or benchmark:N")
      found.append(cast(Indexed, space).enumerate_all())
    elif kind == "benchmark":
      if benchmark is None:
        raise ConfigError(f"--archs={text!r} needs --benchmark: name its file")
      found.append(_of_benchmark(space, text, count if colon else None, benchmark))
    elif kind == "random":
      found.append(space.sample(jax.random.key(0), _number(text, count, len(space))))
    else:
      found.append(named(space, text, "--archs")[None])
  first: dict[str, Code] = {}
  for code in np.concatenate(found):
    first.setdefault(space.format(code), code)
  return np.stack(list(first.values()))


def _number(text: str, count: str, most: int) -> int:
  """The N of random:N or benchmark:N."""
  if not _COUNT.fullmatch(count) or not 1 <= int(count) <= most:
    raise ConfigError(f"--archs={text!r}: say {text.partition(':')[0]}:N with N from 1 to {most}")
  return int(count)


def refuse_too_many(space: Space, count: int, flag: str) -> None:
  """Refuses to draw more different architectures than there are.

  Args:
    flag: whose value `count` is.

  Raises:
    ConfigError: names the flag.
  """
  if count > len(space):
    raise ConfigError(f"{flag}={count} must be at most {len(space)}, the architectures of --space={space.name}")


def _of_benchmark(space: Space, text: str, count: str | None, benchmark: Accuracies) -> Int[np.ndarray, "A L"]:
  """All architectures of a benchmark, or `count` of them drawn with seed 0."""
  most = len(benchmark.archs)
  drawn = np.random.default_rng(0).permutation(most)
  chosen = np.arange(most) if count is None else drawn[: _number(text, count, most)]
  return np.stack([space.parse(benchmark.archs[i]) for i in chosen])


def named(space: Space, text: str, flag: str) -> Code:
  """One architecture by its number or text form.

  Args:
    flag: whose value it is, for messages.

  Raises:
    ArchitectureError: it is not one of the space, or has no path from input to output; names the flag.
  """
  shown = text if len(text) <= 100 else f"{text[:100]}..."
  try:
    numbered = _INTEGER.fullmatch(text.strip()) and not lacking(space, Indexed)
    one = cast(Indexed, space).from_index(int(text)) if numbered else space.parse(text)
  except ArchitectureError as error:
    raise ArchitectureError(f"{flag}={shown!r} in --space={space.name}: {error}") from error
  if not space.is_connected(one):
    raise ArchitectureError(
      f"{flag}={shown!r}: no path from input to output, so its output does not depend on the images; "
      "put another operation than 'none' on the edges of some path"
    )
  return one

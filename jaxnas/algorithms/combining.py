"""Combinations of proxies: their names, the flag that asks for them, and their lines beside those of single proxies.

A combination ranks by the log-rank sum of its proxies (`tabular.combination`), within one set of architectures and one
pass, that is one seed and repeat. It is computed from the scores each time that these are read, never recorded: when a
run is continued with more architectures the set is larger, and all its scores are others.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from jaxnas import registry
from jaxnas.algorithms.measuring import UsualInputs, unable
from jaxnas.base import Context, Proxy, Rankable, Space, Status, lacking
from jaxnas.errors import ConfigError
from jaxnas.scoring import Score
from jaxnas.settings import setting
from jaxnas.tabular.combination import log_rank_sum

DEFAULT = "jaxnas"  # what the space declares
NAMED = {
  # Lee & Ham, CVPR 2024, section 3.3: expressivity, progressivity, trainability and FLOPs.
  "az_nas": ("az_expressivity", "az_progressivity", "az_trainability", "flops"),
  # The proxies of Cavagnero et al., WACV 2023, section 3, who add normalised values where we add logarithms of ranks.
  "freerea": ("naswot", "log_synflow", "skip_length"),
}


class Combination(NamedTuple):
  """Proxies that rank together; `name` is what tables call it."""

  name: str
  proxies: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RankBy:
  """Which combinations are asked for."""

  rank_by: tuple[str, ...] = setting(
    (),
    "combinations to rank by, the sum of log ranks of their proxies: proxies, comma-separated, which make one, or "
    f"names of combinations: {DEFAULT!r} (the space's own, chosen by measurement among those of minutes), "
    + ", ".join(f"{name!r} ({' + '.join(proxies)})" for name, proxies in NAMED.items())
    + f"; default: of --algorithm=score none, of ranked {DEFAULT!r}",
    later=True,
  )

  def __post_init__(self):
    text, proxies, names = ",".join(self.rank_by), registry.names("proxy"), (DEFAULT, *NAMED)
    for name in self.rank_by:
      if name not in (*proxies, *names):
        raise ConfigError(registry.unknown(f"--rank_by={name!r}", name, (*names, *proxies)))
    if len(set(self.rank_by)) < len(self.rank_by):
      raise ConfigError(f"--rank_by={text!r}: name each once")
    if len({name in names for name in self.rank_by}) > 1:
      raise ConfigError(f"--rank_by={text!r}: give proxies, which make one combination, or names of combinations")

  def combinations(self, space: Space) -> tuple[Combination, ...]:
    """Those asked for, in this space.

    Raises:
      ConfigError: the space declares no combination, and it is asked for.
    """
    if not self.rank_by:
      return ()
    if self.rank_by[0] not in (DEFAULT, *NAMED):
      alone = "rank of " * (len(self.rank_by) == 1)  # its line is not the proxy's
      return (Combination(alone + " + ".join(self.rank_by), self.rank_by),)
    return tuple(Combination(name, NAMED[name]) if name in NAMED else _of_space(space) for name in self.rank_by)


def _of_space(space: Space) -> Combination:
  if lacking(space, Rankable):
    raise ConfigError(
      f"--rank_by={DEFAULT}: nobody measured which combination ranks --space={space.name} best; name the proxies, "
      "--rank_by=PROXY,..."
    )
  proxies = cast(Rankable, space).ranked_by
  return Combination(f"{DEFAULT}: {' + '.join(proxies)}", proxies)


def proxies_of(names: Iterable[str], combinations: Sequence[Combination], flag: str) -> tuple[Proxy, ...]:
  """The proxies of these names and those that the combinations take, each once."""
  asked = dict.fromkeys(names, flag)
  for combination in combinations:
    for name in combination.proxies:
      asked.setdefault(name, "--rank_by")
  return tuple(registry.make("proxy", name, where) for name, where in asked.items())


def refuse_unmeasured(
  context: Context, combinations: Sequence[Combination], inputs: UsualInputs, different: int
) -> None:
  """Refuses combinations that cannot rank what there is.

  Args:
    different: how many different architectures they are to rank.

  Raises:
    ConfigError: a proxy of theirs cannot be measured in this space, or there is one architecture only.
  """
  for combination in combinations:
    for name in combination.proxies:
      if why := unable(context, registry.make("proxy", name, "--rank_by"), inputs):
        raise ConfigError(
          f"--rank_by={combination.name}: {name} cannot be measured in --space={context.space.name}: {why}; "
          "name other proxies, --rank_by=PROXY,..."
        )
  if combinations and different < 2:
    raise ConfigError(
      f"--rank_by={combinations[0].name} ranks architectures among one another, and there is only one: name two or more"
    )


def combined(lines: Iterable[Score], combinations: Sequence[Combination]) -> list[Score]:
  """Lines of the combinations, of all architectures that all proxies of one have scored in a pass.

  The value is the log-rank sum. Its status is "ok" unless all of its proxies are degenerate; such an architecture ranks
  last. Its seconds are the sum of its proxies'; of a pass that several share, whose lines have the same, once.
  """
  passes: dict[tuple[int, int], dict[str, dict[str, Score]]] = {}
  for line in lines:
    passes.setdefault((line.seed, line.repeat), {}).setdefault(line.arch, {})[line.proxy] = line
  found = []
  for combination in combinations:
    for place, archs in passes.items():
      whole = [own for own in archs.values() if all(name in own for name in combination.proxies)]
      rows = [[own[name] for name in combination.proxies] for own in whole]
      if not rows:
        continue
      values = log_rank_sum([[line.rank_by for line in column] for column in zip(*rows, strict=True)])
      for row, value in zip(rows, values.tolist(), strict=True):
        dead = all(line.status.degenerate for line in row)
        status, rank_by = (Status.NON_FINITE, -float("inf")) if dead else (Status.OK, value)
        seconds = sum({line.seconds for line in row})
        found.append(Score(row[0].arch, combination.name, value, status, rank_by, *place, seconds))
  return found


def about(lines: Sequence[Score], combinations: Sequence[Combination]) -> list[dict[str, Any]]:
  """For result.json: of each combination its proxies and the set of architectures that its scores belong to.

  Args:
    lines: those of `combined`.
  """
  found = []
  for combination in combinations:
    archs = sorted({line.arch for line in lines if line.proxy == combination.name})
    digest = hashlib.sha256("\n".join(archs).encode()).hexdigest()[:16]
    found.append(
      {
        "name": combination.name,
        "proxies": list(combination.proxies),
        "architectures": len(archs),
        "set_sha256": digest,
        "note": "sums of log ranks within this set; in another set they are others",
      }
    )
  return found

"""Scores that work directories of `--algorithm=score` keep, and what their rankings are worth, with paired errors."""

import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from jaxnas.errors import ConfigError
from jaxnas.tabular.combination import log_rank_sum

Pass = dict[str, dict[str, float]]
"""Of one initialisation and batch: proxy -> architecture -> the figure to rank by."""


def passes(folders: Iterable[str | pathlib.Path]) -> dict[tuple[int, int], Pass]:
  """(seed, repeat) -> the scores of that pass, those of several work directories together.

  Raises:
    ConfigError: a folder is no work directory of `--algorithm=score`.
  """
  found: dict[tuple[int, int], Pass] = {}
  for folder in folders:
    path = pathlib.Path(folder) / "scores.jsonl"
    if not path.is_file():
      raise ConfigError(f"{folder}: not a work directory of --algorithm=score (it has no scores.jsonl)")
    for record in map(json.loads, path.read_text().splitlines()):
      if record.get("kind") == "score":
        one = found.setdefault((record["seed"], record["repeat"]), {})
        one.setdefault(record["proxy"], {})[record["arch"]] = float(record["rank_by"])
  return found


def whole(found: dict[tuple[int, int], Pass], proxies: Sequence[str]) -> list[Pass]:
  """The passes in which each of the proxies has scored as many architectures as in any; others were interrupted."""
  most = {proxy: max((len(one.get(proxy, {})) for one in found.values()), default=0) for proxy in proxies}
  return [one for _, one in sorted(found.items()) if all(0 < most[p] == len(one.get(p, {})) for p in proxies)]


def common(several: Iterable[Pass], proxies: Sequence[str]) -> list[str]:
  """The architectures that all these passes have scored by all these proxies, in the order of the first."""
  sets = [one.get(proxy, {}) for one in several for proxy in proxies]
  return [arch for arch in sets[0] if all(arch in scored for scored in sets[1:])] if sets else []


def mean_rank(columns: Sequence[Float[np.ndarray, " m"]]) -> Float[np.ndarray, " m"]:
  """Mean over passes of an architecture's rank among the m, ties shared, degenerate ones last; higher is better."""
  return np.mean([stats.rankdata(np.where(np.isfinite(c), c, -np.inf)) for c in columns], 0)


def combined(several: Sequence[Pass], proxies: Sequence[str], archs: Sequence[str]) -> Float[np.ndarray, " m"]:
  """`log_rank_sum` of the proxies, each by its mean rank over the passes."""
  columns = [[np.array([one[proxy][a] for a in archs], np.float64) for one in several] for proxy in proxies]
  return log_rank_sum([mean_rank(of_proxy) for of_proxy in columns])


def draws(architectures: int, resamples: int, seed: int = 0) -> Int[np.ndarray, "R m"]:
  """Bootstrap samples of architectures."""
  return np.random.default_rng(seed).integers(0, architectures, (resamples, architectures))


def spearman_of(
  scores: Float[np.ndarray, " m"], accuracies: Float[np.ndarray, " m"], drawn: Int[np.ndarray, "R m"]
) -> Float[np.ndarray, " R"]:
  """Spearman's rho in each sample; of two rankings in the same samples, so that their difference is a paired one."""
  x, y = (stats.rankdata(values[drawn], axis=1) for values in (scores, accuracies))
  x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (x, y))
  with np.errstate(invalid="ignore"):
    return (x * y).sum(1) / np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))

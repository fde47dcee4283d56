"""Which ops one TE-NAS round prunes, given its indicators: host arithmetic, no networks.

Chen, Gong, Wang: "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021,
arXiv 2102.11535, algorithm 1. For every candidate op and each of R repeats,

    ntk_delta    = round((kappa - kappa_without_op) / kappa, decimals)          higher: prune first
    region_delta = round((regions - regions_without_op) / regions, decimals)    lower: prune first

Both are averaged over the repeats and ranked over all edges and cell types together; each edge
then loses the `prune_number` candidates with the smallest rank sum. Everything is done in Python
floats: the built-in `round` is correctly rounded at decimal midpoints, array libraries' is not.

`variant="code"` is the official procedure (github.com/VITA-Group/TENAS) with its quirks:

- Candidates are sorted by the mean rounded to `decimals` significant digits, but a candidate
  shares the rank of its predecessor only if their unrounded means are equal. Equal keys with
  means that differ in the last bit thus get different ranks, in evaluation order.
- Ties of the rank sum go to the candidate that stands earlier in the NTK-sorted list.
- Condition numbers are only passed through `clean_condition_number`: infinity becomes 1.8e308,
  negative ones stay. Where that overflows the official program crashes; here it is a ConfigError.
- `prune_number` is limited by the active ops of cell type 0, edge 0. Unequal edges could lose
  their last op in the official program; here every edge keeps one.

`variant="stable"` decides the same from the same evidence, whatever the eigenvalue solver:

- Condition numbers that are NaN, above `KAPPA_WORST` or below 1 (negative: an eigenvalue of a
  singular kernel rounded below zero) carry no information beyond "badly conditioned". They become
  `KAPPA_WORST`, the code's own value for NaN, and `Decision.clipped` counts them. Region counts
  below 1 become 1, what a constant network shows. So every change is finite, and among candidates
  with the same parent none has a worse NTK rank than one that was clipped in every repeat.
- Equal keys share a dense rank. The last bits of an eigenvalue therefore matter only if they carry
  a change across a rounding boundary. Keys are compared as decimal numbers, since the code's
  `digits * 10**power` gives one decimal number two float values on either side of a power of ten.
- Ties of the rank sum go to the better NTK rank, then to the smaller (cell type, edge, op), so the
  order in which candidates were evaluated plays no part.
- `prune_number` is limited on each edge by that edge's own active ops.

In the DARTS space edges then compete too: `decide_group` ranks the edges into one node by the same two indicators, each
edge's last op being the candidate, and all but the last in the order go.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxnas.errors import ConfigError

Candidate = tuple[int, int, int]
"""(cell type, edge, op): the op whose removal is judged."""

Variant = Literal["stable", "code"]

KAPPA_WORST = 1e5
"""Condition number of a kernel without a usable one; the official code's value for NaN."""

_SIGNIFICANCE_EPS = 1e-8  # the official code's: it also lifts decimal midpoints off the boundary


@dataclasses.dataclass(frozen=True, eq=False)
class Indicators:
  """Raw indicators of one round: K candidates, R repeats; "after" means without the op.

  `cond_*` are NTK condition numbers (any float, also NaN and infinite), `regions_*` numbers of
  linear regions (finite, >= 0).
  """

  candidates: Sequence[Candidate]
  cond_before: Shaped[np.ndarray, "K R"]
  cond_after: Shaped[np.ndarray, "K R"]
  regions_before: Shaped[np.ndarray, "K R"]
  regions_after: Shaped[np.ndarray, "K R"]


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
  """One round's decision and how it came about. Arrays are in the order of `candidates`.

  `order` holds the candidates by ascending rank sum; `pruned` those that go, edges by their first
  appearance in `order`. `prune_number` is the most ops any edge could lose, at most the number
  asked for; in a group of edges, how many of them go. `clipped` counts the entries of the two
  condition-number arrays that were replaced.
  """

  candidates: tuple[Candidate, ...]
  ntk_delta: Float[np.ndarray, "K R"]
  region_delta: Float[np.ndarray, "K R"]
  ntk_mean: Float[np.ndarray, " K"]
  region_mean: Float[np.ndarray, " K"]
  ntk_rank: Int[np.ndarray, " K"]
  region_rank: Int[np.ndarray, " K"]
  order: tuple[Candidate, ...]
  pruned: tuple[Candidate, ...]
  prune_number: int
  clipped: int


def candidates(active: Bool[np.ndarray, "cells E O"], op_order: Sequence[int] | None = None) -> list[Candidate]:
  """The active ops of all edges that have more than one, by cell type, then edge, then op.

  Args:
    active: the ops that are left.
    op_order: the op columns in the order in which an edge's candidates are to stand; ascending by default.

  Raises:
    ConfigError: `active` is not a boolean array of three dimensions.
  """
  active = _check_active(active)
  open_edges = active.sum(axis=-1, keepdims=True) > 1
  order = np.arange(active.shape[-1]) if op_order is None else np.asarray(op_order)
  return [(int(c), int(e), int(order[o])) for c, e, o in np.argwhere((active & open_edges)[..., order])]


def clean_condition_number(value: float) -> float:
  """The official code's rule: NaN -> 1e5, +-infinity -> the largest finite float64, else as is."""
  return float(np.nan_to_num(np.float64(value), nan=KAPPA_WORST))


def clip_condition_numbers(cond: Shaped[np.ndarray, "..."]) -> tuple[Float[np.ndarray, "..."], int]:
  """The stable rule: all outside [1, KAPPA_WORST] -> KAPPA_WORST; and how many that were."""
  cond = np.asarray(cond, np.float64)
  usable = (cond >= 1) & (cond <= KAPPA_WORST)  # False for NaN
  return np.where(usable, cond, KAPPA_WORST), int(np.sum(~usable))


def round_decimals(values: Shaped[np.ndarray, "..."], decimals: int) -> Float[np.ndarray, "..."]:
  """Python's `round` of every value to so many decimals; float64."""
  values = np.asarray(values, np.float64)
  return np.array([round(x, decimals) for x in values.ravel().tolist()]).reshape(values.shape)


def relative_changes(
  before: Shaped[np.ndarray, "K R"], after: Shaped[np.ndarray, "K R"], *, decimals: int = 3
) -> Float[np.ndarray, "K R"]:
  """(before - after) / before, rounded to `decimals` decimals; float64, may overflow to inf.

  Raises:
    ConfigError: `before` contains a zero.
  """
  before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
  if not before.all():
    raise ConfigError("before: got 0 for the unpruned network; use variant='stable'")
  with np.errstate(over="ignore"):
    return round_decimals((before - after) / before, decimals)


def repeat_means(changes: Shaped[np.ndarray, "K R"]) -> Float[np.ndarray, " K"]:
  """Mean over the repeats, each row summed by itself in repeat order; float64."""
  with np.errstate(over="ignore", invalid="ignore"):
    return np.array([np.mean(row) for row in np.asarray(changes, np.float64)])


def significant_digits(x: float, decimals: int) -> float:
  """The official code's sort key: `x`, moved 1e-8 away from 0, to `decimals` significant digits.

  Raises:
    OverflowError, ValueError: `x` is infinite, NaN, or too large to scale.
  """
  if x == 0:
    return x
  a = abs(x) + _SIGNIFICANCE_EPS
  power = math.floor(math.log(a, 10)) + 1
  return math.copysign(round(a * 10**-power, decimals) * 10**power, x)


def walked_ranks(
  means: Shaped[np.ndarray, " K"], *, descending: bool, decimals: int = 3
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
  """`variant="code"`: ranks in candidate order, and the candidates' positions as sorted.

  Raises:
    ConfigError: a mean overflowed, where the official program crashes.
  """
  values = np.asarray(means, np.float64).tolist()
  try:
    keys = [significant_digits(x, decimals) for x in values]
  except (OverflowError, ValueError):
    raise ConfigError(
      "variant: 'code' cannot rank a mean change that overflowed (a condition number was infinite);"
      " use variant='stable'"
    ) from None
  positions = sorted(range(len(keys)), key=keys.__getitem__, reverse=descending)
  ranks = np.zeros(len(keys), np.int64)
  for previous, this in itertools.pairwise(positions):
    ranks[this] = ranks[previous] + (values[this] != values[previous])
  return ranks, np.array(positions, np.int64)


def dense_ranks(means: Shaped[np.ndarray, " K"], *, descending: bool, decimals: int = 3) -> Int[np.ndarray, " K"]:
  """`variant="stable"`: dense ranks of the keys, in candidate order; `means` must be finite."""
  means = np.asarray(means, np.float64)
  lifted = np.where(means == 0, 0.0, np.abs(means) + _SIGNIFICANCE_EPS)
  keys = np.sign(means) * [float(f"{a:.{decimals - 1}e}") for a in lifted.tolist()]
  return np.unique(-keys if descending else keys, return_inverse=True)[1].astype(np.int64)


def rank_candidates(
  candidates: Sequence[Candidate],
  ntk_mean: Shaped[np.ndarray, " K"],
  region_mean: Shaped[np.ndarray, " K"],
  *,
  decimals: int = 3,
  variant: Variant = "stable",
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"], tuple[Candidate, ...]]:
  """NTK ranks and region ranks in candidate order, and the candidates by ascending rank sum.

  Raises:
    ConfigError: unknown `variant`, or `variant="code"` meets a mean that overflowed.
  """
  _check_variant(variant)
  if variant == "code":
    ntk_rank, ntk_sorted = walked_ranks(ntk_mean, descending=True, decimals=decimals)
    region_rank, _ = walked_ranks(region_mean, descending=False, decimals=decimals)
    order = sorted(ntk_sorted.tolist(), key=lambda k: ntk_rank[k] + region_rank[k])
  else:
    ntk_rank = dense_ranks(ntk_mean, descending=True, decimals=decimals)
    region_rank = dense_ranks(region_mean, descending=False, decimals=decimals)
    order = sorted(
      range(len(candidates)),
      key=lambda k: (ntk_rank[k] + region_rank[k], ntk_rank[k], candidates[k]),
    )
  return ntk_rank, region_rank, tuple(candidates[k] for k in order)


def effective_prune_number(
  active: Bool[np.ndarray, "cells E O"], prune_number: int, *, variant: Variant = "stable"
) -> int:
  """The most ops an edge may lose: code: limited by cell type 0, edge 0; stable: by any edge.

  At least 1: on its first candidate of an edge the official program does not look at the number.

  Raises:
    ConfigError: `active` is not [cells, E, O] booleans, `prune_number` < 1, unknown `variant`.
  """
  _check_variant(variant)
  _check_positive("prune_number", prune_number)
  left = _check_active(active).sum(axis=-1)
  return max(1, min(prune_number, int(left[0, 0] if variant == "code" else left.max()) - 1))


def select_pruned(
  order: Sequence[Candidate], active: Bool[np.ndarray, "cells E O"], prune_number: int
) -> tuple[Candidate, ...]:
  """The first `prune_number` candidates of each edge in `order`, never an edge's last active op."""
  chosen: dict[tuple[int, int], list[Candidate]] = {}
  left = _check_active(active).sum(axis=-1)
  for candidate in order:
    edge = candidate[:2]
    picks = chosen.setdefault(edge, [])
    if len(picks) < min(prune_number, left[edge] - 1):
      picks.append(candidate)
  return tuple(candidate for picks in chosen.values() for candidate in picks)


def decide(
  indicators: Indicators,
  *,
  prune_number: int,
  active: Bool[np.ndarray, "cells E O"],
  decimals: int = 3,
  variant: Variant = "stable",
) -> Decision:
  """The ops to prune in this round; see the module's docstring for the two variants.

  Args:
    indicators: of every candidate of `candidates(active)`, in any order.
    prune_number: ops to prune on each edge; every edge keeps at least one.
    active: the ops that are left in the supernet.
    decimals: of the changes, and significant digits of the sort key.
    variant: "stable" or "code".

  Raises:
    ConfigError: bad or contradictory arguments; or an overflow or a zero divisor in "code".
  """
  limit = effective_prune_number(active, prune_number, variant=variant)
  cands = _check_candidates(indicators.candidates, active)
  ranked = _rank(indicators, cands, decimals, variant)
  return dataclasses.replace(ranked, pruned=select_pruned(ranked.order, active, limit), prune_number=limit)


def decide_group(indicators: Indicators, *, keep: int, decimals: int = 3, variant: Variant = "stable") -> Decision:
  """Which edges of a group go: all but the last `keep` in the order of the rank sums, ranked within the group.

  Args:
    indicators: of each edge's one op; "after" means without the edge.
    keep: edges that stay.
    decimals, variant: as of `decide`.

  Raises:
    ConfigError: as `decide`, or a group of no more than `keep` edges.
  """
  cands = tuple((int(c), int(e), int(o)) for c, e, o in indicators.candidates)
  if len({c[:2] for c in cands}) < len(cands) or len(cands) <= keep or keep < 1:
    raise ConfigError(f"keep={keep}: got the candidates {cands}; pass one op of each of more than {keep} >= 1 edges")
  ranked = _rank(indicators, cands, decimals, variant)
  gone = len(cands) - keep
  return dataclasses.replace(ranked, pruned=ranked.order[:gone], prune_number=gone)


def _rank(indicators: Indicators, cands: tuple[Candidate, ...], decimals: int, variant: Variant) -> Decision:
  """A decision that prunes nothing yet."""
  _check_variant(variant)
  _check_positive("decimals", decimals)
  cond_before, cond_after, regions_before, regions_after = _check_indicators(indicators)

  if variant == "code":
    clipped = int(np.sum(~np.isfinite(cond_before)) + np.sum(~np.isfinite(cond_after)))
    cond_before = np.nan_to_num(cond_before, nan=KAPPA_WORST)
    cond_after = np.nan_to_num(cond_after, nan=KAPPA_WORST)
  else:
    cond_before, clipped_before = clip_condition_numbers(cond_before)
    cond_after, clipped_after = clip_condition_numbers(cond_after)
    clipped = clipped_before + clipped_after
    regions_before, regions_after = np.maximum(regions_before, 1), np.maximum(regions_after, 1)

  ntk_delta = relative_changes(cond_before, cond_after, decimals=decimals)
  region_delta = relative_changes(regions_before, regions_after, decimals=decimals)
  ntk_mean, region_mean = repeat_means(ntk_delta), repeat_means(region_delta)
  ntk_rank, region_rank, order = rank_candidates(cands, ntk_mean, region_mean, decimals=decimals, variant=variant)
  return Decision(
    candidates=cands,
    ntk_delta=ntk_delta,
    region_delta=region_delta,
    ntk_mean=ntk_mean,
    region_mean=region_mean,
    ntk_rank=ntk_rank,
    region_rank=region_rank,
    order=order,
    pruned=(),
    prune_number=0,
    clipped=clipped,
  )


def _check_variant(variant: str) -> None:
  if variant not in get_args(Variant):
    raise ConfigError(f"variant: got {variant!r}; pass one of {', '.join(get_args(Variant))}")


def _check_positive(name: str, value: int) -> None:
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
    raise ConfigError(f"{name}: got {value!r}; pass an integer >= 1")


def _check_active(active: np.ndarray) -> np.ndarray:
  active = np.asarray(active)
  if active.dtype != np.bool_ or active.ndim != 3 or active.size == 0:
    raise ConfigError(f"active: got {active.dtype} of shape {active.shape}; pass booleans [cells, E, O]")
  return active


def _check_candidates(given: Sequence[Candidate], active: np.ndarray) -> tuple[Candidate, ...]:
  given = tuple((int(c), int(e), int(o)) for c, e, o in given)
  expected = candidates(active)
  if not expected:
    raise ConfigError("active: no edge has more than one op; the search is over, do not decide")
  if sorted(given) != expected:
    wrong = sorted(set(given) ^ set(expected)) or "one listed twice"
    raise ConfigError(f"indicators.candidates: differ from candidates(active) in {wrong}; score each of them once")
  return given


def _check_indicators(indicators: Indicators) -> list[np.ndarray]:
  arrays, rows = [], len(indicators.candidates)
  shape = np.shape(indicators.cond_before)
  for name in ("cond_before", "cond_after", "regions_before", "regions_after"):
    array = np.asarray(getattr(indicators, name), np.float64)
    if array.shape != shape or array.ndim != 2 or array.shape[0] != rows or array.shape[1] == 0:
      raise ConfigError(
        f"indicators.{name}: got shape {array.shape}; pass [K, R] with K = {rows} candidates"
        " and the same R >= 1 repeats for all four"
      )
    if name.startswith("regions") and not (np.isfinite(array) & (array >= 0)).all():
      raise ConfigError(f"indicators.{name}: got a NaN, infinite or negative count; pass counts")
    arrays.append(array)
  return arrays

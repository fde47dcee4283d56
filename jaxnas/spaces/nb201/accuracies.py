"""What a table of NAS-Bench-201's accuracies holds, whatever file it came from.

The split `test` and `valid` are after 200 epochs, `valid_12ep` (CIFAR-10 only) is after the 12-epoch run. CIFAR-10's
validation networks saw half of the training set, its test networks all of it (Dong & Yang, "NAS-Bench-201", section
2.2). `cost_12ep_s` are the seconds of training of the 12-epoch run, to which the benchmark's simulated search time adds
one validation pass; `params_mb` are millions of parameters (C=16, N=5, 10 classes).
"""

import os
from collections.abc import Sequence
from typing import Final

from jaxnas.spaces.nb201.encoding import NUM_ARCHS, all_texts
from jaxnas.tabular.reading import problem

DATASETS: Final = ("cifar10", "cifar100", "imagenet16_120")
ACCURACY_COLUMNS: Final = (
  *(f"{dataset}_test" for dataset in DATASETS),
  *(f"{dataset}_valid" for dataset in DATASETS),
  "cifar10_valid_12ep",
)
COLUMNS: Final = (*ACCURACY_COLUMNS, "cost_12ep_s", "params_mb")
FIX: Final = (
  "give a NATS-tss-v1_0-3ffb9-simple folder, a NATS-tss-v1_0-3ffb9.pickle.pbz2 file, or a table that "
  "`python -m jaxnas.tabular` wrote"
)


def check_archs(path: str | os.PathLike[str], archs: Sequence[object]) -> tuple[str, ...]:
  """Returns the architectures if they are the 15,625 of NAS-Bench-201, each at its index.

  Raises:
    BenchmarkError: another space, a part of the list, or another order.
  """
  found, expected = tuple(str(arch) for arch in archs), all_texts()
  if found == expected:
    return expected
  known = frozenset(expected)
  strange = next((arch for arch in found if arch not in known), None)
  if strange is not None:
    what = f"{len(found):,} architectures of another space than nb201, such as {strange[:80]!r}"
    raise problem(path, what, FIX)
  if len(found) != NUM_ARCHS:
    raise problem(path, f"{len(found):,} architectures where NAS-Bench-201 has {NUM_ARCHS:,}", FIX)
  if len(set(found)) != NUM_ARCHS:
    raise problem(path, "the same architecture occurs twice", FIX)
  index = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
  what = f"index {index} is {found[index]}, which NAS-Bench-201 counts as {expected.index(found[index])}"
  raise problem(path, what, "number the rows as the benchmark does (`spaces.get('nb201').index_of(arch)`)")

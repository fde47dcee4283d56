"""What a table of NAS-Bench-201's accuracies holds, whatever file it came from.

The split `test` and `valid` are after 200 epochs, `valid_12ep` (CIFAR-10 only) is after the 12-epoch run. CIFAR-10's
validation networks saw half of the training set, its test networks all of it (Dong & Yang, "NAS-Bench-201", section
2.2). `cost_12ep_s` are the seconds of training of the 12-epoch run, to which the benchmark's simulated search time adds
one validation pass; `params_mb` are millions of parameters (C=16, N=5, 10 classes).
"""

import os
import re
from collections.abc import Sequence
from typing import Final

from jaxnas.spaces.nb201.encoding import NUM_ARCHS
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

_NODES: Final = (r"\|{op}~0\|", r"\|{op}~0\|{op}~1\|", r"\|{op}~0\|{op}~1\|{op}~2\|")
_TEXT: Final = re.compile(r"\+".join(_NODES).format(op=r"[a-z][a-z0-9_]*"))


def check_archs(path: str | os.PathLike[str], archs: Sequence[object]) -> tuple[str, ...]:
  """Returns the architectures if they are the 15,625 distinct cells of NAS-Bench-201.

  Raises:
    BenchmarkError: another space, or a part of the list.
  """
  strings = tuple(str(arch) for arch in archs)
  strange = next((arch for arch in strings if not _TEXT.fullmatch(arch)), None)
  if strange is not None:
    what = f"{len(strings):,} architectures of another space than nb201, such as {strange[:80]!r}"
    raise problem(path, what, FIX)
  if len(strings) != NUM_ARCHS:
    raise problem(path, f"{len(strings):,} architectures where NAS-Bench-201 has {NUM_ARCHS:,}", FIX)
  if len(set(strings)) != NUM_ARCHS:
    raise problem(path, "the same architecture occurs twice", FIX)
  return strings

"""Cheap validation by a benchmark: CIFAR-10 validation accuracy after 12 epochs."""

from collections.abc import Callable

from jaxnas.base import Accuracies
from jaxnas.errors import ConfigError


def after_12_epochs(benchmark: Accuracies | None, flag: str, fix: str) -> Callable[[str], float]:
  """Accuracy in per cent of an architecture's text form; NaN where the table has none.

  Args:
    flag: what asks for it, for the message.
    fix: what else could be given.

  Raises:
    ConfigError: there is no benchmark, or it has no such accuracies.
  """
  if benchmark is None:
    raise ConfigError(f"{flag} needs --benchmark: the accuracies come from its table; or {fix}")
  if "cifar10_valid_12ep" not in benchmark.columns:
    raise ConfigError(f"{flag}: the benchmark {benchmark.name} has no accuracies after 12 epochs; {fix}")
  return lambda arch: benchmark.accuracy(arch, "cifar10", "valid_12ep")

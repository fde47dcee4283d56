"""The proxy task of GenNAS: which signals the network regresses at its three stages, and how noisy its images are.

A task is a frozen, hashable record that is read from and written to the published JSON schema; the published tasks are
here as figures.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3, and its code.
"""

from jaxnas.proxies.signal_task.published import SEQUENCE_TASKS, TASKS, get, get_sequence, single
from jaxnas.proxies.signal_task.records import (
  FREQUENCIES,
  GRID,
  LAST_CHANNELS,
  LENGTH,
  NOISE_TYPES,
  ORDER,
  Dots,
  Resize,
  SequenceTask,
  Signals,
  SignalTask,
  Sines,
  dot_count,
  noise,
  validate,
)
from jaxnas.proxies.signal_task.schema import from_json, sequence_from_json, to_json

__all__ = [
  "FREQUENCIES",
  "GRID",
  "LAST_CHANNELS",
  "LENGTH",
  "NOISE_TYPES",
  "ORDER",
  "SEQUENCE_TASKS",
  "TASKS",
  "Dots",
  "Resize",
  "SequenceTask",
  "SignalTask",
  "Signals",
  "Sines",
  "dot_count",
  "from_json",
  "get",
  "get_sequence",
  "noise",
  "sequence_from_json",
  "single",
  "to_json",
  "validate",
]

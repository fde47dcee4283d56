"""The proxy task of GenNAS: which signals the network regresses at its three stages, and how noisy its images are.

A task is a frozen, hashable record that is read from and written to the published JSON schema; the published
tasks are data beside this file.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3, and its code.
"""

from jaxnas.gennas.tasks.published import get, get_sequence, names, sequence_names
from jaxnas.gennas.tasks.records import (
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
from jaxnas.gennas.tasks.schema import from_json, sequence_from_json, to_json

__all__ = [
  "FREQUENCIES",
  "GRID",
  "LAST_CHANNELS",
  "LENGTH",
  "NOISE_TYPES",
  "ORDER",
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
  "names",
  "noise",
  "sequence_from_json",
  "sequence_names",
  "to_json",
  "validate",
]

"""The published JSON schema of a proxy task, read and written."""

import dataclasses
import reprlib
from typing import Any

from jaxnas.errors import ConfigError
from jaxnas.gennas.tasks.records import BASES, NOISE_TYPES, WEIGHTS, SequenceTask, Signals, SignalTask, validate


def from_json(document: Any, source: str = "task", *, check: bool = True) -> SignalTask:
  """The task in a document as `json.loads` gives it.

  Args:
    source: what error messages call the document.
    check: also `validate`; False admits a task that a random draw gave.

  Raises:
    ConfigError: a key is missing, unknown or of the wrong type, or (with `check`) a value is out of range.
  """
  if isinstance(document, dict) and "dimension" in document:
    raise ConfigError(f"{source}: got a task of sequences (it has 'dimension'); pass a task of images")
  multipliers = tuple(f"last_channel_l{i}" for i in range(3))
  optional = ("train_weights", "eval_weights")
  whole = _object(document, f"{source}:", ("batchsize", "noise", *multipliers, "feature"), optional)
  weights = [_triple(whole[k], f"{source}: {k}") if k in whole else WEIGHTS for k in optional]
  first, second, third = (_number(whole[k], f"{source}: {k}") for k in multipliers)
  task = SignalTask(
    **_noise(whole["noise"], f"{source}: noise"),
    channel_multipliers=(first, second, third),
    stages=_stages(whole["feature"], f"{source}: feature", 3, images=True),
    batch_size=_whole(whole["batchsize"], f"{source}: batchsize"),
    loss_weights=weights[0],
    eval_weights=weights[1],
  )
  if check:
    validate(task, source)
  return task


def sequence_from_json(document: Any, source: str = "task", *, check: bool = True) -> SequenceTask:
  """As `from_json`, for sequences."""
  if isinstance(document, dict) and "last_channel_l0" in document:
    raise ConfigError(f"{source}: got a task of images (it has 'last_channel_l0'); pass a task of sequences")
  whole = _object(document, f"{source}:", ("batchsize", "noise", "dimension", "feature"))
  task = SequenceTask(
    **_noise(whole["noise"], f"{source}: noise"),
    dimension=_whole(whole["dimension"], f"{source}: dimension"),
    stages=_stages(whole["feature"], f"{source}: feature", 2, images=False),
    batch_size=_whole(whole["batchsize"], f"{source}: batchsize"),
  )
  if check:
    validate(task, source)
  return task


def to_json(task: SignalTask | SequenceTask) -> dict[str, Any]:
  """The task in the published schema, for `json.dumps`; `from_json` gives the task back exactly."""
  head = {"batchsize": task.batch_size, "noise": {"type": task.noise_type, "noise_level": task.noise_level}}
  stages = {str(i): dataclasses.asdict(signals) for i, signals in enumerate(task.stages)}
  for stage in stages.values():
    for signal in filter(None, stage.values()):
      if "range" in signal:
        signal["range"] = list(signal["range"])
  if isinstance(task, SequenceTask):
    for stage in stages.values():
      del stage["resize"]
    return {**head, "dimension": task.dimension, "feature": stages}
  multipliers = {f"last_channel_l{i}": m for i, m in enumerate(task.channel_multipliers)}
  weights = {"train_weights": task.loss_weights, "eval_weights": task.eval_weights}
  chosen = {key: list(value) for key, value in weights.items() if value != WEIGHTS}
  return {**head, **multipliers, "feature": stages, **chosen}


# Reading the schema. Each takes a value and its key, and raises ConfigError with both.


def _wrong(key: str, value: Any, allowed: str) -> ConfigError:
  return ConfigError(f"{key}: got {reprlib.repr(value)}; pass {allowed}")


def _object(value: Any, key: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
  dot = " " if key.endswith(":") else "."
  if not isinstance(value, dict):
    raise _wrong(key.rstrip(":"), value, f"an object with {', '.join(required)}")
  for name in value:
    if name not in required + optional:
      raise ConfigError(f"{key}{dot}{name}: unknown key; allowed are {', '.join(dict.fromkeys(required + optional))}")
  for name in required:
    if name not in value:
      raise ConfigError(f"{key}{dot}{name}: missing; required are {', '.join(required)}")
  return value


def _number(value: Any, key: str) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise _wrong(key, value, "a number")
  try:
    return float(value)
  except OverflowError:  # an integer of hundreds of digits
    raise _wrong(key, value, "a number below 1e308") from None


def _whole(value: Any, key: str) -> int:
  if isinstance(value, bool) or not isinstance(value, int):
    raise _wrong(key, value, "an integer")
  return value


def _flag(value: Any, key: str) -> bool:
  if not isinstance(value, bool):
    raise _wrong(key, value, "true or false")
  return value


def _numbers(value: Any, key: str) -> tuple[float, ...]:
  if not isinstance(value, list):
    raise _wrong(key, value, "a list of numbers")
  return tuple(_number(v, key) for v in value)


def _triple(value: Any, key: str) -> tuple[float, float, float]:
  numbers = _numbers(value, key)
  if len(numbers) != 3:
    raise _wrong(key, value, "three numbers")
  return numbers


def _noise(value: Any, key: str) -> dict[str, Any]:
  entry = _object(value, key, ("type", "noise_level"))
  if entry["type"] not in NOISE_TYPES:
    raise _wrong(f"{key}.type", entry["type"], " or ".join(NOISE_TYPES))
  return {"noise_type": entry["type"], "noise_level": _number(entry["noise_level"], f"{key}.noise_level")}


_READ = {"level": _number, "range": _numbers, "partial": _number, "local": _flag}


def _stages(value: Any, key: str, number: int, images: bool) -> Any:
  stages = _object(value, key, tuple(map(str, range(number))))
  return tuple(_signals(stages[str(i)], f"{key}.{i}", images) for i in range(number))


def _signals(value: Any, key: str, images: bool) -> Signals:
  """One stage; that of a sequence may say "resize": null or not mention it."""
  bases = tuple(basis for basis in BASES if images or basis != "resize")
  entries = _object(value, key, bases, ("resize",))
  if not images and entries.get("resize") is not None:
    raise _wrong(f"{key}.resize", entries["resize"], "null: a sequence has no images")
  signals = {}
  for basis, entry in entries.items():
    if entry is not None:
      here, record = f"{key}.{basis}", BASES[basis]
      names = tuple(field.name for field in dataclasses.fields(record))
      values = _object(entry, here, names)
      signals[basis] = record(**{name: _READ[name](values[name], f"{here}.{name}") for name in names})
  return Signals(**signals)

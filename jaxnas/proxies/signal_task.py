"""The proxy task of GenNAS: which signals the network regresses at its three stages, and how noisy its images are.

A task is a frozen, hashable record that is read from and written to the published JSON schema; the published tasks are
here as figures. A random draw may give a task that cannot be trained (dots in less than one cell), so the records
themselves check nothing: `validate` does, and everything that reads a user's task calls it.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3, and its code.
"""

import dataclasses
import json
import math
import pathlib
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnas.errors import ConfigError

GRID = (8, 8)  # cells of a target
LAST_CHANNELS = 64  # channels of a target whose multiplier is 1
LENGTH = 8  # steps of a sequence
FREQUENCIES = 10
NOISE_TYPES = ("uniform", "gaussian")
ORDER = ("sin1d", "sin2d", "resize", "dot", "dot_gaussian")  # in which the signals of a stage are added
_MOST_CHANNELS = 64 * FREQUENCIES  # the maps that `sin1d` can choose from


@dataclasses.dataclass(frozen=True)
class Sines:
  """Waves: their amplitude, ten frequencies in periods per cell, and whether every image has waves of its own."""

  level: float
  range: tuple[float, ...]
  local: bool


@dataclasses.dataclass(frozen=True)
class Dots:
  """Dots: their height, the share of cells that have one, and whether every image has dots of its own."""

  level: float
  partial: float
  local: bool


@dataclasses.dataclass(frozen=True)
class Resize:
  """The images themselves, scaled to [-level, level]."""

  level: float


@dataclasses.dataclass(frozen=True)
class Signals:
  """The target of one stage is the sum of these; None leaves a signal out. Field order is that of the JSON."""

  sin1d: Sines | None = None
  sin2d: Sines | None = None
  dot: Dots | None = None
  dot_gaussian: Dots | None = None
  resize: Resize | None = None


@dataclasses.dataclass(frozen=True)
class SignalTask:
  """A proxy task on images.

  Attributes:
    noise_type: "uniform" is U(-level, level), "gaussian" is N(0, level^2), added to the normalised images.
    noise_level: see `noise_type`.
    channel_multipliers: of the three targets' 64 channels.
    stages: signals of the three targets, the earliest stage first.
    batch_size: as read; a run sets its own.
    loss_weights: of the three stages' mean squared errors in training.
    eval_weights: the same in the evaluations that give the score.
  """

  noise_type: Literal["uniform", "gaussian"]
  noise_level: float
  channel_multipliers: tuple[float, float, float]
  stages: tuple[Signals, Signals, Signals]
  batch_size: int = 16
  loss_weights: tuple[float, float, float] = (0.25, 0.5, 1.0)
  eval_weights: tuple[float, float, float] = (0.25, 0.5, 1.0)

  @property
  def channels(self) -> tuple[int, int, int]:
    """Channels C_0, C_1, C_2 of the targets."""
    first, second, third = (int(m * LAST_CHANNELS) for m in self.channel_multipliers)
    return first, second, third


@dataclasses.dataclass(frozen=True)
class SequenceTask:
  """A proxy task for recurrent networks: stage 0 is the input sequence, stage 1 the target, both [8, dimension].

  Attributes are those of `SignalTask`; the stages have no `resize`.
  """

  noise_type: Literal["uniform", "gaussian"]
  noise_level: float
  dimension: int
  stages: tuple[Signals, Signals]
  batch_size: int = 16


def noise(task: SignalTask | SequenceTask, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
  """Noise of the task for inputs of `shape`, in normalised units: U(-a, a) or a N(0, 1), a the noise level."""
  if task.noise_type == "uniform":
    return task.noise_level * jax.random.uniform(key, shape, dtype, -1, 1)
  return task.noise_level * jax.random.normal(key, shape, dtype)


def dot_count(partial: float, cells: int = math.prod(GRID)) -> int:
  """How many of the cells have a dot."""
  return int(partial * cells)


def get(name_or_path: str) -> SignalTask:
  """A published task or a single basis by its name (a key of `TASKS`), or the task in a JSON file.

  Raises:
    ConfigError: no such name or file, not JSON, wrong schema, values out of range, or a task of sequences.
  """
  return _find(name_or_path, TASKS, from_json)


def get_sequence(name_or_path: str) -> SequenceTask:
  """As `get`, for sequences: a key of `SEQUENCE_TASKS` or a JSON file. Raises as `get`."""
  return _find(name_or_path, SEQUENCE_TASKS, sequence_from_json)


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
  weights = [_triple(whole[k], f"{source}: {k}") if k in whole else (0.25, 0.5, 1.0) for k in optional]
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
  chosen = {key: list(value) for key, value in weights.items() if value != (0.25, 0.5, 1.0)}
  return {**head, **multipliers, "feature": stages, **chosen}


def validate(task: SignalTask | SequenceTask, source: str = "task") -> None:
  """Checks every value of a task.

  Raises:
    ConfigError: the first that is out of range: its key in the JSON, the value got, what is allowed.
  """

  def require(fine: bool, key: str, value: Any, allowed: str) -> None:
    if not fine:
      raise ConfigError(f"{source}: {key}: got {reprlib.repr(value)}; pass {allowed}")

  require(task.batch_size >= 1, "batchsize", task.batch_size, "an integer >= 1")
  require(task.noise_type in NOISE_TYPES, "noise.type", task.noise_type, " or ".join(NOISE_TYPES))
  require(0 <= task.noise_level < math.inf, "noise.noise_level", task.noise_level, "a number >= 0")
  if isinstance(task, SequenceTask):
    cells = LENGTH * task.dimension
    require(task.dimension >= 1, "dimension", task.dimension, "an integer >= 1")
  else:
    cells = math.prod(GRID)
    for i, multiplier in enumerate(task.channel_multipliers):
      fine = 1 <= multiplier * LAST_CHANNELS <= _MOST_CHANNELS
      require(fine, f"last_channel_l{i}", multiplier, f"a number from 1/{LAST_CHANNELS} to {FREQUENCIES}")
    for key, weights in (("train_weights", task.loss_weights), ("eval_weights", task.eval_weights)):
      fine = len(weights) == 3 and all(0 <= w < math.inf for w in weights)
      require(fine, key, weights, "three numbers >= 0")
  for i, signals in enumerate(task.stages):
    for basis in _BASES:
      signal, key = getattr(signals, basis), f"feature.{i}.{basis}"
      if signal is None:
        continue
      require(math.isfinite(signal.level), f"{key}.level", signal.level, "a finite number")
      if isinstance(signal, Sines):
        fine = len(signal.range) == FREQUENCIES and all(map(math.isfinite, signal.range))
        require(fine, f"{key}.range", signal.range, f"{FREQUENCIES} finite numbers")
      if isinstance(signal, Dots):
        fine = 0 <= signal.partial <= 1 and dot_count(signal.partial, cells) >= 1
        require(fine, f"{key}.partial", signal.partial, f"a number from 1/{cells} (one dot) to 1")


def single(basis: str, band: Literal["low", "mid", "high"] = "high") -> SignalTask:
  """The task of one basis alone, on all three stages. The published ones are for sequences only; this follows them.

  Level 1, 64 channels at every stage, no noise, a draw for every image, dots in all cells; frequencies of the
  published combination.

  Args:
    basis: one of `ORDER`.
    band: frequencies of `sin1d` and `sin2d`, in periods per cell: low 0.0125 ... 0.125, mid 0.125 ... 0.35,
      high 0.375 ... 0.4875.

  Raises:
    ConfigError: unknown basis or band.
  """
  if basis not in _BASES:
    raise ConfigError(f"basis: got {basis!r}; pass one of {', '.join(ORDER)}")
  if band not in _BANDS:
    raise ConfigError(f"band: got {band!r}; pass one of {', '.join(_BANDS)}")
  values = {Sines: _BANDS[band], Dots: _DOTS, Resize: Resize(1.0)}
  signals = Signals(**{basis: values[_BASES[basis]]})
  return SignalTask("gaussian", 0.0, (1.0, 1.0, 1.0), (signals, signals, signals))


_BASES: dict[str, type] = {"sin1d": Sines, "sin2d": Sines, "dot": Dots, "dot_gaussian": Dots, "resize": Resize}


def _find(name_or_path, published: Mapping[str, Any], read: Callable[[Any, str], Any]) -> Any:
  if name_or_path in published:
    return published[name_or_path]
  other = {**TASKS, **SEQUENCE_TASKS}.get(name_or_path)
  if other is not None:
    return read(to_json(other), name_or_path)  # raises: the other kind
  try:
    document = json.loads(pathlib.Path(name_or_path).read_text(encoding="utf-8"))
  except OSError as error:
    raise ConfigError(
      f"task {name_or_path!r}: neither a readable file ({error.strerror}) nor one of {', '.join(published)}"
    ) from None
  except ValueError as error:
    raise ConfigError(f"task {name_or_path!r}: not JSON ({error}); pass a file of the published schema") from None
  return read(document, name_or_path)


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
  return float(value)


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
  bases = tuple(basis for basis in _BASES if images or basis != "resize")
  entries = _object(value, key, bases, ("resize",))
  if not images and entries.get("resize") is not None:
    raise _wrong(f"{key}.resize", entries["resize"], "null: a sequence has no images")
  signals = {}
  for basis, entry in entries.items():
    if entry is not None:
      here, record = f"{key}.{basis}", _BASES[basis]
      names = tuple(field.name for field in dataclasses.fields(record))
      values = _object(entry, here, names)
      signals[basis] = record(**{name: _READ[name](values[name], f"{here}.{name}") for name in names})
  return Signals(**signals)


# The published figures.

_LOW, _MID, _HIGH = (
  Sines(1.0, tuple(round(start + step * i, 4) for i in range(FREQUENCIES)), True)
  for start, step in ((0.0125, 0.0125), (0.125, 0.025), (0.375, 0.0125))
)
_BANDS = {"low": _LOW, "mid": _MID, "high": _HIGH}
_DOTS = Dots(1.0, 1.0, True)

# fmt: off
CONF_NB101 = SignalTask("uniform", 0.1, (1.0, 0.75, 0.25), (
    Signals(
      sin2d=Sines(1.0999999999999999, (
        0.014257232402844334, 0.0168671689792797, 0.014930071944680878, 0.0204012022061141, 0.022935808834129698,
        0.0172234284050367, 0.01564545022287097, 0.019183789517967623, 0.01550017992399958, 0.014574095887562394,
      ), True),
    ),
    Signals(
      sin1d=Sines(1.7999999999999998, (
        0.2991077123933203, 0.3060359499425501, 0.30375714406796583, 0.2880217185797205, 0.2934476311034326,
        0.2960826278609313, 0.3058547556352616, 0.2928834290170104, 0.30562376104172906, 0.29586053617133456,
      ), True),
      sin2d=Sines(2.8999999999999995, (
        0.37984431962046133, 0.3818358163414827, 0.3583425915890292, 0.3276257467988693, 0.26487541063592235,
        0.2807695886901979, 0.4205045860585813, 0.3414214149894483, 0.3036242990663395, 0.4203015359951532,
      ), True),
      dot_gaussian=Dots(1.0999999999999999, 0.578125, True),
      resize=Resize(2.3999999999999995),
    ),
    Signals(
      sin1d=Sines(1.4999999999999998, (
        0.1539337022534557, 0.10572650708639424, 0.106631778214214, 0.15756559392005454, 0.1337356958776917,
        0.10509981523526175, 0.13191482406159902, 0.1317568276094524, 0.10281716031383362, 0.10936835489126645,
      ), False),
      sin2d=Sines(0.8999999999999999, (
        0.1979369424135534, 0.2030890995764645, 0.10339032893028458, 0.20484341381119886, 0.13566384672510265,
        0.20905695437266292, 0.24540172530847384, 0.08635711325215838, 0.13518427726099247, 0.14525989963217315,
      ), False),
      dot_gaussian=Dots(2.0999999999999996, 0.4375, False),
      resize=Resize(2.1999999999999997),
    ),
  ))

CONF_DARTS = SignalTask("gaussian", 0.2, (1.25, 0.5, 1.25), (
    Signals(dot_gaussian=Dots(1.5999999999999996, 0.5, True), resize=Resize(1.2999999999999998)),
    Signals(
      dot=Dots(2.1999999999999997, 0.71875, True),
      dot_gaussian=Dots(0.9999999999999999, 0.609375, False),
      resize=Resize(2.0999999999999996),
    ),
    Signals(dot_gaussian=Dots(1.6999999999999997, 0.5625, True), resize=Resize(0.5)),
  ))

CONF_RESNET = SignalTask("gaussian", 0.9, (0.25, 0.25, 0.5), (
    Signals(
      sin1d=Sines(1.0999999999999999, (
        0.3792370317500072, 0.3347572361903789, 0.38353154227374914, 0.2972907481491224, 0.30638339798601666,
        0.3437610051983535, 0.21573498175236644, 0.33743001565752506, 0.3203204782817462, 0.23627768569837398,
      ), False),
      dot=Dots(0.5, 0.09375, False),
    ),
    Signals(
      sin2d=Sines(1.1999999999999997, (
        0.11852041568002372, 0.22058736471430207, 0.05964991789266724, 0.2331100203802536, 0.22724375247060088,
        0.26533940932269895, 0.18766405869928884, 0.108310279347472, 0.1094640443283546, 0.05631724845394532,
      ), True),
      dot=Dots(2.8999999999999995, 0.3125, True),
      resize=Resize(2.3),
    ),
    Signals(
      sin2d=Sines(1.7999999999999998, (
        0.3785295480893762, 0.379405523066469, 0.3447434973611063, 0.27059802706123703, 0.26065558897167473,
        0.394464236618574, 0.27927337806860797, 0.3832390382592093, 0.32280314267138166, 0.30143889275192487,
      ), True),
      dot_gaussian=Dots(2.0999999999999996, 0.5, False),
    ),
  ))

CONF_COMBO = SignalTask("gaussian", 0.0, (1.0, 1.0, 1.0), (
    Signals(sin1d=_HIGH, sin2d=_HIGH, dot=_DOTS),
    Signals(sin1d=_HIGH, sin2d=_MID, resize=Resize(1.0)),
    Signals(sin1d=_HIGH, dot=_DOTS, resize=Resize(1.0)),
  ))

CONF_NLP = SequenceTask("uniform", 0.6, 48, (
    Signals(
      sin2d=Sines(2.5999999999999996, (
        0.19548103160169628, 0.2282158789801897, 0.1842639908446425, 0.20731949085325374, 0.22082386741852128,
        0.1345443194045737, 0.17034055075490867, 0.22295752611900838, 0.19031212316299922, 0.19147574467301293,
      ), True),
    ),
    Signals(
      sin2d=Sines(0.7999999999999999, (
        0.17216149803882433, 0.17012483744775037, 0.168561304364928, 0.16552930641090283, 0.16468901024790167,
        0.1702319091210886, 0.16422069490502256, 0.1770741059514029, 0.17124201034882974, 0.17227888619876072,
      ), True),
      dot_gaussian=Dots(0.7, 0.8625968590962992, True),
    ),
  ))
# fmt: on


def _ablation(signals: Signals) -> SequenceTask:
  return SequenceTask("uniform", 0.0, 64, (signals, signals), batch_size=64)


TASKS: dict[str, SignalTask] = {
  "CONF_NB101": CONF_NB101,
  "CONF_DARTS": CONF_DARTS,
  "CONF_RESNET": CONF_RESNET,
  "CONF_COMBO": CONF_COMBO,
  **{f"single_{basis}": single(basis) for basis in ORDER},
  **{f"single_{basis}_{band}": single(basis, band) for basis in ("sin1d", "sin2d") for band in ("low", "mid")},
}
SEQUENCE_TASKS: dict[str, SequenceTask] = {
  "CONF_NLP": CONF_NLP,
  "CONF_NLP_COMBO": _ablation(Signals(sin1d=_MID, sin2d=_MID)),
  "CONF_NLP_SINGLE": _ablation(Signals(dot=_DOTS)),
  "CONF_NLP_SIN1D_M": _ablation(Signals(sin1d=_MID)),
  "CONF_NLP_SIN2D_M": _ablation(Signals(sin2d=_MID)),
  "CONF_NLP_SIN1D_H": _ablation(Signals(sin1d=_HIGH)),
  "CONF_NLP_SIN2D_H": _ablation(Signals(sin2d=_HIGH)),
}

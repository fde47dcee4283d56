"""The published proxy tasks as figures, those of a single basis, and where a user's task is found."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxnas.errors import ConfigError
from jaxnas.proxies.signal_task.records import (
  BASES,
  FREQUENCIES,
  ORDER,
  Dots,
  Resize,
  SequenceTask,
  Signals,
  SignalTask,
  Sines,
)
from jaxnas.proxies.signal_task.schema import from_json, sequence_from_json, to_json

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


def get(name_or_path: str) -> SignalTask:
  """A published task or a single basis by its name (a key of `TASKS`), or the task in a JSON file.

  Raises:
    ConfigError: no such name or file, not JSON, wrong schema, values out of range, or a task of sequences.
  """
  return _find(name_or_path, TASKS, from_json)


def get_sequence(name_or_path: str) -> SequenceTask:
  """As `get`, for sequences: a key of `SEQUENCE_TASKS` or a JSON file. Raises as `get`."""
  return _find(name_or_path, SEQUENCE_TASKS, sequence_from_json)


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
  if basis not in BASES:
    raise ConfigError(f"basis: got {basis!r}; pass one of {', '.join(ORDER)}")
  if band not in _BANDS:
    raise ConfigError(f"band: got {band!r}; pass one of {', '.join(_BANDS)}")
  values = {Sines: _BANDS[band], Dots: _DOTS, Resize: Resize(1.0)}
  signals = Signals(**{basis: values[BASES[basis]]})
  return SignalTask("gaussian", 0.0, (1.0, 1.0, 1.0), (signals, signals, signals))


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

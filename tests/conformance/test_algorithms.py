"""What every algorithm promises, for each one that is registered; see `jaxnas.base.Algorithm`."""

import atexit
import dataclasses
import functools
import json
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
from helpers import Counted, png_size

from conformance.tiny import samples, small
from jaxnas import base, data, registry, scoring, spaces, tabular
from jaxnas.base import Algorithm, Artefact, Column, Context, Outcome
from jaxnas.errors import ConfigError

ENGINE = scoring.Engine(block=4)
ALL = [registry.get("algorithm", name)() for name in registry.names("algorithm")]
# Those that require something of a space bring networks of their own, which take long to compile.
every = pytest.mark.parametrize("algorithm", [pytest.param(a, id=a.name) for a in ALL])
each = pytest.mark.parametrize(
  "algorithm", [pytest.param(a, id=a.name, marks=[pytest.mark.slow] if a.requires else []) for a in ALL]
)


@functools.cache
def source():
  return data.load()


@functools.cache
def benchmark(space):
  """The accuracies that the package has of a space, if any."""
  return tabular.open_benchmark(None, space)


def space_of(algorithm):
  """The first space that has what it requires."""
  found = [
    space
    for space in map(spaces.get, spaces.names())
    if not any(base.lacking(space, need) for need in algorithm.requires)
  ]
  assert found, f"no space has what {algorithm.name} requires"
  return found[0]


def settings_of(algorithm):
  settings = small(algorithm.Settings)
  if any(field.name == "genotype" for field in dataclasses.fields(settings)):
    space = space_of(algorithm)
    settings = dataclasses.replace(settings, genotype=space.format(samples(space, 3)[2]))
  if any(field.name == "runs" for field in dataclasses.fields(settings)):
    settings = dataclasses.replace(settings, runs=finished_runs())
  return settings


@functools.cache
def finished_runs():
  """Folders of two runs, as far as they are read."""
  folder = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder)
  for name, accuracies in (("one", [93.0, 94.0]), ("two", [91.5])):
    (folder / name).mkdir()
    config = {"algorithm": "tenas", "space": "nb201", "dataset": "synthetic"}
    results = [{"seed": seed, "cifar10_test": value} for seed, value in enumerate(accuracies)]
    (folder / name / "result.json").write_text(
      json.dumps({"config": config, "accuracies": ["cifar10_test"], "results": results})
    )
  return str(folder / "one"), str(folder / "two")


def context_of(algorithm, folder=None, **more):
  space = space_of(algorithm)
  measured = algorithm.proxies(settings_of(algorithm), space)
  proxy_settings = {p.Settings: small(p.Settings) for p in measured if p.Settings}
  return Context(
    space, source(), settings_of(algorithm), benchmark(space), ENGINE, proxy_settings,
    folder=folder, open_split=lambda split: data.load(split=split), **more,
  )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted search of an algorithm: its outcome, the records a call of `keep`, and what it told `advance`."""

  @functools.cache
  def run(algorithm):
    kept, told = [], Counted()
    context = context_of(algorithm, tmp_path_factory.mktemp("whole"), keep=lambda *r: kept.append(r), advance=told)
    return algorithm.search(context, 3), kept, told

  return run


def timeless(value):
  """Without what clocks say."""
  if isinstance(value, dict):
    return {k: timeless(v) for k, v in value.items() if "seconds" not in k}
  if isinstance(value, list | tuple):
    return [timeless(v) for v in value]
  return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def told_by(outcome):
  return repr(timeless([dict(row) for row in outcome.rows])), repr(timeless(dict(outcome.record)))


@every
def test_says_what_it_is(algorithm):
  assert isinstance(algorithm, Algorithm) and algorithm.summary and "\n" not in algorithm.summary
  assert settings_of(algorithm) == settings_of(algorithm) and hash(settings_of(algorithm)) == hash(
    settings_of(algorithm)
  )
  assert set(algorithm.requires) <= {base.Prunable, base.Differentiable, base.Tapped, base.Trainable, base.Indexed}
  work = algorithm.work(context_of(algorithm))
  assert work.amount > 0 and work.unit


@every
def test_settings_out_of_range_are_refused_by_name(algorithm, unchecked):
  for path in integers(settings_of(algorithm)):
    with pytest.raises(ConfigError, match=path[-1]) as error:
      algorithm.work(dataclasses.replace(context_of(algorithm), settings=changed(settings_of(algorithm), path, -7)))
    assert "\n" not in str(error.value)


def integers(settings, path=()):
  """Paths of all integers in a configuration."""
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if dataclasses.is_dataclass(value):
      yield from integers(value, (*path, field.name))
    elif type(value) is int:
      yield (*path, field.name)


def changed(settings, path, value):
  first, *rest = path
  return dataclasses.replace(settings, **{first: changed(getattr(settings, first), rest, value) if rest else value})


@each
def test_the_outcome_can_be_shown(algorithm, whole, tmp_path):
  outcome, _, told = whole(algorithm)
  space = space_of(algorithm)
  assert isinstance(outcome, Outcome) and outcome.rows
  for row in outcome.rows:
    assert "arch" not in row or space.parse(row["arch"]) is not None
    assert all(isinstance(column, Column) and column.key in row for column in outcome.columns)
  assert sum(told) == algorithm.work(context_of(algorithm)).amount and told.earlier == 0
  names = [artefact.file for artefact in outcome.artefacts]
  assert len(set(names)) == len(names)
  for artefact in outcome.artefacts:
    assert isinstance(artefact, Artefact) and artefact.caption
    artefact.draw(tmp_path / artefact.file)
    if artefact.file.endswith(".png"):
      assert min(png_size(tmp_path / artefact.file)) > 50
    assert (tmp_path / artefact.file).stat().st_size > 0


@each
def test_killed_at_every_record_it_ends_the_same(algorithm, whole, tmp_path):
  outcome, kept, _ = whole(algorithm)
  expected = told_by(outcome)
  for stop in range(len(kept) + 1):
    folder = tmp_path / str(stop)
    folder.mkdir()
    records, told = [], Counted()

    def keep(*new, records=records, stop=stop):
      if stop == 0:
        raise InterruptedError
      records.extend(new)
      if len(records) >= sum(map(len, kept[:stop])):
        raise InterruptedError

    if stop < len(kept):
      with pytest.raises(InterruptedError):
        algorithm.search(context_of(algorithm, folder, keep=keep), 3)
    else:
      records = [record for call in kept for record in call]
    again = algorithm.search(context_of(algorithm, folder, records=tuple(records), advance=told), 3)
    assert told_by(again) == expected
    assert sum(told) == algorithm.work(context_of(algorithm)).amount


@each
def test_the_same_seed_gives_the_same(algorithm, whole):
  """Also without a folder, and where nobody keeps records."""
  assert told_by(algorithm.search(context_of(algorithm), 3)) == told_by(whole(algorithm)[0])


@each
def test_without_a_benchmark_it_ends_the_same_or_says_what_it_needs(algorithm, whole):
  context = dataclasses.replace(context_of(algorithm), benchmark=None)
  try:
    algorithm.work(context)
  except ConfigError as error:
    assert "--benchmark" in str(error)  # noqa: PT017
  else:
    assert told_by(algorithm.search(context, 3)) == told_by(whole(algorithm)[0])

"""Tables of scores: order, sharing, repeats, resuming, failures; and what the engine does when memory is short."""

import dataclasses
import functools
import json
import zlib
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.tiny import spaces_of
from helpers import Counted

from jaxnas import proxies, scoring, spaces
from jaxnas.base import Output, Proxy, Status
from jaxnas.errors import ArchitectureError, ConfigError, WorkdirError
from jaxnas.proxies.evaluation import mean_loss
from jaxnas.proxies.ntk_condition_number import NTKConditionNumber
from jaxnas.scoring import Batch, Engine, Score, summarise
from jaxnas.spaces.nb201 import NB201

SPACE = spaces.get("nb201")
ARCHS = SPACE.sample(jax.random.key(1), 8)
TEXTS = [SPACE.format(a) for a in ARCHS]
BATCH = Batch(np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32), np.arange(6, dtype=np.int32) % 3)


@dataclasses.dataclass(frozen=True)
class Toy:
  """Two layers as a network of single architectures: every operation turns the inputs its own way. Compiles at once."""

  width: int = 16
  classes: int = 3
  rows_on_cpu: ClassVar[int] = 8

  def encode(self, codes):
    return SPACE.alphas(codes)

  def init(self, key):
    mix, out = jax.random.split(key)
    return {
      "mix": {"kernel": jax.random.normal(mix, (30, 48, self.width))},
      "out": {"kernel": jax.random.normal(out, (self.width, 3))},
    }

  def start(self, params, arch):
    return params

  def embed(self, params, inputs):
    return inputs

  def apply(self, params, inputs, arch, mode="batch", *, stats=None, gates=None, collect=(), rows=False):
    kernel = jnp.tensordot(arch.ravel(), params["mix"]["kernel"], 1)
    logits = jnp.tanh(inputs.reshape(len(inputs), -1) @ kernel / 10) @ params["out"]["kernel"]
    return Output(logits, stats=())

  def executed(self, arch):
    raise NotImplementedError

  used_channels = by_layer = gates = costs = executed


NETWORK = Toy()


@dataclasses.dataclass(frozen=True)
class Measured(Proxy):
  """A proxy of one function."""

  name: str
  function: Callable
  worst: ClassVar[float] = -1.0

  def measure(self, evaluation):
    return self.function(evaluation)


class Labelled(Measured):
  needs_labels: ClassVar[bool] = True


ENERGY = Measured("energy", lambda e: jnp.square(e.logits(e.params, "batch")).mean())
LOSS = Labelled("loss", lambda e: mean_loss(e, e.params, "batch"))
# A number where edge 1<-0 is not `none`.
FRAGILE = Measured("fragile", lambda e: jnp.where(e.arch[0, 0, 0] > 0, jnp.nan, e.arch[0, 1, 3] + 1))
KERNEL = NTKConditionNumber(batch_norm="batch_frozen")


@functools.cache
def engine():
  """Shared by the tests that need nothing of its own, so that each program compiles once."""
  return Engine(block=3)


def run(names=(ENERGY, LOSS), archs=ARCHS, batches=BATCH, seed=0, **given):
  return scoring.score(list(names), SPACE, archs, batches, seed, **{"network": NETWORK, "engine": engine(), **given})


def timeless(lines):
  return [line._replace(seconds=0.0) for line in lines]


@functools.cache
def reference():
  """Of ENERGY and LOSS for ARCHS."""
  return run()


# The table


def test_columns_and_order():
  assert Score._fields == ("arch", "proxy", "value", "status", "rank_by", "seed", "repeat", "seconds")
  lines = run(repeats=2, seed=5)
  wanted = [(text, proxy, repeat) for repeat in range(2) for text in TEXTS for proxy in ("energy", "loss")]
  assert [(line.arch, line.proxy, line.repeat) for line in lines] == wanted
  assert {(line.seed, line.status) for line in lines} == {(5, "ok")}
  assert all(line.rank_by == line.value and line.seconds > 0 for line in lines)


def test_values_are_those_of_the_network_alone():
  """Weights from the first of three keys of the seed's and repeat's key, the batch as given."""
  key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[0]
  params = NETWORK.init(key)
  for arch, line in zip(ARCHS, reference()[::2], strict=True):
    logits = NETWORK.apply(params, BATCH.inputs, jnp.asarray(SPACE.alphas(arch))).logits
    np.testing.assert_allclose(line.value, np.square(logits).mean(), rtol=1e-5)
  assert len({line.value for line in reference()[::2]}) == len(ARCHS)


def test_one_compilation_for_many_architectures():
  own = Engine(block=3)
  for archs in (ARCHS, ARCHS[:1], SPACE.sample(jax.random.key(2), 20)):
    run(archs=archs, engine=own, seed=len(archs))
    assert len(own._programs) == 1
  compiling = own.seconds.compile
  run(engine=own, repeats=2)
  assert own.seconds.compile == compiling > 0
  run((ENERGY,), engine=own)
  assert len(own._programs) == 2


@pytest.mark.parametrize("block", [1, 5, 20])
def test_block_size_does_not_change_scores(block):
  assert timeless(run(engine=Engine(block))) == timeless(reference())


def test_company_and_order_do_not_change_scores():
  by_text = {(line.arch, line.proxy): line for line in timeless(reference())}
  for picked in ([6, 1, 3], [7], [2, 2, 0, 2, 5]):
    lines = timeless(run(archs=ARCHS[picked]))
    assert lines == [by_text[TEXTS[i], name] for i in picked for name in ("energy", "loss")]


def test_architectures_in_any_form():
  as_index = [SPACE.index_of(a) for a in ARCHS]
  mixed = [TEXTS[0], *as_index[1:5], *TEXTS[5:]]
  for archs in (TEXTS, as_index, mixed):
    assert timeless(run(archs=archs)) == timeless(reference())
  (line,) = run((ENERGY,), archs=TEXTS[4])
  assert line._replace(seconds=0.0) == timeless(reference())[8]


def test_seeds_and_repeats_differ_and_draw_their_own_batch():
  drawn = []

  def batches(repeat, key):
    drawn.append((repeat, jax.random.key_data(key).tolist()))
    return BATCH._replace(inputs=BATCH.inputs * (1 + repeat))

  lines = run((ENERGY,), batches=batches, repeats=2)
  assert [repeat for repeat, _ in drawn] == [0, 1]
  assert drawn[0][1] != drawn[1][1]
  first, second = np.split(np.array([line.value for line in lines]), 2)
  np.testing.assert_array_equal(first, [line.value for line in reference()[::2]])
  assert (first != second).all()
  other = run((ENERGY,), seed=1)
  assert all(a.value != b for a, b in zip(other, first, strict=True))


def test_proxies_together_are_proxies_alone():
  """Same programs' results to rounding, whatever they share."""
  for proxy, own in ((ENERGY, reference()[::2]), (LOSS, reference()[1::2])):
    alone = [line.value for line in run((proxy,))]
    np.testing.assert_allclose(alone, [line.value for line in own], rtol=1e-6)


class Shaped(NB201):
  """A space of two shapes: those of an even and of an odd first operation; its networks are `Toy`s of two widths."""

  def shape(self, code):
    return int(code[0]) % 2

  def network(self, config):
    return Toy(16 + config.shape)


def test_architectures_of_a_shape_share_a_program_and_weights():
  own = Engine(block=3)
  lines = scoring.score([ENERGY, LOSS], Shaped(), ARCHS, BATCH, engine=own)
  assert [(line.arch, line.proxy) for line in lines] == [(t, p) for t in TEXTS for p in ("energy", "loss")]
  assert len(own._programs) == 2
  for shape in (0, 1):
    part = [i for i, arch in enumerate(ARCHS) if arch[0] % 2 == shape]
    assert part
    alone = timeless(run(archs=ARCHS[part], network=Toy(16 + shape)))
    assert [line for i in part for line in timeless(lines)[2 * i : 2 * i + 2]] == alone


@pytest.mark.parametrize("name", spaces_of(spaces.names()))
def test_every_space_has_a_default_network(name):
  space = spaces.get(name)
  archs = space.sample(jax.random.key(0), 2)
  given = [proxies.get("params")], space, archs, Batch(np.zeros((2, 32, 32, 3), np.float32))
  lines = scoring.score(*given)
  assert [line.arch for line in lines] == [space.format(arch) for arch in archs]
  for line, arch in zip(lines, archs, strict=True):
    network = space.network(dataclasses.replace(space.default_config, shape=space.shape(arch)))
    (alone,) = scoring.score(given[0], space, arch[None], given[3], network=network)
    assert line.value == alone.value > 2560


# Weights


def test_own_weights_do_not_depend_on_company():
  lines = run(share_weights=False)
  few = run(archs=ARCHS[[5, 2]], share_weights=False, engine=Engine(1))
  by_text = {(line.arch, line.proxy): line.value for line in lines}
  assert [line.value for line in few] == [by_text[line.arch, line.proxy] for line in few]
  assert all(a.value != b.value for a, b in zip(lines, reference(), strict=True))


def test_own_weights_differ_between_architectures():
  """A score of the weights alone is the same for all that share them, and everyone's own otherwise."""
  weights = Measured("weights", lambda e: e.params["out"]["kernel"].sum())
  assert len({line.value for line in run((weights,))}) == 1
  found = [line.value for line in run((weights,), share_weights=False)]
  assert len(set(found)) == len(ARCHS)
  key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[0]
  params = NETWORK.init(jax.random.fold_in(key, zlib.crc32(SPACE.format(ARCHS[6]).encode())))
  np.testing.assert_allclose(found[6], params["out"]["kernel"].sum(), rtol=1e-5)


# Resuming


@pytest.mark.parametrize("share", [True, False])
def test_resumes_from_a_truncated_file(share):
  kept, done = [], Counted()
  given = {"repeats": 2, "share_weights": share}
  whole = run(keep=lambda *records: kept.extend(records), advance=done, **given)
  assert sum(done) == 2 * len(ARCHS)
  assert len(kept) == len(whole)
  assert {r["kind"] for r in kept} == {"score"}
  read = json.loads(json.dumps(kept))
  for cut in (0, 5, 16, 21, len(kept)):  # 5 and 21: in the middle of an architecture's two proxies
    again, done = [], Counted()
    foreign = [{"kind": "note"}, {**read[0], "seed": 9, "value": -1.0}, {"kind": "knas"}]
    lines = run(records=[*foreign, *read[:cut]], keep=lambda *r, a=again: a.extend(r), advance=done, **given)
    assert timeless(lines) == timeless(whole)
    assert lines[: cut // 2 * 2] == whole[: cut // 2 * 2]
    assert [(r["arch"], r["proxy"], r["repeat"]) for r in again] == [
      (r["arch"], r["proxy"], r["repeat"]) for r in kept[cut:]
    ]
    assert sum(done) == 2 * len(ARCHS)
    assert done.earlier == cut // 2  # whole architectures


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    ({"value": "abc"}, "line 2 .*holds 'abc' as value, where a record of kind 'score' has a number; delete that line"),
    ({"value": True}, "line 2 .*holds 'True' as value"),
    ({"seed": None}, "line 2 .*holds 'None' as seed"),
    ({"repeat": 1.5}, "line 2 .*holds '1.5' as repeat"),
    ({"status": "fine"}, "line 2 .*holds 'fine' as status, .*one of ok, saturated"),
    ("seed", "line 2 of scores.jsonl has no seed"),
    ("rank_by", "has no rank_by"),
  ],
)
def test_damaged_records_are_refused(damage, message):
  kept = []
  run(keep=lambda *records: kept.extend(records))
  wrong = {**kept[1], **damage} if isinstance(damage, dict) else {k: v for k, v in kept[1].items() if k != damage}
  with pytest.raises(WorkdirError, match=message):
    run(records=[kept[0], wrong])


def test_finished_architectures_are_not_measured_again(monkeypatch):
  kept, seen = [], []
  run(keep=lambda *records: kept.extend(records))
  own = Engine(block=2)
  measure = own.blocks
  monkeypatch.setattr(own, "blocks", lambda *args, **kwargs: seen.append(len(args[3])) or measure(*args, **kwargs))
  run(records=kept, engine=own)
  assert seen == []
  run(records=kept[:7], engine=own)  # three architectures and a half
  assert seen == [5]


# Failures


def test_failed_architectures_stay_and_rank_last():
  archs = np.array([[0, 3, 0, 0, 0, 3], [1, 3, 0, 1, 0, 0], [2, 0, 0, 1, 0, 0], [0, 1, 0, 3, 0, 1]])
  kept = []
  lines = run((FRAGILE, ENERGY), archs=archs, keep=lambda *records: kept.extend(records))
  fragile, energy = lines[::2], lines[1::2]
  assert [line.status for line in fragile] == ["non_finite", "ok", "ok", "non_finite"]
  assert np.isnan([fragile[0].value, fragile[3].value]).all()
  assert [line.rank_by for line in fragile] == [-1.0, 2.0, 1.0, -1.0]
  assert all(line.status == "ok" and np.isfinite(line.value) for line in energy)
  again = run((FRAGILE, ENERGY), archs=archs, records=json.loads(json.dumps(kept)))
  assert [line.rank_by for line in again] == [line.rank_by for line in lines]
  summary = summarise([*lines, lines[0]._replace(value=5.0, status=Status.SINGULAR)])
  assert summary[lines[0].arch, "fragile"].values == 0
  assert np.isnan(summary[lines[0].arch, "fragile"].mean)


LABELS = np.arange(6, dtype=np.int32) % 3


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (LABELS + 100, r"labels\[0\] = 100: the network has 3 classes, numbered from 0"),
    (LABELS + 1, r"labels\[2\] = 3: .*shift"),
    (LABELS - 1, r"labels\[0\] = -1"),
    (np.eye(3)[LABELS].astype(np.int32), r"labels of shape \(6, 3\).*argmax"),
    (LABELS[:5], r"labels of shape \(5,\) for inputs of shape \(6, 4, 4, 3\)"),
    (np.zeros((), np.int32), r"labels of shape \(\)"),
    (LABELS.astype(np.float32), "labels of type float32.*integers"),
    (np.array(["cat"] * 6), "labels of type <U3"),
  ],
)
def test_labels_that_are_no_classes(labels, message):
  with pytest.raises(ConfigError, match=message):
    run(batches=Batch(BATCH.inputs, labels))


@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS.astype(np.int64), LABELS.tolist()], ids=type)
def test_labels_of_any_integers(labels):
  assert timeless(run(batches=Batch(BATCH.inputs, labels))) == timeless(run())


def test_labels_missing():
  unlabelled = Batch(BATCH.inputs)
  assert len(run((ENERGY,), batches=unlabelled)) == len(ARCHS)
  with pytest.raises(ConfigError, match=r"proxy 'loss' needs labels.*Batch\(inputs, labels\)"):
    run(batches=unlabelled)


@pytest.mark.parametrize(
  "archs",
  [
    "|skip~0|",
    ["|nor_conv_7x7~0|+|none~0|none~1|+|none~0|none~1|none~2|"],
    [15625],
    np.zeros((2, 14), int),
    np.full((2, 6), 5),
    np.zeros((2, 6)),
    np.zeros((0, 6), int),
    [],
  ],
  ids=str,
)
def test_architectures_of_another_space(archs):
  with pytest.raises(ArchitectureError):
    run(archs=archs)


def test_bad_arguments():
  with pytest.raises(ConfigError, match=r"\['energy', 'energy'\].*each name once"):
    run((ENERGY, Measured("energy", LOSS.function)))
  with pytest.raises(ConfigError, match="at least one"):
    run(())
  with pytest.raises(ConfigError, match="repeats=0"):
    run(repeats=0)


# Summaries


def test_summary_is_mean_and_standard_error():
  lines = [*run(repeats=3), *run(seed=1)]
  found = summarise(lines)
  assert len(found) == 2 * len(ARCHS)
  for (arch, proxy), summary in found.items():
    values = [line.value for line in lines if (line.arch, line.proxy) == (arch, proxy)]
    assert summary.values == len(values) == 4
    np.testing.assert_allclose(summary.mean, np.mean(values), rtol=1e-12)
    np.testing.assert_allclose(summary.error, np.std(values, ddof=1) / 2, rtol=1e-12)
  single = summarise(reference())[TEXTS[0], "energy"]
  assert (single.mean, single.values) == (reference()[0].value, 1)
  assert np.isnan(single.error)


# Memory


def kernels(own):
  return np.array(own.measure([KERNEL], NETWORK, NETWORK.init(jax.random.key(0)), alphas(), BATCH)[0])


def alphas():
  return SPACE.alphas(ARCHS[:3])


def test_little_memory_lowers_the_rows_and_not_the_numbers(caplog):
  free, poor = Engine(), Engine(memory=1)
  wanted, found = kernels(free), kernels(poor)
  assert free.rows is None
  assert poor.rows == 1
  assert wanted.shape == (3, 6, 6)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
  assert [r.args[0] for r in caplog.records if "little memory" in r.getMessage()] == [8, 1]
  again = len(poor._programs)
  kernels(poor)
  assert len(poor._programs) == again


def test_rows_stay_where_fewer_do_not_help():
  """A proxy of one pass takes what it takes: it is not compiled for every number of rows."""
  own, params = Engine(memory=1), NETWORK.init(jax.random.key(0))
  found, wanted = (e.measure([ENERGY], NETWORK, params, alphas(), BATCH)[0] for e in (own, engine()))
  assert own.rows is None and len(own._programs) == 3
  np.testing.assert_array_equal(found, wanted)


def test_compilations_are_told():
  told = []
  own = Engine(note=told.append)
  kernels(own)
  kernels(own)
  assert told == ["compiling", ""]


class Refusing:
  """A program that the device refuses once; `calls` lists the block of architectures of every call."""

  def __init__(self, program, error, calls):
    self.program, self.error, self.calls = program, error, calls

  def __call__(self, *args):
    self.calls.append(np.asarray(args[1]).tobytes())
    if len(self.calls) == 1:
      raise jax.errors.JaxRuntimeError(self.error)
    return self.program(*args)


def refused(monkeypatch, error, rows):
  own, calls = Engine(streams=1), []
  own.rows = rows
  program = own._program
  monkeypatch.setattr(own, "_program", lambda *args: Refusing(program(*args), error, calls))
  return own, calls


def test_a_refused_program_is_tried_again_with_half_the_rows(monkeypatch):
  own, calls = refused(monkeypatch, "RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes", 4)
  found = kernels(own)
  assert own.rows == 2
  assert (len(calls), calls.count(calls[0])) == (4, 2)  # three architectures, the first of them twice
  wanted = kernels(Engine())
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("error", "rows"), [("INTERNAL: broken", 4), ("RESOURCE_EXHAUSTED: full", 1)])
def test_other_errors_and_the_last_row_are_the_callers(monkeypatch, error, rows):
  own, calls = refused(monkeypatch, error, rows)
  with pytest.raises(jax.errors.JaxRuntimeError, match=error):
    kernels(own)
  assert (own.rows, calls.count(calls[0])) == (rows, 1)  # not again; the block behind it may have begun

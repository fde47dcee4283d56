"""The DARTS space as an object, TE-NAS on it, NAS-Bench-301's table, the drawing of its cells."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Counted, png_size

from jaxnas import algorithms, data, setting_flags, spaces, tabular
from jaxnas.algorithms import tenas_plots
from jaxnas.algorithms.tenas import TENAS, TENASConfig
from jaxnas.base import Context, NetworkConfig, Outcome, Output
from jaxnas.errors import ArchitectureError, BenchmarkError, ConfigError
from jaxnas.proxies.indicators import IndicatorConfig
from jaxnas.scoring import Engine
from jaxnas.settings import filled
from jaxnas.spaces.darts import DARTS, drawing, encoding, genotypes

SPACE = spaces.get("darts")
V2 = genotypes.get("DARTS_V2")


@dataclasses.dataclass(frozen=True)
class Stand:
  """A small network in the place of the supernet: every (cell, edge, op) is a linear map to four units."""

  pixels: int
  classes: int = 3
  rows_on_cpu = 4

  def encode(self, codes):
    return encoding.alphas(codes)

  def start(self, params, arch):
    return params

  def embed(self, params, inputs):
    return inputs

  def init(self, key):
    return {
      "mix": {"kernel": jax.random.normal(key, (2, 14, 8, self.pixels, 4))},
      "classifier": {"kernel": jax.random.normal(jax.random.fold_in(key, 1), (4, 3))},
    }

  def units(self, params, images, alphas):
    flat = images.reshape(len(images), -1)[:, : self.pixels]
    return jnp.einsum("np,ceopu,ceo->nu", flat, params["mix"]["kernel"], alphas)

  def apply(self, params, inputs, arch, mode="batch", *, stats=None, gates=None, collect=(), rows=False):
    units = self.units(params, inputs, arch)
    return Output(jax.nn.relu(units) @ params["classifier"]["kernel"], stats={}, patterns=units > 0)


@dataclasses.dataclass(frozen=True)
class StandIn(DARTS):
  """The DARTS space with small networks."""

  def supernet(self, config) -> Any:
    return Stand(16)

  def region_network(self, config) -> Any:
    return Stand(9)


@pytest.fixture(scope="module")
def engine():
  return Engine()


@pytest.fixture(scope="module")
def found(engine):
  """A search: its context, its records, how much it said it did, and its result."""
  own = {IndicatorConfig: IndicatorConfig(ntk_batch=4, region_batches=1, region_samples=20)}
  context = Context(StandIn(), data.load(), TENASConfig(repeats=2), engine=engine, proxy_settings=own)
  records, done = [], Counted()
  outcome = TENAS().search(dataclasses.replace(context, keep=records.append, advance=done), 1)
  return context, records, sum(done), outcome.found


# The space.


def test_the_space_is_found_by_name():
  assert spaces.get("darts") == SPACE and "darts" in spaces.names()
  with pytest.raises(ConfigError, match="nb201, nb101, darts"):
    spaces.get("nds")


def test_the_space_speaks_of_architectures_as_all_do():
  archs = SPACE.sample(jax.random.key(0), 5)
  weights = SPACE.alphas(archs)
  assert weights.shape == (5, SPACE.cell_types, len(SPACE.edges), len(SPACE.ops))
  np.testing.assert_array_equal(SPACE.from_weights(weights), archs)
  np.testing.assert_array_equal(SPACE.parse(SPACE.format(V2)), V2)
  np.testing.assert_array_equal(SPACE.parse("darts_v2"), V2)
  assert SPACE.is_connected(V2) is True
  assert SPACE.costs(V2).params == 3_349_342
  assert len(SPACE) == encoding.NUM_ARCHS
  with pytest.raises(ArchitectureError, match="none~1.*text form"):
    SPACE.parse("|none~0|+|none~0|none~1|")


def test_resampling_mutates_as_often_as_asked():
  def distance(other):
    return int((SPACE.alphas(V2) != SPACE.alphas(other)).any(-1).sum())

  one, many = SPACE.resample(jax.random.key(1), V2), SPACE.resample(jax.random.key(1), V2, 8.0)
  assert 1 <= distance(one) <= 2 < distance(many)
  np.testing.assert_array_equal(SPACE.resample(jax.random.key(1), V2, 0.2), one)


def test_edge_groups_are_the_edges_into_a_node():
  assert SPACE.edge_groups == ((0, 1), (2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12, 13))
  assert spaces.get("nb201").edge_groups == ()
  assert [SPACE.ops[o] for o in SPACE.op_order] == list(encoding.TENAS_OPS)


@pytest.mark.parametrize(
  ("cells", "reductions"), [(1, ()), (2, (1,)), (3, (1, 2)), (4, (2,)), (5, (2, 4)), (6, (2, 4)), (9, (3, 6))]
)
def test_layout_of_the_supernet(cells, reductions):
  """[C] * N, a reduction to 2 C, [2 C] * (N - 1), a reduction to 4 C, [4 C] * (N - 1), cut to the depth."""
  network = SPACE.supernet(NetworkConfig(4, cells, init="kaiming_fan_out"))
  assert (network.config.size, network.reductions) == ((4, cells), reductions)
  assert (network.stem, network.stem_multiplier) == (True, 1)


def test_networks_of_the_published_searches():
  regions = SPACE.region_network(NetworkConfig(init="kaiming_fan_in"))
  assert (regions.config.size, regions.reductions, regions.stem) == ((1, 2), (1,), False)
  mixture = SPACE.mixture(NetworkConfig(init="kaiming_fan_out"))
  assert (mixture.config.size, mixture.reductions, mixture.stem_multiplier) == ((16, 8), (2, 5), 3)
  single = SPACE.network(NetworkConfig(classes=100))
  assert (single.config.size, single.classes, single.genotype) == ((16, 8), 100, None)


# TE-NAS.


def test_settings_are_those_published_for_the_space():
  given, source = IndicatorConfig(ntk_cells=3), data.load()
  for space, wanted in ((SPACE, (14, 1, 3)), (spaces.get("nb201"), (72, 3, 1))):
    own = given.published(space, source)
    assert (own.ntk_batch, own.ntk_channels, own.ntk_cells) == (*wanted[:2], 3)
    assert filled(TENASConfig(), space.published("tenas", "cifar10")).prune_number == wanted[2]
    assert own.published(space, source) == own
  with pytest.raises(ConfigError, match="--ntk_batch.*nb101"):
    given.published(spaces.get("nb101"), source)


@pytest.mark.parametrize(("prune_number", "total"), [(None, 197 + 113 + 30), (2, 197 + 141 + 85 + 30), (6, 197 + 30)])
def test_supernets_of_a_search(prune_number, total):
  """Candidates of spec table 8, each round and group with its parent."""
  for repeats in (1, 3):
    work = TENAS().work(Context(SPACE, data.load(), TENASConfig(repeats=repeats, prune_number=prune_number)))
    assert work == (repeats * total, "supernets")


def test_a_search_ends_in_a_genotype(found):
  context, records, done, result = found
  assert done == TENAS().work(context).amount
  assert [len(h["candidates"]) for h in result.history] == [196, 112, 3, 4, 5, 3, 4, 5]
  assert [h["round"] for h in result.history] == [1, 2, 3, 4, 5, 6, 7, 8]
  assert [h.get("group") for h in result.history[:3]] == [None, None, {"cell": 0, "edges": [2, 3, 4]}]
  assert len(records) == 16
  gone = np.zeros((2, 14, 8), bool)
  for entry in result.history:
    gone[tuple(np.transpose(entry["pruned"]))] = True
  gone[..., encoding.NONE] = True
  np.testing.assert_array_equal(~gone, SPACE.alphas(result.arch) > 0)
  json.dumps(result.history)


def test_a_search_resumes_within_the_groups(found):
  context, records, _, result = found
  kept = []
  again = TENAS().search(dataclasses.replace(context, records=records[:9], keep=kept.append), 1).found
  assert kept == records[9:]
  assert again.history == result.history
  np.testing.assert_array_equal(again.arch, result.arch)


def test_in_groups_the_code_compares_kernels_with_the_supernet_before_all_groups(found, engine):
  """The quirk: all of a cell's groups have the same parent there, whose regions are those of the current one."""
  context, _, _, _ = found
  parents = {}

  class Watching(Engine):
    def score(self, proxies, network, params, alphas, batch, **more):
      parents.setdefault(proxies[0].name, []).append(int((alphas[0] > 0).any(-1).sum()))
      return engine.score(proxies, network, params, alphas, batch, **more)

    def measure(self, *args, **more):
      return engine.measure(*args, **more)

  for variant, kernels in (("stable", [28, 27, 25, 22, 21, 19]), ("code", [28] * 6)):
    parents.clear()
    settings = TENASConfig(variant=variant, repeats=1)
    TENAS().search(dataclasses.replace(context, settings=settings, engine=Watching()), 1)
    assert parents["linear_regions"] == [28, 28, 28, 27, 25, 22, 21, 19]
    assert parents["supernet_condition_number"] == [28, 28, *kernels]


def test_the_history_of_groups_is_drawn(found, tmp_path):
  names = [f"{target}←{source}" for target, source in SPACE.edges]
  file = tenas_plots.plot_pruning_history(
    found[3].history, tmp_path / "h.png", edge_names=names, op_names=SPACE.ops, cell_names=SPACE.cell_names
  )
  assert min(png_size(file)) > 900


# The command line.


def test_commas_in_a_genotype_do_not_separate_architectures():
  text = SPACE.format(V2)
  first, genotype, last = setting_flags._whole(["random:3", *text.split(","), "DARTS_V1"])
  assert (first, last) == ("random:3", "DARTS_V1")
  np.testing.assert_array_equal(SPACE.parse(genotype), V2)


@pytest.mark.parametrize(("name", "algorithm"), [("nb101", "nasi"), ("nb101", "train"), ("nb101", "tenas")])
def test_spaces_that_an_algorithm_does_not_search(name, algorithm):
  from jaxnas import run

  with pytest.raises(ConfigError, match=f"--algorithm={algorithm} does not search --space={name}.*score"):
    run.refuse_space(algorithms.get(algorithm), spaces.get(name))
  run.refuse_space(algorithms.get("tenas"), SPACE)


# NAS-Bench-301's table.


def cell(normal="sep_conv_3x3", source=0, accuracy: Any = 93.5):
  normal_cell, reduce_cell = (list(map(list, pairs)) for pairs in SPACE.to_cells(V2))
  normal_cell[0] = [normal, source]
  return {"normal": normal_cell, "reduce": reduce_cell, "val_accuracy": accuracy}


def written(path, *entries):
  path.write_text(json.dumps({"archs": list(entries)}))
  return path


def test_published_table(shared):
  table = tabular.open_benchmark(shared / "data" / "darts_nb301.json", SPACE)
  entries = json.loads((shared / "data" / "darts_nb301.json").read_text())["archs"]
  assert (table.datasets, table.split, len(table.archs)) == (("cifar10",), "valid", 363)
  np.testing.assert_array_equal(table.accuracies("cifar10"), [entry["val_accuracy"] for entry in entries])
  best = int(np.argmax(table.accuracies("cifar10")))
  assert table.rank(table.archs[best], "cifar10") == (1, 363)
  assert table.accuracy(table.archs[7], "cifar10") == entries[7]["val_accuracy"]
  with pytest.raises(ArchitectureError, match="not among the 363"):
    table.index(SPACE.format(V2))
  with pytest.raises(ConfigError, match="split 'test'"):
    table.accuracy(0, "cifar10", "test")


def test_a_cell_is_found_under_another_numbering(tmp_path):
  """Nodes 2 and 3 read only the inputs, so they may change places."""
  table = tabular.open_benchmark(written(tmp_path / "t.json", cell("dil_conv_5x5")), SPACE)
  swapped = cell("dil_conv_5x5")
  swapped["normal"] = [*swapped["normal"][2:4], *swapped["normal"][:2], *swapped["normal"][4:7], ["dil_conv_3x3", 3]]
  assert table.index(SPACE.format(SPACE.from_nb301(swapped))) == 0


@pytest.mark.parametrize(
  ("second", "message"),
  [
    (cell("conv_7x7"), r"archs\[1\] is no cell of --space=darts: .*normal\[0\].*conv_7x7"),
    (cell(source=2), r"archs\[1\] .*normal\[0\].*source 2"),
    (cell("skip_connect"), r"archs\[1\] is the same cell as archs\[0\]"),
    (cell(accuracy=101), r"archs\[1\] has the val_accuracy '101'"),
    (cell(accuracy="high"), r"archs\[1\] has the val_accuracy 'high'"),
    ({"normal": [], "reduce": []}, r"archs\[1\] lacks val_accuracy"),
  ],
)
def test_tables_that_are_wrong(tmp_path, second, message):
  path = written(tmp_path / "t.json", cell("skip_connect"), second)
  with pytest.raises(BenchmarkError, match=message) as caught:
    tabular.open_benchmark(path, SPACE)
  assert str(caught.value).startswith(f"--benchmark={path}: ") and "\n" not in str(caught.value)


def test_tables_of_fractions_and_of_other_spaces(tmp_path, shared):
  with pytest.raises(BenchmarkError, match="holds fractions"):
    tabular.open_benchmark(written(tmp_path / "t.json", cell(accuracy=0.93)), SPACE)
  with pytest.raises(BenchmarkError, match="lacks normal, reduce, val_accuracy"):
    tabular.open_benchmark(shared / "data" / "nasbench101_20.json", SPACE)
  with pytest.raises(BenchmarkError, match="not JSON"):
    tabular.open_benchmark(shared / "data" / "nasbench201.csv.gz", SPACE)


# The drawing.


def test_tables_show_the_network_of_the_data_set():
  """Published parameters of DARTS_V2: 3.349 M on CIFAR-10, 4.719 M in the mobile setting of ImageNet at 224 pixels."""

  def costs_on(name, classes, side):
    source = data.ImageSource(name, classes, (side, side, 3), 1, np.zeros(3), np.ones(3), read=lambda indices: None)
    return SPACE.costs_on(V2, source)

  cifar, imagenet = costs_on("cifar10", 10, 32), costs_on("imagenet2012", 1000, 32)
  assert (cifar.params, imagenet.params) == (3_349_342, 4_718_752)
  assert cifar == SPACE.costs(V2) and imagenet.macs == pytest.approx(529.9e6, rel=1e-3)
  small = costs_on("imagenet16_120", 120, 16)
  assert small == SPACE.costs(V2, NetworkConfig(36, 20, 120), 16) and small.params > cifar.params


def test_cells_are_drawn(tmp_path):
  normal, reduction = SPACE.to_cells(V2)
  one = drawing.draw_genotype_cell(normal, tmp_path / "1.png", title="normal")
  assert min(png_size(one)) > 700
  again = drawing.draw_genotype_cell(normal, tmp_path / "2.png", title="normal")
  assert one.read_bytes() == again.read_bytes()
  other = drawing.draw_genotype_cell(reduction, tmp_path / "3.png", title="normal")
  assert one.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("pairs", [[], [("skip_connect", 0)], [("skip_connect", 0), ("skip_connect", 2)]])
def test_what_is_no_cell_is_not_drawn(tmp_path, pairs):
  with pytest.raises(ArchitectureError, match="pairs"):
    drawing.draw_genotype_cell(pairs, tmp_path / "c.png")


def test_genotypes_stand_below_the_terminal_s_table():
  from jaxnas.report import summary

  text = SPACE.format(V2)
  times = summary.Times(1.0, 0.0, 0.0)
  outcomes = (Outcome([{"arch": text}]), Outcome([{"arch": text}]))
  lines = summary.Finished(SPACE, data.load("synthetic"), None, {}, (0, 1), outcomes, times).text().splitlines()
  assert lines.count(f"[1] {text}") == 1
  assert sum(line.startswith("   0  [1]") or line.startswith("   1  [1]") for line in lines) == 2
  assert "3.349" in lines[3]

"""GenNAS on Network Design Spaces: a network a shape, heads of taps with fewer channels, searches among a table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import jaxnas
from nds_cases import ENAS, RESNEXT

from jaxnas import data, scoring, spaces
from jaxnas.base import Context, NetworkConfig, TappedNetwork
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.evolution import EvolutionConfig
from jaxnas.gennas.heads import SignalNetwork, signal_network
from jaxnas.gennas.proxy import RegressionConfig, SignalConfig, SignalRegression
from jaxnas.gennas.regression import WIDTHS, Training, pose, regress
from jaxnas.gennas.search import GenNAS, GenNASConfig, table_of
from jaxnas.gennas.task_search import GenNASTask, GenNASTaskConfig
from jaxnas.scoring import Engine
from jaxnas.spaces.nds.blocks import encoding as blocks

SOURCE = data.load("synthetic")
RESNEXTS = spaces.get("nds_resnext_a")
TINY = RegressionConfig(signal_steps=2, signal_interval=1, signal_batch=2, signal_channels=4, signal_cells=1)


def benchmark(folder, count=8):
  """A table of a few ResNeXt, the larger the better."""
  lines = []
  codes = RESNEXTS.sample(jax.random.key(2), count)
  for number, code in enumerate(sorted(codes, key=lambda code: RESNEXTS.costs(code).params)):
    error = 60 - number
    lines.append({
      "net": blocks.to_net(RESNEXTS.table, code), "base_lr": 0.05, "weight_decay": 5e-5, "epochs": 50, "params": 1,
      "flops": 1, "test_error_final": error, "test_error_min": error, "test_error_ep5": error,
    })  # fmt: skip
  path = folder / "few.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  return path


def test_architectures_keep_their_own_sizes_unless_told_otherwise():
  code = RESNEXTS.from_net(RESNEXT)
  for config, width in ((SignalConfig(), 16), (SignalConfig(TINY), 4)):
    inputs = SignalRegression().prepare(RESNEXTS, SOURCE, config, jax.random.key(0))
    ((network, members),) = scoring.by_shape(RESNEXTS, code[None], inputs.network)
    assert members == {0} and isinstance(network, SignalNetwork)
    net = network.backbone.net
    assert net.stem == "cifar" and net.stem_width == 12  # that of GenNAS's code
    assert [stage.blocks for stage in net.stages] == [1, *([2, 2, 2] if width == 16 else [1, 1, 1])]
    assert net.stages[0].channels == (64 if width == 16 else 4)
  inputs = SignalRegression().prepare(spaces.get("nb201"), SOURCE, SignalConfig(), jax.random.key(0))
  assert inputs.network(None).backbone.channels == 16
  cells = spaces.get("nds_enas")
  inputs = SignalRegression().prepare(cells, SOURCE, SignalConfig(), jax.random.key(0))
  own = inputs.network(cells.shape(cells.from_net(ENAS))).backbone
  assert own.form == "code" and own.config.size == (32, 14) and own.config.init == "torch_default"


@pytest.mark.parametrize(
  ("name", "sizes", "words"),
  [
    ("nds_enas", {"signal_cells": 2}, "--signal_cells=2 must be"),
    ("nds_resnext_a", {"signal_channels": 5}, "--signal_ch"),
  ],
)
def test_sizes_that_do_not_fit_are_refused_by_their_flags(name, sizes, words):
  space = spaces.get(name)
  inputs = SignalRegression().prepare(space, SOURCE, SignalConfig(RegressionConfig(**sizes)), jax.random.key(0))
  with pytest.raises(ConfigError, match=f"^{words}"):
    inputs.network(space.shape(space.sample(jax.random.key(0), 1)[0]))


@pytest.fixture(scope="module")
def enas():
  """(network with heads, architecture, channels of its taps): three cells of one to five states."""
  space = spaces.get("nds_enas")
  network = signal_network(space.backbone(NetworkConfig(4, 3)), WIDTHS)
  arch = jnp.asarray(network.encode(space.from_net(ENAS)[None])[0])
  assert isinstance(network.backbone, TappedNetwork)
  return network, arch, np.asarray(network.backbone.used_taps(arch))


def test_heads_begin_as_those_of_a_network_without_padding(enas):
  network, arch, used = enas
  # Normal cells concatenate one state, reduction cells three; of three cells the second and third reduce.
  assert used.tolist() == [1 * 4, 3 * 8, 3 * 16] and network.backbone.tap_channels == (5 * 4, 5 * 8, 5 * 16)
  heads = network.start(network.init(jax.random.key(0)), arch)["heads"]
  for head, channels, width in zip(heads, used, WIDTHS, strict=True):
    kernel = np.asarray(head["conv"]["kernel"])
    assert not kernel[channels:].any()
    for values in (kernel[:channels], head["conv"]["bias"]):
      assert 0.9 * channels**-0.5 < np.abs(values).max() <= channels**-0.5 * (1 + 1e-6)
    assert kernel.shape == (len(head["bn"]["scale"]), width)
  own = float(network.costs(arch).params - network.backbone.costs(arch).params)
  assert own == sum(c * (2 + w) + w for c, w in zip(used, WIDTHS, strict=True))


def test_channels_that_an_architecture_lacks_learn_nothing(enas):
  network, arch, used = enas
  params = network.start(network.init(jax.random.key(0)), arch)
  task = tasks.get("CONF_NB101")
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
  training = Training(2, 1)
  problem = pose(task, images, jax.random.key(1), training)
  curve, trained, _ = jax.jit(lambda p: regress(network, p, arch, jnp.asarray(images), problem, training))(params)
  assert np.isfinite(curve.evaluation).all()
  for before, after, channels in zip(params["heads"], trained["heads"], used, strict=True):
    assert not np.asarray(after["conv"]["kernel"])[channels:].any()
    assert not np.asarray(after["bn"]["bias"])[channels:].any()
    assert np.abs(after["conv"]["kernel"] - before["conv"]["kernel"])[:channels].min(1).max() > 0
    assert np.asarray(after["bn"]["bias"])[:channels].all()


def test_search_among_a_table(tmp_path):
  table = RESNEXTS.read_benchmark(benchmark(tmp_path))
  config = GenNASConfig(EvolutionConfig(3, 2, 3), SignalConfig(TINY))
  context = Context(RESNEXTS, SOURCE, config, benchmark=table, engine=Engine())
  found = GenNAS().search(context, 0).found
  assert {one.genome for one in found.log} <= set(table.archs) and len(found.log) == 6
  for one in found.log[3:]:
    assert one.genome != found.log[one.parent].genome
  everywhere = GenNASConfig(EvolutionConfig(9, 2, 3), gennas_within=False)
  assert table_of(Context(RESNEXTS, SOURCE, everywhere, benchmark=table)) is None
  for without in (table_of, GenNAS().work, lambda context: GenNAS().search(context, 0)):
    with pytest.raises(ConfigError, match="--algorithm=gennas needs --benchmark: .*=nds_resnext_a .*--nogennas_within"):
      without(Context(RESNEXTS, SOURCE, config))
  assert table_of(Context(RESNEXTS, SOURCE, everywhere)) is None
  assert GenNAS().work(Context(RESNEXTS, SOURCE, everywhere, benchmark=table)).amount == 12


@pytest.mark.parametrize(
  ("population", "limit", "said"),
  [
    (9, 0.0, "=9: the benchmark has 8 architectures; lower it, or search .* with --nogennas_within"),
    (2, 1e-3, "=2: the benchmark has 0 architectures below --gennas_max_macs=0.001; raise the limit, or .*--no"),
  ],
)
def test_a_first_population_of_more_than_the_table_has_is_refused(tmp_path, population, limit, said):
  config = GenNASConfig(EvolutionConfig(population, 2, 3), gennas_max_macs=limit)
  with pytest.raises(ConfigError, match=f"--evolution_population{said}"):
    GenNAS().work(Context(RESNEXTS, SOURCE, config, benchmark=RESNEXTS.read_benchmark(benchmark(tmp_path))))


def test_search_for_a_task_compiles_once_a_shape(tmp_path):
  table = RESNEXTS.read_benchmark(benchmark(tmp_path, 3))
  config, engine = GenNASTaskConfig(EvolutionConfig(2, 1, 1), TINY, task_archs=3), Engine()
  found = GenNASTask().search(Context(RESNEXTS, SOURCE, config, engine=engine, benchmark=table), 1).found
  assert len(found.log) == 3 and 0 <= found.fitness <= 1
  assert len(engine._programs) == 3  # an architecture each; a task is data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nds_enas", "nds_darts_fix_w_d", "nds_resnet_lr_wd", "nds_vanilla_lr_wd"])
def test_command_line_scores(tmp_path, name):
  cells = 3 if name in ("nds_enas", "nds_darts_fix_w_d") else 1
  small = (
    "--signal_steps=2",
    "--signal_interval=1",
    "--signal_batch=2",
    "--signal_channels=4",
    f"--signal_cells={cells}",
  )
  common = ("--noprogress", "--algorithm=score", f"--space={name}", "--archs=random:2", "--proxies=signal_regression")
  done = jaxnas(*common, *small, f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in (tmp_path / "run/scores.jsonl").read_text().splitlines()]
  values = [line["value"] for line in lines if line.get("kind") == "score"]
  assert len(values) == 2 and np.isfinite(values).all() and values[0] != values[1]

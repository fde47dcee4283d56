"""GenNAS's regression of recurrent networks: parity with the published training, the data set, the engine."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.tiny import small
from nlp_fixture import SPACE, Recorded

from jaxnas import data, proxies, scoring, spaces
from jaxnas.base import Batch, Context, NetworkConfig, Source
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.gennas import signals, tasks
from jaxnas.gennas.proxy import RegressionConfig, SignalConfig, SignalRegression
from jaxnas.gennas.search import GenNAS
from jaxnas.gennas.sequences import SequenceConfig, SequenceLearner, SequenceProblem, regress
from jaxnas.gennas.task_search import GenNASTask
from jaxnas.spaces import mapping
from jaxnas.tabular import Benchmark, metrics


@pytest.fixture(scope="module")
def recorded(fixtures):
  return Recorded(fixtures)


@pytest.mark.parametrize(("variant", "name"), [("paper", "wdrop0"), ("code", "wdrop_positive_limit")])
def test_published_training(x64, recorded, variant, name):
  figures, noise = recorded.figures, recorded.samples_first("noise")
  learner = SequenceLearner(recorded.network, variant, figures["optimizer"]["lr"], dropout=False)
  every = jnp.stack([noise[5]] * 5)
  problem = SequenceProblem(recorded.samples_first("target"), noise[:5], every, jax.random.key(0))
  start = recorded.params("init")
  train = jax.jit(lambda params: regress(learner, params, recorded.arch, recorded.samples_first("input"), problem))
  curve, params = train(start)
  np.testing.assert_allclose(curve.train, figures[name]["train"], rtol=0, atol=1e-9)
  np.testing.assert_allclose(curve.evaluation, figures[name]["eval"], rtol=0, atol=1e-9)
  found = mapping.gather(recorded.parts, params)
  if variant == "paper":
    wanted = recorded.collection("wdrop0_after5")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), found, wanted)
  else:
    first = recorded.collection("init")
    still = jax.tree.map(lambda a, b: bool((a == b).all()), found, first)
    kept = {name for name, same in _leaves(still) if same}
    assert len(kept) == len(figures[name]["frozen"])
    assert all(".kernel_" in name for name in kept)


def _leaves(tree):
  return [
    (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def test_signals_have_the_published_statistics(fixtures):
  facts = json.loads((fixtures / "gennas" / "g1_signals.json").read_text())["target_statistics_8_seeds"]["CONF_NLP"]
  drawn = signals.sequences(tasks.get_sequence("CONF_NLP"), 64, jax.random.key(0))
  for signal, fact in zip(drawn, facts, strict=True):
    assert signal.shape == (64, 8, 48) and signal.dtype == jnp.float32
    np.testing.assert_allclose(float(signal.std()), fact["std"], rtol=0.05)
    np.testing.assert_allclose([signal.min(), signal.max()], [fact["min"], fact["max"]], rtol=0.1)


def test_the_data_set():
  source = data.load("signals")
  assert isinstance(source, Source) and len(source) == 50_000 and source.classes == 48
  inputs, targets = source.examples(np.array([7, 3, 7]))
  assert inputs.shape == (3, 8, 48) and targets.shape == (3, 384) and inputs.dtype == targets.dtype == np.float32
  np.testing.assert_array_equal(inputs[0], inputs[2])
  assert np.abs(inputs[0] - inputs[1]).max() > 1
  second = source.first(10).halves()[1]
  np.testing.assert_array_equal(second.examples(np.array([2]))[0], inputs[:1])
  assert np.abs(data.load("signals", split="test").examples(np.array([7]))[0] - inputs[:1]).max() > 1
  inputs, labels = data.plain_batch(source, jax.random.key(0), 4)
  assert inputs.shape == (4, 8, 48) and labels.shape == (4, 384)
  for ask, message in (
    (lambda: second.examples(np.array([5])), "has 5 examples"),
    (lambda: source.first(0), "count=0"),
    (lambda: data.augmented_batch(source, jax.random.key(0), 2), "--dataset=signals has sequences where images"),
    (lambda: data.region_crops(source, jax.random.key(0)), "--dataset=signals has sequences where images"),
  ):
    with pytest.raises(ConfigError, match=message):
      ask()
  with pytest.raises(DatasetError, match="split 'valid'"):
    data.load("signals", split="valid")
  for other in ("synthetic", "tokens"):
    with pytest.raises(ConfigError, match=f"--dataset={other} has no sequences of numbers"):
      SignalRegression().prepare(SPACE, data.load(other), SignalConfig(), jax.random.key(0))


CONFIG = SignalConfig(RegressionConfig(4, 2, 3, signal_cells=1), SequenceConfig(signal_hidden=6))


def test_regression_of_several_sizes():
  """One call, a program a size; each architecture has weights of its own, from its text form."""
  codes = np.stack([SPACE.parse(text) for text in ("linear:x.h0|tanh:0|states:1", "linear:x.h0|sigm:0|states:1")])
  codes = np.stack(
    [*codes, next(c for c in SPACE.sample(jax.random.key(0), 9) if SPACE.shape(c) != SPACE.shape(codes[0]))]
  )
  proxy = SignalRegression()
  inputs = proxy.prepare(SPACE, data.load("signals"), CONFIG, jax.random.key(0))

  def losses(codes):
    lines = scoring.score([proxy], SPACE, codes, inputs.batch, network=inputs.network, share_weights=False)
    return [line.value for line in lines]

  found = losses(codes)
  assert np.isfinite(found).all() and len(set(found)) == len(found)
  np.testing.assert_allclose(losses(codes[1:2]), found[1:2], rtol=1e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"signal_rate": 0.0}, "--signal_rate=0.0 must be a number above 0"),
    ({"signal_hidden": 0}, "--signal_hidden=0"),
    ({"signal_weight_drop": "off"}, "--signal_weight_drop='off' must be one of code, paper"),
    ({"signal_sequences": "CONF_NB101"}, "--signal_sequences: CONF_NB101: got a task of images"),
  ],
)
def test_settings_are_refused(settings, message, unchecked):
  with pytest.raises(ConfigError, match=message):
    SequenceConfig(**settings)


def table():
  """Ten recipes with made-up accuracies."""
  archs = tuple(map(SPACE.format, SPACE.sample(jax.random.key(3), 10)))
  return Benchmark("made up", "nlp", "table", archs, {"ptb_test": np.arange(10.0)}, ("ptb",))


@pytest.mark.parametrize(
  "algorithm", [GenNAS(), pytest.param(GenNASTask(), marks=pytest.mark.slow)], ids=lambda a: a.name
)  # the search for a task compiles for every size and dimension
def test_searches(algorithm, tmp_path):
  context = Context(SPACE, data.load("signals"), small(algorithm.Settings), table())
  outcome = algorithm.search(context, 0)
  again = algorithm.search(context, 0)
  assert outcome.rows == again.rows
  for artefact in outcome.artefacts:
    artefact.draw(tmp_path / artefact.file)
    assert (tmp_path / artefact.file).stat().st_size
  if algorithm.name == "gennas":
    SPACE.parse(outcome.rows[0]["arch"])
  else:
    tasks.sequence_from_json(outcome.record["task"], check=False)


@pytest.mark.slow
def test_published_ranking(fixtures):
  """16 recipes at the published size: the published code's losses have Spearman 0.82 with the perplexity."""
  entries = json.loads((fixtures / "gennas" / "nlp_sample16.json").read_text())["recipes"]
  proxy, codes = SignalRegression(), np.stack([SPACE.from_recipe(entry["recipe"]) for entry in entries])
  inputs = proxy.prepare(SPACE, data.load("signals"), SignalConfig(), jax.random.key(0))
  lines = scoring.score([proxy], SPACE, codes, inputs.batch, network=inputs.network, share_weights=False)
  losses = np.array([line.value for line in lines])
  published = np.array([entry["losses_lr_0001"][-1] for entry in entries])
  assert metrics.spearman(losses, np.array([entry["perplexity"] for entry in entries])) > 0.7
  assert metrics.spearman(losses, published) > 0.9


# The ranking proxies on sequences


def test_targets_are_checked():
  code = SPACE.parse("linear:x.h0|tanh:0|states:1")
  network = SPACE.network(NetworkConfig(4, 1, 5, shape=SPACE.shape(code)))
  inputs, engine = np.zeros((2, 8, 5), np.float32), scoring.Engine()
  for targets, message in (
    (np.zeros((2, 39)), r"targets of shape \(2, 39\): give \(2, 40\)"),
    (np.full((2, 40), np.nan), r"targets\[0, 0\] = nan"),
    (np.array([0, 40]), "labels.1. = 40: the network has 40 classes"),
  ):
    with pytest.raises(ConfigError, match=message):
      engine.measure([proxies.get("snip")], network, None, code[None], Batch(inputs, targets))
  params = network.init(jax.random.key(0))
  with pytest.raises(ConfigError, match="takes the output of an input's class"):
    engine.measure([proxies.get("trace_norm_successor")], network, params, code[None], Batch(inputs, np.zeros((2, 40))))


def test_spaces_of_images_refuse_sequences(unchecked):
  nb201 = spaces.get("nb201")
  network, batch = nb201.network(NetworkConfig(2, 1)), Batch(*data.load("signals").examples(np.arange(2)))
  with pytest.raises((ConfigError, DatasetError)):
    scoring.Engine().measure(
      [proxies.get("naswot")], network, network.init(jax.random.key(0)), nb201.sample(jax.random.key(0), 1), batch
    )

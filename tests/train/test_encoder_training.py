"""Fine-tuning of pre-trained encoders: AdamW, a whole training of text, its folder, and KNAS with it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_encoder
from helpers import jaxnas, refused

from jaxnas import base, data, spaces
from jaxnas.algorithms.knas import KNAS, KNASConfig
from jaxnas.algorithms.train import Train, TrainingConfig
from jaxnas.base import Context
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.spaces.encoder import export
from jaxnas.train import TrainConfig, confusion, f1_scores, matthews, trained_network
from jaxnas.train.recipe import optimizer, schedule
from jaxnas.train.trainer import train

WORDS = (("bad", "very bad"), ("good", "very good"))
RECIPE = TrainConfig(
  train_epochs=12, train_batch=8, learning_rate=4e-3, learning_rate_shape="linear", warmup_epochs=0.5,
  optimizer="adamw", weight_decay=0.01, clip_norm=1.0, eval_batch=16,
)  # fmt: skip
FLAGS = ["--train_epochs=2", "--train_batch=8", "--learning_rate=0.01", "--optimizer=adamw", "--eval_batch=16"]
VARIANT = "keep:seq:1|share:par:2|drop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  pytest.importorskip("tokenizers", reason="tokenizers is missing: pip install jaxnas[text]")
  return tiny_encoder.written(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """A file of sentences whose words say the label, and one beside it."""
  path, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
  for name, size in (("train.tsv", 64), ("dev.tsv", 30)):
    labels = rng.integers(0, 2, size)
    lines = [f"{rng.choice(['the', 'a'])} film {rng.choice(WORDS[y])} .\t{'ny'[y]}" for y in labels]
    (path / name).write_text("\n".join(["sentence\tlabel", *lines, ""]))
  return f"tsv:{path / 'train.tsv'}"


def sources(table, folder, length=8):
  tokens = data.TokenConfig(spaces.get("encoder").opened(folder).tokenizer_file(), length)
  return [data.load(table, split=split, tokens=tokens) for split in ("train", "dev")]


# The recipe


def test_adamw_is_its_formulas(x64):
  config = dataclasses.replace(RECIPE, clip_norm=0.5)
  rng, steps = np.random.default_rng(0), 60
  params = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
  own = jax.tree.map(jnp.asarray, params)
  tool = optimizer(config, steps)
  state, m, v = tool.init(own), jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params)
  rate = schedule(config, steps)
  for t in range(1, 4):
    grads = {name: rng.normal(size=value.shape) for name, value in params.items()}
    updates, state = tool.update(jax.tree.map(jnp.asarray, grads), state, own)
    own = jax.tree.map(lambda p, u: p + u, own, updates)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    for name, gradient in grads.items():
      g = gradient * min(1, 0.5 / norm)
      m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g**2
      step = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
      decay = 0.01 * params[name] if name == "kernel" else 0
      params[name] = params[name] - float(rate(t - 1)) * (step + decay)
  for name, value in params.items():
    np.testing.assert_allclose(own[name], value, rtol=1e-5)


def test_warm_up_may_be_a_part_of_an_epoch():
  rate = schedule(dataclasses.replace(RECIPE, train_epochs=6, learning_rate=0.03), 60)
  found = [float(rate(t)) for t in (0, 4, 5, 59)]
  np.testing.assert_allclose(found, [0.03 / 5, 0.03 * 56 / 60, 0.03 * 55 / 60, 0.03 / 60], rtol=1e-5)


def test_confusion_says_what_it_should():
  matrix = np.array([[8, 2, 0], [1, 4, 0], [0, 0, 0]])
  np.testing.assert_allclose(f1_scores(matrix), [16 / 19, 8 / 11, 0])
  truth = np.repeat([0, 0, 1, 1], [8, 2, 1, 4])
  answers = np.repeat([0, 1, 0, 1], [8, 2, 1, 4])
  assert matthews(matrix) == pytest.approx(np.corrcoef(truth, answers)[0, 1])
  assert matthews(np.array([[5, 0], [3, 0]])) == 0


# A training


@pytest.fixture(scope="module")
def trained(folder, table, tmp_path_factory):
  """(the outcome of the algorithm, its folder) for the encoder and for a variant."""
  space, (first, second) = spaces.get("encoder").opened(folder), sources(table, folder)

  def run(text):
    path = tmp_path_factory.mktemp("run")
    context = Context(space, first, TrainingConfig(RECIPE, text), folder=path, open_split=lambda split: second)
    return Train().search(context, 0), path / "trainings" / "seed0"

  return {text: run(text) for text in ("unchanged", VARIANT)}


def test_fine_tuning_learns(trained):
  for outcome, path in trained.values():
    (row,) = outcome.rows
    assert row["valid_accuracy"] > 85 and row["valid_accuracy_status"] == "ok"
    assert row["evaluated_on"].startswith("dev split of tsv:") and row["evaluated_on"].endswith(", 30 examples")
    losses = [json.loads(line)["train_loss"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    said = outcome.record["confusion"]
    assert said["classes"] == ["n", "y"] and said["matrix"].sum() == 30
    assert np.trace(said["matrix"]) / 0.3 == pytest.approx(row["valid_accuracy"])
    assert [artefact.file for artefact in outcome.artefacts] == ["training.png", "confusion.png"]
    assert "valid_top5" not in [column.key for column in outcome.columns]


def test_a_killed_training_ends_the_same(trained, folder, table, tmp_path):
  space, (first, second) = spaces.get("encoder").opened(folder), sources(table, folder)
  code = space.parse(VARIANT)
  network = trained_network(space, RECIPE, 2, code)

  def stop(record):
    if record["epoch"] == 4:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    train(network, code, first, second, RECIPE, workdir=tmp_path, log=stop)
  result = train(network, code, first, second, RECIPE, workdir=tmp_path)
  assert [line["epoch"] for line in result.history] == list(range(1, 13))
  whole = trained[VARIANT][0].found.history
  for key in ("train_loss", "valid_loss", "learning_rate"):
    assert [line[key] for line in result.history] == [line[key] for line in whole]
  matrix = confusion(network, code, result, second, 7)
  np.testing.assert_array_equal(matrix, trained[VARIANT][0].record["confusion"]["matrix"])
  unused = result.params["layers"]["query"]["kernel"][1:]  # shared from, and dropped
  np.testing.assert_array_equal(unused, network.init(jax.random.key(0))["layers"]["query"]["kernel"][1:])


def test_what_is_exported_says_the_same(trained, folder, table):
  _, second = sources(table, folder)
  inputs, labels = second.examples(np.arange(30))
  for text, (outcome, path) in trained.items():
    module, variables = export.read(path / "encoder")
    logits = module.apply(variables, jnp.asarray(inputs))
    assert 100 * (logits.argmax(-1) == labels).mean() == pytest.approx(outcome.rows[0]["valid_accuracy"])
    losses = -jax.nn.log_softmax(logits)[np.arange(30), labels]
    assert losses.mean() == pytest.approx(outcome.found.history[-1]["valid_loss"], rel=1e-4)
    config = json.loads((path / "encoder" / "config.json").read_text())
    plain = text == "unchanged"
    assert config["model_type"] == ("bert" if plain else "jaxnas_encoder")
    assert config["num_hidden_layers"] == (3 if plain else 2) and config["id2label"] == {"0": "n", "1": "y"}
    assert config.get("jaxnas_layers") == (None if plain else ["seq:1", "par:2"])


def test_a_plain_export_is_an_encoder_again(trained, folder):
  (_, path), space = trained["unchanged"], spaces.get("encoder")
  again = space.opened(str(path / "encoder"))
  assert again.sizes == space.opened(folder).sizes
  params = again.network(base.NetworkConfig(classes=2, shape=3)).init(jax.random.key(0))
  _, variables = export.read(path / "encoder")
  np.testing.assert_array_equal(
    params["layers"]["feed_in"]["kernel"][2], variables["params"]["layer_2"]["feed_in"]["kernel"]
  )
  with pytest.raises(DatasetError, match="model_type='jaxnas_encoder'"):
    space.opened(str(trained[VARIANT][1] / "encoder"))
  with pytest.raises(DatasetError, match="has no classifier"):
    export.read(space.opened(folder).network(base.NetworkConfig(shape=1)).folder)


# KNAS


def test_knas_takes_the_best_of_its_shortlist_by_dev_accuracy(folder, table, tmp_path):
  space, (first, second) = spaces.get("encoder").opened(folder), sources(table, folder)
  recipe = dataclasses.replace(RECIPE, train_epochs=1)
  settings = KNASConfig(
    recipe, knas_candidates=8, knas_shortlist=2, knas_fine="train", knas_batch=8, knas_split="dev", knas_images=40
  )
  opened = {"dev": second}
  context = Context(space, first, settings, folder=tmp_path, open_split=opened.__getitem__)
  assert KNAS().work(context).amount == 10
  outcome = KNAS().search(context, 0)
  found, shortlist = outcome.found, outcome.record["shortlist"]
  assert found.scores[found.shortlist].tolist() == sorted(found.scores, reverse=True)[:2]
  assert [one["validation"] for one in shortlist] == found.validation.tolist()
  assert outcome.rows[0]["validation"] == max(found.validation)
  for one in shortlist:
    code = space.parse(one["arch"])
    network = trained_network(space, recipe, 2, code)
    again = train(network, code, first.first(40), second, recipe)
    assert again.history[-1]["valid_accuracy"] == one["validation"]


def test_knas_with_other_images_is_refused(folder, table):
  space, (first, second) = spaces.get("encoder").opened(folder), sources(table, folder)
  with pytest.raises(ConfigError, match="--knas_split=dev is of trainings"):
    KNASConfig(RECIPE, knas_split="dev")
  with pytest.raises(ConfigError, match="--knas_images=-1"):
    KNASConfig(RECIPE, knas_images=-1)
  with pytest.raises(ConfigError, match=r"--knas_split=train\[:9\]: that is trained on"):
    KNASConfig(RECIPE, knas_fine="train", knas_split="train[:9]")
  for own, match in (({"knas_split": "dev", "knas_images": 65}, "--knas_images=65 is more than the 64"),):
    settings = KNASConfig(RECIPE, knas_fine="train", knas_batch=8, **own)
    with pytest.raises(ConfigError, match=match):
      KNAS().work(Context(space, first, settings, open_split=lambda split: second))
  settings = KNASConfig(RECIPE, knas_fine="train", knas_split="dev")
  with pytest.raises(ConfigError, match="--knas_split=dev needs"):
    KNAS().work(Context(space, first, settings))


# The command line


@pytest.mark.slow
def test_training_and_knas_from_the_command_line(folder, table, tmp_path):
  common = ["--space=encoder", f"--encoder={folder}", f"--dataset={table}", "--tokens=8", *FLAGS]
  jaxnas("--algorithm=train", "--genotype=unchanged", *common, f"--workdir={tmp_path / 'train'}")
  (row,) = json.loads((tmp_path / "train" / "result.json").read_text())["results"]
  assert 0 <= row["valid_accuracy"] <= 100 and (tmp_path / "train" / "confusion.png").exists()
  assert "are taken for each (column)" in (tmp_path / "train" / "report.html").read_text()
  search = [
    "--algorithm=knas", "--knas_candidates=6", "--knas_shortlist=2", "--knas_fine=train", "--knas_batch=8",
    "--knas_split=dev", "--knas_images=40", *common, f"--workdir={tmp_path / 'knas'}",
  ]  # fmt: skip
  jaxnas(*search)
  found = json.loads((tmp_path / "knas" / "result.json").read_text())
  (row,) = found["results"]
  shortlist = found["records"][0]["shortlist"]
  assert len(shortlist) == 2 and row["validation"] == max(one["validation"] for one in shortlist)
  assert shortlist[0]["mgm"] >= shortlist[1]["mgm"] > 0


# Wrong input


def context_of(folder, source, recipe=RECIPE, text="unchanged"):
  space = spaces.get("encoder").opened(folder)
  return Context(space, source, TrainingConfig(recipe, text), open_split=lambda split: source)


def test_other_recipes_and_data_are_refused(folder, table):
  first, _ = sources(table, folder)
  for setting in ("cutout", "image_size"):
    wrong = dataclasses.replace(RECIPE, **{setting: 4})
    with pytest.raises(ConfigError, match=f"--{setting}=4 is for images"):
      Train().work(context_of(folder, first, wrong))
  for wrong, match in (({"drop_path": 0.2}, "--drop_path=0.2.*no drop path"), ({"auxiliary": 0.4}, "auxiliary")):
    with pytest.raises(ConfigError, match=match):
      Train().work(context_of(folder, first, dataclasses.replace(RECIPE, **wrong)))
  with pytest.raises(ConfigError, match="--dataset=synthetic has images, and --space=encoder reads sequences"):
    Train().work(context_of(folder, data.load()))
  images = dataclasses.replace(context_of(folder, first), space=spaces.get("nb201"))
  with pytest.raises(ConfigError, match="has sequences, and --space=nb201 reads images"):
    Train().work(dataclasses.replace(images, settings=TrainingConfig(RECIPE, "0")))


def test_sequences_longer_than_the_positions_are_refused(folder, table):
  first, _ = sources(table, folder, 17)
  with pytest.raises((ConfigError, DatasetError), match="17.*1 to 16"):
    Train().work(context_of(folder, first))


def test_one_class_is_refused(folder, tmp_path):
  (tmp_path / "train.tsv").write_text("sentence\tlabel\nthe film\ty\na film\ty\n")
  with pytest.raises(DatasetError, match="every label is 'y'"):
    sources(f"tsv:{tmp_path / 'train.tsv'}", folder)


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--space=nb201", "--encoder=FOLDER"], ("--encoder=", "--space=nb201")),
    (["--space=encoder", "--encoder=FOLDER", "--tokenizer=x"], ("--tokenizer=x", "encoder's own")),
    (["--space=encoder", "--encoder=absent"], ("--encoder=absent is no folder", "config.json")),
    (["--space=encoder", "--encoder=FOLDER", "--tokens=8"], ("--dataset=tokens draws", "has 12; give a --dataset")),
    (["--space=encoder", "--encoder=FOLDER", "--dataset=TABLE", "--tokens=32"], ("32", "1 to 16", "--tokens of 16")),
  ],
)
def test_flags_are_refused_in_one_line(folder, table, flags, words):
  flags = [flag.replace("FOLDER", folder).replace("TABLE", table) for flag in flags]
  refused(
    jaxnas("--algorithm=score", "--archs=unchanged", "--proxies=mgm", "--noprogress", *flags, check=False), *words
  )

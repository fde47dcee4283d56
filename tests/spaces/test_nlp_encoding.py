"""NAS-Bench-NLP recipes: text, the benchmark's dicts, equal cells, neighbours, costs, accuracies, and bad input."""

import gzip
import json

import jax
import numpy as np
import pytest
from helpers import benchmark_refused, png_size
from nlp_fixture import SPACE, evaluation_order

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nlp import costs, encoding, program
from jaxnas.tabular import open_benchmark

LSTM = {  # with the benchmark's names of nodes, in no order of evaluation
  "h_new_0": {"op": "elementwise_prod", "input": ["h_new_1_act", "o_act"]},
  "i": {"op": "linear", "input": ["x", "h_prev_0"]},
  "i_act": {"op": "activation_tanh", "input": ["i"]},
  "j": {"op": "linear", "input": ["x", "h_prev_0"]},
  "j_act": {"op": "activation_sigm", "input": ["j"]},
  "f": {"op": "linear", "input": ["x", "h_prev_0"]},
  "f_act": {"op": "activation_sigm", "input": ["f"]},
  "o": {"op": "linear", "input": ["x", "h_prev_0"]},
  "o_act": {"op": "activation_tanh", "input": ["o"]},
  "h_new_1_part1": {"op": "elementwise_prod", "input": ["f_act", "h_prev_1"]},
  "h_new_1_part2": {"op": "elementwise_prod", "input": ["i_act", "j_act"]},
  "h_new_1": {"op": "elementwise_sum", "input": ["h_new_1_part1", "h_new_1_part2"]},
  "h_new_1_act": {"op": "activation_tanh", "input": ["h_new_1"]},
}
TEXT = (
  "linear:x.h0|tanh:0|linear:x.h0|sigm:2|linear:x.h0|sigm:4|linear:x.h0|tanh:6|prod:5.h1|prod:1.3|sum:8.9|tanh:10|"
  "prod:11.7|states:12.10"
)


def test_a_recipe_and_its_text():
  code = SPACE.from_recipe(LSTM)
  assert SPACE.format(code) == TEXT and evaluation_order(LSTM)[-1] == "h_new_0"
  for form in (TEXT, f" {TEXT}\n", json.dumps(LSTM), json.dumps(SPACE.to_recipe(code), indent=1)):
    np.testing.assert_array_equal(SPACE.parse(form), code)
  assert SPACE.to_recipe(code)["h_new_1"] == {"op": "elementwise_sum", "input": ["node_8", "node_9"]}
  assert costs.count(code).params == 4_010_000 + 6_886_400


def changed(name, **values):
  return {**LSTM, name: {**LSTM[name], **values}}


@pytest.mark.parametrize(
  ("recipe", "message"),
  [
    (
      changed("i", input=["x", "o_act"]) | {"o": {"op": "linear", "input": ["i_act"]}},
      "i_act, i, o_act, o read one another",
    ),
    (changed("i", op="conv3x3"), "node 'i': unknown op 'conv3x3'; use linear, blend"),
    (changed("i", op=3), "unknown op '3'"),
    (changed("i", input=["x", "h_prev_2"]), "unknown input 'h_prev_2'; it has x, h_prev_0, h_prev_1"),
    (changed("i", input=["x", "k"]), "node 'i': unknown input 'k'"),
    (changed("i", input="x"), "node 'i': give an object with op and input"),
    (changed("i_act", input=["i", "j"]), r"node \d \(activation_tanh\) has 2 inputs; give 1"),
    (changed("i_act", input=["x"]), "reads x, which has another width"),
    (changed("i", input=["x", "x"]), "reads an input twice"),
    (changed("i", input=[]), r"\(linear\) has 0 inputs; give 1 to 3"),
    ({"h_new_1": LSTM["i"]}, "the new states are .*h_new_1.*; give h_new_0"),
    ({"f": LSTM["i"]}, "the new states are none"),
    ({f"h_new_{i}": {"op": "linear", "input": ["x"]} for i in range(4)}, "h_new_0 to at most h_new_2"),
    ({f"n{i}": {"op": "linear", "input": ["x"]} for i in range(24)} | {"h_new_0": LSTM["i"]}, "25 nodes"),
    ({}, "give an object of nodes"),
    ([LSTM], "give an object of nodes"),
    ({"h_new_0": None}, "node 'h_new_0': give an object"),
    ({"h_new_00": LSTM["i"]}, "the new states are .*h_new_00.*; give h_new_0"),
    (LSTM | {"h_new_01": LSTM["i"]}, "h_new_01.*; give h_new_0"),
    (LSTM | {"h_prev_0": LSTM["i"]}, "a node is called h_prev_0, as is an input"),
    (LSTM | {"x": LSTM["i"]}, "a node is called x"),
  ],
)
def test_illegal_recipes_are_refused(recipe, message):
  with pytest.raises(ArchitectureError, match=message):
    SPACE.from_recipe(recipe)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("|nor_conv_3x3~0|+|none~0|none~1|", "give its nodes and at last its states, as in linear:x.h0"),
    ("linear:x.h0|tanh:0", "give its nodes and at last its states"),
    ("linear:x.h0|conv:0|states:1", "'conv:0': unknown operation 'conv'; use linear, blend, prod"),
    ("linear:x.h0|tanh:1|states:1", "reads '1'; after ':' give x, h0 to h2 or a node before it, 0 to 0,"),
    ("linear:x.h0|tanh:²|states:1", "reads '²'"),
    ("linear:1|states:0", "reads '1'; after ':' give x, h0 to h2 with '.' between them"),
    ("linear:x.h0|tanh:0|states:2", "'states:2': after ':' give the node of every new state, 0 to 1"),
    ("linear:x.h0|tanh:0|states:1.1", r"the new states are nodes \[1, 1\]"),
    ("linear:x.h1|tanh:0|states:1", "reads state h1, of which no node is the new value"),
    ("states:0", "give its nodes"),
    ("{", "not JSON"),
  ],
)
def test_malformed_texts_are_refused(text, message):
  with pytest.raises(ArchitectureError, match=message):
    SPACE.parse(text)


def test_illegal_codes_are_refused():
  code = SPACE.parse(TEXT)
  for place, value, message in (
    (0, 0, "node 1 has the op 5; use 1 to 7, and 0 behind the last node"),
    (0, 8, "node 0 has the op 8"),
    (1, -1, r"archs\[1\] = -1; entries are 0 to 28"),
    (2, 9, "node 0 .linear. reads node 4; a node reads those before it"),
    (96, 14, "the new states are nodes"),
    (61, 3, "entries behind the last node"),
  ):
    other = code.copy()
    other[place] = value
    with pytest.raises(ArchitectureError, match=message):
      SPACE.as_codes(other)


def test_equal_cells():
  cell = SPACE.canonical(TEXT)
  reordered = "linear:h0.x|sigm:0|linear:h0.x|tanh:2|linear:x.h0|tanh:4|linear:x.h0|sigm:6|prod:3.1|prod:h1.7|sum:9.8|"
  assert SPACE.canonical(reordered + "tanh:10|prod:5.11|states:12.10") == cell
  useless = TEXT.replace("|states:12.10", "|tanh:12|states:12.10.13")
  assert SPACE.canonical(useless) == cell and SPACE.canonical(useless.replace("tanh:12|", "tanh:h2|")) == cell
  renumbered = TEXT.replace("h1", "h2").replace("states:12.10", "states:12.0.10")
  assert SPACE.canonical(renumbered) == cell
  for other in (
    TEXT.replace("tanh:6", "sigm:6"), TEXT.replace("states:12.10", "states:12.9"),
    TEXT.replace("linear:x.h0|sigm:2", "linear:x.h1|sigm:2"),
    TEXT.replace("states:12.10", "states:10.12"),
  ):  # fmt: skip
    assert SPACE.canonical(other) != cell
  blend = "linear:x.h0|sigm:0|tanh:0|blend:1.2.h0|states:3"
  assert SPACE.canonical(blend) != SPACE.canonical(blend.replace("1.2.h0", "1.h0.2"))


def test_neighbours_change_one_thing():
  text = "linear:x.h0|tanh:0|states:1"
  texts = {SPACE.format(code) for code in SPACE.neighbours(SPACE.parse(text))}
  assert {
    "linear:x.h0|sigm:0|states:1", "linear:x.h0|linear:0|states:1", "linear:x|tanh:0|states:1",
    "linear:x.h0|tanh:h0|states:1", "linear:x.h0|tanh:0|states:0", "linear:x.h0|sigm:0|tanh:1|states:2",
    "linear:x|linear:0.h0|tanh:1|states:2", "linear:h0.x|tanh:0|states:1",
  } - texts == {"linear:h0.x|tanh:0|states:1"}  # fmt: skip


def test_resampling_makes_about_so_many_changes():
  code = SPACE.parse(TEXT)
  found = [SPACE.resample(jax.random.key(i), code, 1.0) for i in range(60)]
  same = sum(np.array_equal(one, code) for one in found)
  assert 10 < same < 35  # exp(-1) of them
  assert all(SPACE.is_connected(one) for one in found)
  with pytest.raises(ConfigError, match=r"changes=0 must be above 0"):
    SPACE.resample(jax.random.key(0), code, 0)


def test_samples_are_like_the_benchmark_s():
  codes = SPACE.sample(jax.random.key(0), 300)
  recipes = [encoding.unpack(code) for code in codes]
  assert all(SPACE.is_connected(code) for code in codes)
  assert len({SPACE.canonical(code) for code in codes}) == 300
  assert {len(recipe.states) for recipe in recipes} == {1, 2, 3}
  assert {node.op for recipe in recipes for node in recipe.nodes} == set(range(1, 8))
  assert 4 < np.mean([len(recipe.nodes) for recipe in recipes]) < 9
  assert {program.SIZES.index(SPACE.shape(code)) for code in codes} >= {0, 1, 2, 3}


def test_drawing_shows_the_states(tmp_path):
  (picture,) = SPACE.draw(SPACE.parse(TEXT), tmp_path)
  width, height = png_size(tmp_path / picture.file)
  assert width > height and TEXT in picture.caption


# Accuracies

ROW = {
  "position": 4, "cell": 4, "recipe": LSTM,
  "ptb": [{"status": "OK", "test_loss": 4.5, "val_loss": 4.6, "val_loss_3": 5.0, "val_loss_10": None}],
}  # fmt: skip
OTHER = {**ROW, "position": 5, "cell": 5, "recipe": {"h_new_0": {"op": "linear", "input": ["x", "h_prev_0"]}}}


def written(path, *rows, pack=False):
  text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows).encode()
  path.write_bytes(gzip.compress(text) if pack else text)
  return path


@pytest.mark.parametrize("pack", [False, True])
def test_a_table(tmp_path, pack):
  failed = {**OTHER, "ptb": [{"status": "loss is nan!", "test_loss": None}]}
  repeat = {**ROW, "position": 6, "ptb": [{"status": "OK", "test_loss": 1.0}]}
  table = open_benchmark(written(tmp_path / "t.jsonl", ROW, failed, repeat, pack=pack), SPACE)
  assert table.archs == (TEXT, "linear:x.h0|states:0")
  np.testing.assert_allclose(table.columns["perplexity_ptb_test"], [np.exp(4.5), np.nan])
  np.testing.assert_allclose(table.accuracies("ptb"), [100 * np.exp(-4.5), np.nan])
  assert table.accuracy(TEXT, "ptb", "valid_3ep") == pytest.approx(100 * np.exp(-5.0))
  assert np.isnan(table.accuracy(TEXT, "ptb", "valid_10ep"))
  assert table.index(TEXT.replace("linear:x.h0|tanh:0", "linear:h0.x|tanh:0")) == 0


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    (("",), "an empty file"),
    (("\n\n",), "no line in it"),
    (("[1]\n",), "line 1 lacks recipe, position, cell, ptb; .*instead of --space=nlp"),
    (('{"archs": []}\n',), "line 1 lacks recipe"),
    (("{\n",), "line 1 is no JSON"),
    ((ROW, {**OTHER, "cell": "5"}), "line 2, cell: '5' where an integer must stand"),
    ((ROW, {**OTHER, "recipe": {"h_new_0": {"op": "gru", "input": ["x"]}}}), "line 2, recipe: .*unknown op 'gru'"),
    ((ROW, {**ROW, "cell": 7}), "line 2: the recipe is that of cell 7 and of an earlier one"),
    (({**ROW, "ptb": {}},), "line 1, ptb: .* where a list of runs must stand"),
    (({**ROW, "ptb": [{"status": "OK", "test_loss": "4.5"}]},), r"line 1, ptb\[0\].test_loss: '4.5', which is no loss"),
    (({**ROW, "ptb": [{"status": "OK", "test_loss": -1}]},), "'-1', which is no loss in nats"),
  ],
)
def test_bad_tables_are_refused(tmp_path, rows, message):
  benchmark_refused(written(tmp_path / "t.jsonl", *rows), message, "nlp")


def test_tables_of_other_spaces_are_refused(shared):
  for file in ("nasbench101_2500.json", "nds_imagenet/DARTS.jsonl.gz", "nasbench201.csv.gz"):
    benchmark_refused(
      shared / "data" / file,
      "line 1 .*if it is a benchmark of another space, give that one instead of --space=nlp",
      "nlp",
    )


def test_a_truncated_table_is_refused(tmp_path):
  path = written(tmp_path / "t.jsonl.gz", ROW, OTHER, pack=True)
  path.write_bytes(path.read_bytes()[:-20])
  benchmark_refused(path, "cannot be read", "nlp")


def trainings(shared):
  path = shared / "data/nas_bench_nlp/ptb.jsonl.gz"
  with gzip.open(path) as file:
    return path, [json.loads(line) for line in file]


def test_trained_recipes(shared):
  """There and back, and as many parameters as the table says."""
  for row in trainings(shared)[1][::8]:
    code = SPACE.from_recipe(row["recipe"])
    assert costs.count(code).params == row["num_params_ptb"], row["position"]
    if row["position"] % 50 == 0:
      np.testing.assert_array_equal(SPACE.parse(SPACE.format(code)), code)
      np.testing.assert_array_equal(SPACE.from_recipe(SPACE.to_recipe(code)), code)


@pytest.mark.slow
def test_all_trainings(shared):
  """Every recipe of the benchmark: parameters, which recipes are one cell, and the values of the table."""
  path, rows = trainings(shared)
  codes = [SPACE.from_recipe(row["recipe"]) for row in rows]
  for code, row in zip(codes, rows, strict=True):
    assert costs.count(code).params == row["num_params_ptb"], row["position"]
  assert max(program.SIZES.index(SPACE.shape(code)) for code in codes) == 4
  pairs = {(SPACE.canonical(code), row["cell"]) for code, row in zip(codes, rows, strict=True)}
  table = open_benchmark(path, SPACE)
  assert len({cell for _, cell in pairs}) == len(table.archs) == 5650
  assert len(pairs) == len({name for name, _ in pairs}) == 5685  # never coarser than the table's cells
  known = np.isfinite(table.accuracies("ptb"))
  firsts = {row["cell"]: row["ptb"][0] for row in reversed(rows)}
  assert known.sum() == sum(run["status"] == "OK" for run in firsts.values())
  perplexities = [run["test_ppl"] for run in firsts.values() if run["status"] == "OK"]
  np.testing.assert_allclose(np.sort(table.columns["perplexity_ptb_test"][known]), np.sort(perplexities), rtol=1e-4)

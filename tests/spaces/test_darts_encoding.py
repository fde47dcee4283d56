"""DARTS cells: text, arrays, alphas, derivation, sampling, neighbours, NAS-Bench-301 records, TE-NAS's traces."""

import json

import jax
import numpy as np
import pytest

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.darts import derivation, encoding, genotypes
from jaxnas.spaces.darts.encoding import EDGES, LENGTH, OPS, TENAS_OPS

NORMAL = [
  ("sep_conv_3x3", 1),
  ("sep_conv_3x3", 0),
  ("skip_connect", 0),
  ("sep_conv_3x3", 1),
  ("skip_connect", 0),
  ("sep_conv_3x3", 1),
  ("sep_conv_3x3", 0),
  ("skip_connect", 2),
]
REDUCE = [
  ("max_pool_3x3", 0),
  ("max_pool_3x3", 1),
  ("skip_connect", 2),
  ("max_pool_3x3", 0),
  ("max_pool_3x3", 0),
  ("skip_connect", 2),
  ("skip_connect", 2),
  ("avg_pool_3x3", 0),
]
TEXT = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, reduce_concat=[2, 3, 4, 5])"
ARCH = encoding.parse(TEXT)


@pytest.fixture(scope="module")
def nb301(shared):
  return json.loads((shared / "data/darts_nb301.json").read_text())["archs"]


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_constants_are_those_of_the_space():
  assert len(OPS) == 8 and len(EDGES) == 14 and LENGTH == 32
  assert EDGES[:5] == ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
  assert sorted(TENAS_OPS) == sorted(OPS)
  assert encoding.NUM_ARCHS == (180 * 7**8) ** 2


def test_slots_hold_op_and_source_in_ascending_order_of_source():
  slots = encoding.slots(ARCH)
  assert ARCH.dtype == np.int8 and slots.shape == (2, 4, 2, 2)
  assert slots[0, 0].tolist() == [[OPS.index("sep_conv_3x3"), 0], [OPS.index("sep_conv_3x3"), 1]]
  assert slots[1, 3].tolist() == [[OPS.index("avg_pool_3x3"), 0], [OPS.index("skip_connect"), 2]]


def test_published_text_reads_as_the_published_name():
  np.testing.assert_array_equal(ARCH, genotypes.get("DARTS_V1"))
  np.testing.assert_array_equal(genotypes.lookup("darts_v1"), genotypes.lookup(TEXT))


def test_format_is_the_inverse_of_parse():
  text = encoding.format(ARCH)
  assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ")
  assert text.endswith("('avg_pool_3x3', 0), ('skip_connect', 2)], reduce_concat=range(2, 6))")
  np.testing.assert_array_equal(encoding.parse(text), ARCH)
  for arch in encoding.sample(jax.random.key(0), 50):
    np.testing.assert_array_equal(encoding.parse(encoding.format(arch)), arch)


@pytest.mark.parametrize(
  "text",
  [
    f"Genotype({NORMAL}, (2, 3, 4, 5), {REDUCE}, range(2, 6))",
    "  " + TEXT.replace(", (", ",\n    (").replace("'", '"') + "\n",
    TEXT.replace("(", "[")
    .replace(")", "]")
    .replace("Genotype[", "Genotype(")
    .replace("range[2, 6]", "range(2, 6)")[:-1]
    + ")",
  ],
  ids=["positional", "lines and quotes", "lists"],
)
def test_parse_takes_the_ways_of_writing_of_the_literature(text):
  np.testing.assert_array_equal(encoding.parse(text), ARCH)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("('skip_connect', 2)]", "('skip_connect', 5)]", r"normal\[7\]: source 5; node 5 takes nodes 0..4"),
    ("('skip_connect', 0)", "('conv_7x1_1x7', 0)", r"normal\[2\]: unknown op 'conv_7x1_1x7'"),
    ("('skip_connect', 0)", "('none', 0)", r"normal\[2\]: unknown op 'none'"),
    ("('skip_connect', 0)", "('skip_connect', 1)", r"normal\[2\] and normal\[3\]: node 3 has source 1 twice"),
    ("('skip_connect', 0)", "('skip_connect', 0, 1)", r"normal\[2\]: got .*use a pair"),
    ("('skip_connect', 0)", "('skip_connect', -1)", r"normal\[2\]: source -1"),
    ("('skip_connect', 0)", "('skip_connect', True)", r"normal\[2\]: source True"),
    ("('skip_connect', 0), ", "", "normal: got 7 entries; a DARTS cell has 8 pairs"),
    ("range(2, 6)", "range(3, 6)", "normal_concat is 'range.3, 6.'"),
    ("range(2, 6)", "range(10**30)", "normal_concat is .*no list and no range"),
    ("range(2, 6)", "range(" + "9" * 30 + ")", "normal_concat is"),
    ("range(2, 6)", "open('x')", "normal_concat is .*no list and no range"),
    ("[2, 3, 4, 5]", "[5, 4, 3, 2]", "reduce_concat is"),
    ("reduce_concat", "normal_concat", "field 'normal_concat' is given twice"),
    ("reduce_concat", "concat", "field 'concat' is unknown"),
    (", reduce_concat=[2, 3, 4, 5]", "", "field 'reduce_concat' is missing"),
    ("Genotype(", "Cell(", "does not begin with Genotype"),
    ("('skip_connect', 0)", "('skip_connect' 0)", "line 1, character"),
    ("('skip_connect', 0)", "('skip_connect', f())", "normal is .*no list and no range"),
    (TEXT, "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|", "line 1, character 1: invalid syntax"),
    (TEXT, "DARTS_V2", "does not begin with Genotype"),
    (TEXT, "", "line"),
    (TEXT, "\0", "genotype"),
    (TEXT, "(" * 5000, "genotype"),
  ],
)
def test_parse_says_where_a_genotype_is_wrong(old, new, message):
  text = TEXT.replace(old, new, 1)
  assert text != TEXT
  with pytest.raises(ArchitectureError, match=message) as caught:
    encoding.parse(text)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [None, 3, b"Genotype()", ["Genotype()"]])
def test_parse_refuses_what_is_no_text(unchecked, value):
  with pytest.raises(ArchitectureError, match="use text such as Genotype"):
    encoding.parse(value)


def test_as_archs_orders_inputs_and_keeps_batches():
  swapped = encoding.slots(ARCH)[:, :, ::-1].reshape(LENGTH)
  np.testing.assert_array_equal(encoding.as_codes(swapped), ARCH)
  assert encoding.as_codes([[ARCH.tolist()]]).shape == (1, 1, LENGTH)
  np.testing.assert_array_equal(encoding.as_codes(TEXT), ARCH)


@pytest.mark.parametrize(
  ("place", "value", "message"),
  [
    (0, 0, r"archs\[1\], normal cell, node 2, input 0: 0 is no op column"),
    (0, 8, r"normal cell, node 2, input 0: 8 is no op column"),
    (29, 4, r"reduce cell, node 5, input 0: 4 is the source of both"),
    (17, 2, r"reduce cell, node 2, input 0: 2 is no earlier node"),
    (31, -1, r"reduce cell, node 5, input 1: -1 is no earlier node"),
  ],
)
def test_as_archs_says_which_entry_is_wrong(place, value, message):
  archs = np.stack([ARCH, ARCH]).astype(np.int64)
  archs[1, 31] = 4
  archs[1, place] = value
  with pytest.raises(ArchitectureError, match=message):
    encoding.as_codes(archs)


@pytest.mark.parametrize("archs", [ARCH.astype(float), ARCH[:31], 5, [[1, 2], [3]], np.zeros(LENGTH, bool), "x"])
def test_as_archs_refuses_other_arrays(archs):
  with pytest.raises(ArchitectureError):
    encoding.as_codes(archs)


def test_single_architecture_is_asked_for():
  with pytest.raises(ArchitectureError, match="give one architecture"):
    encoding.format(np.stack([ARCH, ARCH]))


def test_every_nb301_cell_is_read_and_kept(nb301):
  archs = np.stack([encoding.from_nb301(entry) for entry in nb301])
  assert archs.shape == (363, LENGTH)
  assert len({encoding.canonical(a) for a in archs}) == len(np.unique(archs, axis=0)) == 363
  for arch, entry in zip(archs, nb301, strict=True):
    for cell, pairs in zip(encoding.to_cells(arch), (entry["normal"], entry["reduce"]), strict=True):
      for k in range(4):
        assert sorted(cell[2 * k : 2 * k + 2]) == sorted((op, source) for op, source in pairs[2 * k : 2 * k + 2])


@pytest.mark.parametrize("entry", [None, {"normal": NORMAL}, {"normal": NORMAL, "reduce": 3}, [NORMAL, REDUCE]])
def test_malformed_nb301_entry(entry):
  with pytest.raises(ArchitectureError):
    encoding.from_nb301(entry)


def test_alphas_mark_the_chosen_edges():
  weights = encoding.alphas(ARCH)
  assert weights.dtype == np.float32 and weights.shape == (2, 14, 8)
  marked = {(EDGES[e], OPS[op]) for e, op in np.argwhere(weights[1]).tolist()}
  assert marked == {((2 + i // 2, source), op) for i, (op, source) in enumerate(REDUCE)}
  assert weights.sum() == 16 and encoding.alphas(ARCH[None, None]).shape == (1, 1, 2, 14, 8)


def test_from_alphas_is_the_inverse_of_alphas():
  archs = encoding.sample(jax.random.key(1), 200)
  np.testing.assert_array_equal(derivation.from_weights(encoding.alphas(archs)), archs)
  tenas = encoding.alphas(archs)[..., [OPS.index(op) for op in TENAS_OPS]]
  np.testing.assert_array_equal(derivation.from_weights(tenas, ops=TENAS_OPS), archs)


def derive_by_hand(weights):
  """The rule of the DARTS paper, section 2.4, spelt out for one architecture [2, 14, 8]."""
  cells = []
  for table in weights:
    pairs, start = [], 0
    for node in range(2, 6):
      rows = [row[1:].tolist() for row in table[start : start + node]]
      strongest = sorted(range(node), key=lambda s, rows=rows: -max(rows[s]))[:2]
      pairs += [(OPS[1 + rows[s].index(max(rows[s]))], s) for s in strongest]
      start += node
    cells.append(pairs)
  return encoding.from_cells(*cells)


def test_from_alphas_follows_the_papers_rule_and_its_ties():
  generator = np.random.default_rng(2)
  for weights in (softmax(generator.normal(size=(40, 2, 14, 8))), generator.integers(0, 3, (40, 2, 14, 8))):
    expected = np.stack([derive_by_hand(w) for w in weights])
    np.testing.assert_array_equal(derivation.from_weights(weights), expected)


def test_none_weakens_an_edge_but_is_never_chosen():
  logits = np.zeros((2, 14, 8))
  logits[..., 0] = 5.0
  logits[:, EDGES.index((5, 2)), 0] = 0.0
  slots = encoding.slots(derivation.from_weights(softmax(logits)))
  assert slots[0, 3, :, 1].tolist() == [0, 2] and (slots[..., 0] == 1).all()


def test_reduced_space_takes_the_two_preceding_nodes():
  weights = np.random.default_rng(3).random((2, 14, 8))
  slots = encoding.slots(derivation.from_weights(weights, reduced=True))
  assert slots[0, :, :, 1].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
  assert slots[1, 2, 0, 0] == 1 + weights[1, EDGES.index((4, 2)), 1:].argmax()
  assert (encoding.slots(encoding.sample(jax.random.key(0), 20, reduced=True))[..., 1] == slots[..., 1]).all()


@pytest.mark.parametrize("weights", [np.zeros((2, 14, 7)), np.full((2, 14, 8), np.nan), "abc", [[1], [2, 3]]])
def test_from_alphas_refuses_bad_weights(weights):
  with pytest.raises(ArchitectureError):
    derivation.from_weights(weights)


def test_from_alphas_refuses_other_ops():
  with pytest.raises(ConfigError, match="in the order of the columns"):
    derivation.from_weights(np.zeros((2, 14, 8)), ops=OPS[:7])


@pytest.mark.parametrize(
  "name",
  ["trace_darts_real", *(f"inject_darts_{n}" for n in ("smooth_prune2_r3", "smooth_prune3_r3", "ties_prune3_r1"))],
)
def test_derivation_of_every_round_of_the_tenas_traces(fixtures, name):
  trace = np.load(fixtures / f"tenas/f6_{name}.npz")
  steps = [f"r{i}/" for i in range(int(trace["n_rounds"]))]
  checks = [(f"{s}alphas_after_", f"{s}genotype_after") for s in steps] + [("final_alphas_", "final_genotype")]
  for alphas, genotype in checks:
    weights = softmax(np.stack([trace[f"{alphas}{cell}"] for cell in (0, 1)]).astype(np.float64))
    found = derivation.from_weights(weights, ops=TENAS_OPS)
    np.testing.assert_array_equal(found, encoding.parse(str(trace[genotype])))


def test_sample_is_valid_distinct_uniform_and_a_prefix():
  archs = encoding.sample(jax.random.key(4), 4000)
  assert archs.shape == (4000, LENGTH) and len(np.unique(archs, axis=0)) == 4000
  np.testing.assert_array_equal(encoding.as_codes(archs), archs)
  np.testing.assert_array_equal(encoding.sample(jax.random.key(4), 10), archs[:10])
  np.testing.assert_array_equal(encoding.sample(jax.random.key(4), 10, unique=False), archs[:10])
  assert not np.array_equal(encoding.sample(jax.random.key(5), 10), archs[:10])
  slots = encoding.slots(archs)
  ops = (slots[..., None, 0] == np.arange(1, 8)).mean(0)
  assert abs(ops - 1 / 7).max() < 0.03  # 5 standard deviations
  pairs = np.unique(slots[:, 1, 3, :, 1], axis=0, return_counts=True)[1]
  assert len(pairs) == 10 and abs(pairs / 4000 - 0.1).max() < 0.025


@pytest.mark.parametrize("n", [-1, 1.5, True, "3"])
def test_sample_refuses_bad_counts(unchecked, n):
  with pytest.raises(ConfigError, match="use an integer >= 0"):
    encoding.sample(jax.random.key(0), n)
  assert encoding.sample(jax.random.key(0), 0).shape == (0, LENGTH)


def edges_of(arch):
  return {(*place[:2], *place[2:]) for place in map(tuple, np.argwhere(encoding.alphas(arch)).tolist())}


def test_neighbours_differ_in_one_edge_and_are_all_different():
  found = encoding.neighbours(ARCH)
  assert found.shape == (120, LENGTH) and len(np.unique(found, axis=0)) == 120
  for child in found:
    lost, won = edges_of(ARCH) - edges_of(child), edges_of(child) - edges_of(ARCH)
    assert len(lost) == len(won) == 1
    (cell, edge, op), (cell_2, edge_2, op_2) = *lost, *won
    assert cell == cell_2 and (edge == edge_2) != (op == op_2)
    assert EDGES[edge][0] == EDGES[edge_2][0]
  assert len(encoding.neighbours(ARCH, reduced=True)) == 96


def test_mutate_is_a_neighbour_and_reaches_many():
  names = {encoding.format(a) for a in encoding.neighbours(ARCH)}
  children = {encoding.format(encoding.mutate(jax.random.key(i), TEXT)) for i in range(100)}
  assert children <= names and len(children) > 50
  np.testing.assert_array_equal(encoding.mutate(jax.random.key(9), ARCH), encoding.mutate(jax.random.key(9), ARCH))


def test_canonical_forgets_the_numbering_of_nodes_only():
  normal = [("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_5x5", 0), ("dil_conv_3x3", 1)]
  tail = [("avg_pool_3x3", 2), ("max_pool_3x3", 3), ("dil_conv_5x5", 2), ("sep_conv_3x3", 4)]
  swapped = [("avg_pool_3x3", 3), ("max_pool_3x3", 2), ("dil_conv_5x5", 3), ("sep_conv_3x3", 4)]
  one = encoding.from_cells(normal + tail, REDUCE)
  other = encoding.from_cells(normal[2:] + normal[:2] + swapped, REDUCE)
  assert encoding.format(one) != encoding.format(other)
  assert encoding.canonical(one) == encoding.canonical(other)
  np.testing.assert_array_equal(encoding.parse(encoding.canonical(one)), encoding.parse(encoding.canonical(other)))
  third = encoding.from_cells(normal[2:] + normal[:2] + tail, REDUCE)  # rewired, not renumbered
  assert encoding.canonical(third) != encoding.canonical(one)


def test_all_published_genotypes_are_distinct_and_unknown_names_are_refused(unchecked):
  archs = [genotypes.get(name) for name in genotypes.NAMES]
  assert len({encoding.canonical(a) for a in archs}) == len(archs) == 7
  with pytest.raises(ArchitectureError, match="choose among DARTS_V1, DARTS_V2"):
    genotypes.lookup("NASNet")
  with pytest.raises(ArchitectureError, match="not known"):
    genotypes.get(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
  "paste",
  [
    lambda text: f"genotype = {text}",
    lambda text: f"03/12 10:11:12 PM genotype = {text}",
    lambda text: f"INFO: (step 3) best is {text}, at last (epoch 50)",
    lambda text: text.replace("range(2, 6)", "array([2, 3, 4, 5])"),
    lambda text: text.replace("range(2, 6)", "np.array([2, 3, 4, 5], dtype=int8)"),
    lambda text: text.replace(" 1)", " np.int64(1))").replace("range(2, 6)", "[np.int64(2), 3, 4, 5]"),
    lambda text: f"\n\t{text}\n",
  ],
)
def test_what_people_paste_is_understood(paste):
  text = encoding.format(genotypes.get("PDARTS"))
  np.testing.assert_array_equal(encoding.parse(paste(text)), genotypes.get("PDARTS"))

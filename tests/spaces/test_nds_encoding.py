"""Network Design Spaces as integers and text: what is read, and what is refused."""

import copy
import json

import jax
import numpy as np
import pytest
from nds_cases import BLOCKS, CELLS, ENAS, FILES, RESNEXT, any_cells, rows_of

from jaxnas import spaces
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nds.cells import encoding

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", FILES)
def test_rows_of_the_table_are_architectures_of_the_space(shared, name):
  space, seen = spaces.get(name), set()
  for row in rows_of(shared, name):
    code = space.from_net(row["net"])
    np.testing.assert_array_equal(space.parse(json.dumps(row["net"])), code)
    np.testing.assert_array_equal(space.parse(space.format(code)), code)
    assert space.is_connected(code)
    seen.add(space.canonical(code))
    if name in CELLS and not space.table.all_nodes:
      own = encoding.genotype(space.table, code)
      assert own.concat == tuple(encoding.loose_ends(slots) for slots in own.slots)
  assert len(seen) == len(rows_of(shared, name))


def test_code_of_a_genotype():
  space = spaces.get("nds_enas")
  code = space.from_net(ENAS)
  assert code.dtype == np.int16 and code.shape == (52,)
  np.testing.assert_array_equal(
    code[:6], [32, 14, space.ops.index("sep_conv_3x3"), 0, space.ops.index("avg_pool_3x3"), 1]
  )
  np.testing.assert_array_equal(code[22:27], [0, 0, 0, 0, 1])
  np.testing.assert_array_equal(code[47:], [0, 0, 1, 1, 1])
  text = space.format(code)
  assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('avg_pool_3x3', 1), ")
  assert text.endswith(", reduce_concat=[4, 5, 6], width=32, depth=14)")
  assert space.shape(code) == (32, 14)


def test_code_of_stages():
  space = spaces.get("nds_resnext_a")
  code = space.from_net(RESNEXT)
  np.testing.assert_array_equal(code, [64, 2, 2, 2, 16, 128, 128, 1, 2, 1, 2, 4, 2])
  assert space.format(code) == (
    "Network(block_type='res_bottleneck_block', ds=[1, 2, 2, 2], ws=[64, 16, 128, 128], ss=[8, 1, 2, 2], "
    "bot_muls=[1.0, 0.25, 0.5, 0.25], num_gs=[1, 2, 4, 2])"
  )
  assert len(space) == 5**3 * 5**3 * 3**3 * 3**3
  assert space.shape(code) == tuple(code.tolist())


def changed(net, path, value):
  net = copy.deepcopy(net)
  inner = net
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = value
  return net


CELL = ("genotype", "normal")


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("width",), 33, "width is 33; use an even number"),
    (("width",), 32.0, r"width is 32.0; use an integer from 2"),
    (("depth",), 0, "depth is 0; use an integer from 1"),
    (("depth",), True, "depth is True"),
    (("aux",), True, "network: field 'aux' is unknown"),
    (("genotype",), [1], r"genotype is \[1\]; use a mapping"),
    ((*CELL, 0), ["sep_conv_3x3", 2], r"normal\[0\]: the state of node 2 is 2; use an integer from 0 to 1"),
    ((*CELL, 9), ["sep_conv_3x3", -1], r"normal\[9\]: the state of node 6 is -1"),
    ((*CELL, 3), ["sep_conv_7x7", 0], r"normal\[3\]: nds_enas has no op 'sep_conv_7x7'; it has skip_connect, "),
    ((*CELL, 3), ["none", 0], r"normal\[3\]: nds_enas has no op 'none'"),
    ((*CELL, 3), ["skip_connect"], r"normal\[3\], a pair .op, state.: got 1 entries"),
    ((*CELL, 3), [["skip_connect"], 0], r"normal\[3\]: nds_enas has no op \['skip_connect'\]"),
    (CELL, [], "normal: got 0 entries; use a list of 10"),
    (("genotype", "normal_concat"), [], r"normal_concat is \[\]; name nodes 2..6"),
    (("genotype", "normal_concat"), [6, 6], r"normal_concat is \[6, 6\]"),
    (("genotype", "reduce_concat"), [1, 6], "reduce_concat is 1; use an integer from 2 to 6"),
    (("genotype", "reduce_concat"), 6, "reduce_concat: got 6; use a list"),
  ],
)
def test_illegal_genotypes_are_refused(path, value, message):
  with pytest.raises(ArchitectureError, match=message) as error:
    spaces.get("nds_enas").from_net(changed(ENAS, path, value))
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("block_type",), "res_basic_block", "block_type is 'res_basic_block'; blocks of nds_resnext_a are res_bottleneck"),
    (("ss",), [4, 1, 2, 2], r"ss is \[4, 1, 2, 2\]; strides of nds_resnext_a are \[8, 1, 2, 2\]"),
    (("ds",), [1, 2, 2], "ds: got 3 entries; use a list of 4"),
    (("ds", 0), 2, r"ds\[0\] is 2; entry 0 is the stem"),
    (("ds", 1), 0, r"ds\[1\] is 0; use an integer from 1"),
    (("ws", 0), 63, "stem: 63 channels are odd"),
    (("ws", 2), "64", r"ws\[2\] is '64'"),
    (("num_gs", 2), 3, "stage 2: 64.0 inner channels .* are not divided by the groups"),
    (("ws", 1), 18, "stage 1: 4.5 inner channels .* are no integer"),
    (("bot_muls", 1), 0.3, r"bot_muls\[1\] is 0.3; use a multiple of 0.25"),
    (("num_gs", 0), 2, r"bot_muls\[0\], num_gs\[0\] are 1.0, 2"),
    (("num_gs",), [], "num_gs: got 0 entries"),
  ],
)
def test_illegal_stages_are_refused(path, value, message):
  with pytest.raises(ArchitectureError, match=message) as error:
    spaces.get("nds_resnext_a").from_net(changed(RESNEXT, path, value))
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
  ("space", "text", "message"),
  [
    ("nds_enas", "DARTS_V2", r"does not begin with Genotype\(...\); use Genotype"),
    ("nds_enas", "Genotype([1])", "has no name in front of it"),
    ("nds_enas", "Genotype(width=32, width=32)", "field 'width' is given twice"),
    ("nds_enas", "Genotype(**{})", "field None is no name"),
    ("nds_enas", "Genotype(width=open('x'))", "width is .*open.*, no literal"),
    ("nds_enas", "Genotype(width=range(10 ** 9))", "width is"),
    ("nds_enas", "Genotype(normal=[])", "network lacks the field width"),
    ("nds_enas", '{"width": 32', "is no JSON"),
    ("nds_enas", "{}", "network lacks the field width"),
    ("nds_enas", "[1, 2]", "does not begin"),
    ("nds_enas", "\0", "network"),
    ("nds_enas", "(" * 5000, "network"),
    ("nds_enas", json.dumps(RESNEXT), "network lacks the field width|genotype"),
    ("nds_resnext_a", json.dumps(ENAS), "network lacks the field block_type"),
    ("nds_resnext_a", "Genotype(ds=[1])", r"does not begin with Network\(...\)"),
  ],
)
def test_texts_that_are_no_network_are_refused(space, text, message):
  with pytest.raises(ArchitectureError, match=message) as error:
    spaces.get(space).parse(text)
  assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("value", [None, 3, b"Genotype()"])
def test_parse_refuses_what_is_no_text(unchecked, value):
  for name in ("nds_enas", "nds_resnext_a"):
    with pytest.raises(ArchitectureError, match="use text such as"):
      spaces.get(name).parse(value)


def test_a_range_names_a_concat_set():
  space = spaces.get("nds_darts")
  code = space.sample(KEY, 1)[0]
  text = space.format(code).replace("[2, 3, 4, 5]", "range(2, 6)", 1)
  assert "range" in text
  np.testing.assert_array_equal(space.parse(text), code)
  with pytest.raises(ArchitectureError, match=r"normal_concat is \[3, 4, 5\]; a cell of nds_darts concatenates all"):
    space.parse(space.format(code).replace("[2, 3, 4, 5]", "[3, 4, 5]", 1))


def test_integers_out_of_range_are_named():
  space = spaces.get("nds_enas")
  code = space.from_net(ENAS).astype(np.int64)
  for place, value, message in (
    (0, 31, "width modulo 2"), (0, 5000, r"arch, width: 5000 is out of range; use 2..4096"), (1, 0, "depth: 0"),
    (2, 5, r"normal\[0\], op column: 5"), (3, 2, r"normal\[0\], state of node 2: 2 .* use 0..1"),
    (26, 0, "normal_concat, largest entry: 0"), (27, -1, r"reduce\[0\], op column: -1"), (51, 2, "reduce_concat"),
  ):  # fmt: skip
    wrong = code.copy()
    wrong[place] = value
    with pytest.raises(ArchitectureError, match=message):
      space.as_codes(wrong)
    with pytest.raises(ArchitectureError, match=r"archs\[1\]"):
      space.as_codes(np.stack([code, wrong]))


def test_only_the_order_of_inputs_is_no_difference():
  space = spaces.get("nds_enas")
  swapped = changed(ENAS, (*CELL, 0), ENAS["genotype"]["normal"][1])
  swapped = changed(swapped, (*CELL, 1), ENAS["genotype"]["normal"][0])
  one, two = space.from_net(ENAS), space.from_net(swapped)
  assert (one != two).any() and space.canonical(one) == space.canonical(two)
  assert space.canonical(one) != space.canonical(space.from_net(changed(ENAS, ("depth",), 18)))


def test_connection_goes_through_the_cells_that_the_depth_has():
  """Normal cells pass their second input on, reduction cells their first, or nothing."""
  table = any_cells(2)

  def cells(normal, reduce, depth):
    slots = [(table.ops.index(op), state) for op, state in (*normal, *reduce)]
    own = encoding.Genotype(4, depth, (tuple(slots[:4]), tuple(slots[4:])), ((2, 3), (2, 3)))
    return encoding.is_connected(table, encoding.join(2, own))

  none = [("none", 0), ("none", 1)] * 2
  second = [("skip_connect", 1), ("none", 0), ("none", 2), ("none", 1)]
  first = [("none", 1), ("skip_connect", 0), ("none", 2), ("none", 1)]
  assert cells(none, second, 1) and not cells(second, none, 1)  # the only cell is a reduction cell
  assert cells(second, first, 3) and not cells(none, first, 6)
  assert cells(first, none, 6) and not cells(second, none, 6)  # the first reads past the reduction cells
  dead = [("none", 0), ("none", 1), ("skip_connect", 2), ("none", 0)]
  assert not cells(dead, dead, 6)


@pytest.mark.parametrize("name", FILES)
def test_draws_have_the_values_of_the_table(name):
  space = spaces.get(name)
  codes = space.sample(KEY, 40)
  assert all(space.costs(code).params <= space.table.most_params for code in codes)
  if name in CELLS:
    assert set(codes[:, 0]) <= set(space.table.widths) and set(codes[:, 1]) <= set(space.table.depths)
    return
  stages = space.table.stages
  assert set(codes[:, 0]) <= set(space.table.stem_widths)
  assert set(codes[:, 1 : stages + 1].ravel()) <= set(space.table.depths)


@pytest.mark.parametrize("name", [BLOCKS[1], CELLS[0]])
def test_neighbours_change_one_thing(name):
  space = spaces.get(name)
  code = space.sample(KEY, 1)[0]
  for other in space.neighbours(code):
    if name in BLOCKS:
      assert (other != code).sum() == 1
    else:
      own, theirs = (encoding.genotype(space.table, one) for one in (code, other))
      changes = sum(a != b for c, d in zip(own.slots, theirs.slots, strict=True) for a, b in zip(c, d, strict=True))
      assert changes + (own.width != theirs.width) + (own.depth != theirs.depth) == 1
      assert theirs.concat == tuple(encoding.loose_ends(slots) for slots in theirs.slots)


def test_other_concat_sets_stay_as_they_are():
  space = spaces.get("nds_enas")
  code = space.from_net(changed(ENAS, ("genotype", "normal_concat"), [2, 6]))
  for other in space.neighbours(code):
    assert encoding.genotype(space.table, other).concat == ((2, 6), (4, 5, 6))


def test_gennas_mutation_of_stages_takes_a_near_one_of_the_table():
  """Of a fourth of it, drawn: never the parent, nearer than chance, and not always the same."""
  space = spaces.get("nds_resnext_a")
  parent = space.from_net(RESNEXT)
  among = np.concatenate([space.sample(jax.random.key(1), 59), parent[None]])
  rank = {tuple(code): i for i, code in enumerate(among[np.argsort((among != parent[None]).sum(1), kind="stable")])}
  found = [space.nearest(key, parent, among) for key in jax.random.split(KEY, 20)]
  assert all(rank[tuple(child)] > 0 for child in found)
  assert np.mean([rank[tuple(child)] for child in found]) < 10 and len({tuple(child) for child in found}) > 1
  with pytest.raises(ConfigError, match="no other architecture than the parent"):
    space.nearest(KEY, parent, parent[None])
  child = space.resample(KEY, parent)  # in all of the space
  np.testing.assert_array_equal(child, space.resample(KEY, parent))
  assert 0 < (child != parent).sum() < 8
